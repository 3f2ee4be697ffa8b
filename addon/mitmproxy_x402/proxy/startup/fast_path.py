"""Replaces functions of mitmproxy's by faster ones with the same effects, for as long as the addon is loaded.

PATCHES lists them all. A patch is applied only if the source of mitmproxy's function is the one that the patch was
written for and nobody else has replaced it; everything works without it. `undo` restores mitmproxy's functions, except
where another script has since replaced ours: its replacement may still call ours, which has the same effects.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import linecache
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mitmproxy import optmanager

from .. import dispatch
from ..heads import header_index


@dataclass(frozen=True)
class Patch:
    """One function that is replaced."""

    module: str
    name: str
    """The function's name with its class: `Headers.get_all`."""
    function: Any
    """The faster function."""
    sources: frozenset[str]
    """`digest` of mitmproxy's function in the versions that `function` was written for."""
    gain: str
    """Share of a paid request's machine instructions that it saves: as the only patch, and besides the others."""
    beneath: tuple[str, ...] = ()
    """Other functions whose work `function` does: `module:Class.name`."""

    def owner(self) -> Any:
        """The class of the function. Raises ImportError or AttributeError: mitmproxy has moved it."""
        return _class(self.module, self.name)

    @property
    def attribute(self) -> str:
        """The function's name within its class."""
        return self.name.partition(".")[2]


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name.partition(".")[0])


_is_wanted = False
_originals: dict[str, Any] = {}
"""mitmproxy's own functions, by `Patch.name`."""
_ABSENT: Any = object()


def _emit(self: Any, record: Any) -> None:
    """Replaces `LegacyLogEvents.emit`: schedules the event only if an addon has the hook `add_log`."""
    other_thread = asyncio._get_running_loop() is not self.master.event_loop
    if other_thread or dispatch.index_of(self.master.addons).listens("add_log"):
        _originals["LegacyLogEvents.emit"](self, record)


def _option(self: Any, attr: str) -> Any:
    """Replaces `OptManager.__getattr__`: copies only what can be changed. A request reads some thirty options."""
    option = self._options.get(attr)
    if option is None:
        raise AttributeError(f"No such option: {attr}")
    value = option._default if option.value is optmanager.unset else option.value
    return value if type(value) in _UNCHANGEABLE else option.current()


_UNCHANGEABLE = frozenset((bool, int, float, str, bytes, type(None)))


def _row(target: str, function: Any, sources: str, gain: str, *beneath: str) -> Patch:
    module, _, name = target.partition(":")
    return Patch(module, name, function, frozenset(sources.split()), gain, beneath)


PATCHES: tuple[Patch, ...] = (
    _row(
        "mitmproxy.addonmanager:AddonManager.trigger_event",
        dispatch.trigger_event,
        "4fe7e86dbe6c",
        "48 %, 51 %",
        *(
            f"mitmproxy.addonmanager:AddonManager.{name}"
            for name in ("invoke_addon", "_iter_hooks", "handle_lifecycle")
        ),
        *(
            "mitmproxy.proxy.mode_servers:ProxyConnectionHandler.handle_hook",
            "mitmproxy.proxy.server:ConnectionHandler.hook_task",
        ),
    ),
    _row("mitmproxy.http:MessageData.__post_init__", lambda _: None, "f65088e210cd", "6 %, 12 %"),
    _row("mitmproxy.log:LegacyLogEvents.emit", _emit, "422923602275", "4 %, 10 %"),
    _row("mitmproxy.http:Headers.get_all", header_index.get_all, "367b3317bc2b", "1.5 %, 4 %"),
    _row(
        "mitmproxy.optmanager:OptManager.__getattr__",
        _option,
        "a544ad290f13",
        "0.5 %, 1.5 %",
        "mitmproxy.optmanager:_Option.current",
    ),
)
"""All functions that are replaced."""


def digest(patch: Patch) -> str:
    """A hash of the source that `patch` replaces. Raises ImportError or AttributeError: it is gone.

    `inspect.getsource` would follow `functools.wraps` and search every loaded module.
    """
    source = ""
    for module, _, name in [target.partition(":") for target in (f"{patch.module}:{patch.name}", *patch.beneath)]:
        code = inspect.getattr_static(_class(module, name), name.partition(".")[2]).__code__
        source += "".join(inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]))
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def apply() -> list[str]:
    """Apply every patch that fits this mitmproxy. Returns the names of the others."""
    global _is_wanted  # noqa: PLW0603  # mitmproxy's classes, which it is about, are global, too
    _is_wanted = True
    left_out = []
    for patch in PATCHES:
        if _is_in_place(patch):
            continue
        try:
            can_be = digest(patch) in patch.sources
        except Exception:  # mitmproxy works without the patch, whatever the error
            can_be = False
        if can_be:
            _originals[patch.name] = vars(patch.owner()).get(patch.attribute, _ABSENT)
            setattr(patch.owner(), patch.attribute, patch.function)
        else:
            left_out.append(patch.name)
    return left_out


def _is_in_place(patch: Patch) -> bool:
    return patch.name in _originals and vars(patch.owner()).get(patch.attribute) is patch.function


def undo(soon: Callable[[Callable[[], None]], object]) -> None:
    """Restore mitmproxy's functions; `soon` schedules a call in the next iteration of the event loop."""
    global _is_wanted  # noqa: PLW0603  # as above
    _is_wanted = False
    if dispatch.has_unfinished():
        soon(_undo)
    else:
        _undo()


def _undo() -> None:
    for patch in () if _is_wanted else PATCHES:  # a reloaded script may need them again by now
        if not _is_in_place(patch):
            continue
        original = _originals[patch.name]
        if original is _ABSENT:
            delattr(patch.owner(), patch.attribute)
        else:
            setattr(patch.owner(), patch.attribute, original)
