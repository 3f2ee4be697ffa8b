"""Replaces functions of mitmproxy's by faster ones with the same effects, for as long as the addon is loaded.

PATCHES is all of it. A row is put in place where mitmproxy's function reads as it did when the row was written, and
nobody else has replaced it; otherwise it stays out, and everything works without it. `undo` puts mitmproxy's own back,
but where somebody has put theirs over ours since: what theirs calls has the same effects still.
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

from .. import dispatch, header_index


@dataclass(frozen=True)
class Patch:
    """One function that is replaced."""

    module: str
    name: str
    """Of the function, with its class: `Headers.get`."""
    function: Any
    """What has the same effects in less time."""
    sources: frozenset[str]
    """What `digest` gives for the versions of mitmproxy that `function` was written for."""
    gain: str
    """What the row saves of a paid request's machine instructions: alone, and beside all the others."""
    beneath: tuple[str, ...] = ()
    """Other functions that `function` does the work of: `module:Class.name`."""

    def owner(self) -> Any:
        """The class that has the function. Raises ImportError or AttributeError: mitmproxy has moved it."""
        return _class(self.module, self.name)

    @property
    def attribute(self) -> str:
        """The function's name within its class."""
        return self.name.partition(".")[2]


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name.partition(".")[0])


_is_wanted = False
_originals: dict[str, Any] = {}
"""mitmproxy's own functions, by the names of their rows."""
_ABSENT: Any = object()


def _emit(self: Any, record: Any) -> None:
    """`LegacyLogEvents.emit`, which wakes the event loop up only where an addon has the hook `add_log`."""
    other_thread = asyncio._get_running_loop() is not self.master.event_loop
    if other_thread or dispatch.index_of(self.master.addons).listens("add_log"):
        _originals["LegacyLogEvents.emit"](self, record)


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
)
"""All functions that are replaced."""


def digest(patch: Patch) -> str:
    """Of the source of what `patch` replaces. Raises ImportError, AttributeError: it is gone.

    Not by `inspect.getsource`, which looks behind `functools.wraps`, and at every module that is loaded.
    """
    source = ""
    for module, _, name in [target.partition(":") for target in (f"{patch.module}:{patch.name}", *patch.beneath)]:
        code = inspect.getattr_static(_class(module, name), name.partition(".")[2]).__code__
        source += "".join(inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :]))
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def apply() -> list[str]:
    """Put every row in place that can be. Returns the names of the others."""
    global _is_wanted  # noqa: PLW0603  # as what it says of: mitmproxy's classes
    _is_wanted = True
    left_out = []
    for patch in PATCHES:
        if _is_in_place(patch):
            continue
        try:
            can_be = digest(patch) in patch.sources
        except Exception:  # whatever it is: mitmproxy works without
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
    """Put mitmproxy's own functions back; `soon` has a function called in the next round of the event loop."""
    global _is_wanted  # noqa: PLW0603  # as above
    _is_wanted = False
    if dispatch.has_unfinished():
        soon(_undo)
    else:
        _undo()


def _undo() -> None:
    for patch in () if _is_wanted else PATCHES:  # a script that is loaded again wants them by now
        if not _is_in_place(patch):
            continue
        original = _originals[patch.name]
        if original is _ABSENT:
            delattr(patch.owner(), patch.attribute)
        else:
            setattr(patch.owner(), patch.attribute, original)
