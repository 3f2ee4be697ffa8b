"""Calls a hook only on the addons that have it, where mitmproxy asks every one of some forty for each hook."""

from __future__ import annotations

import contextvars
import inspect
import itertools
import weakref
from collections.abc import Awaitable, Generator, Iterator
from typing import Any, cast

from mitmproxy import exceptions, http

from .exchange import X402ChallengeHook
from .internals import AddonManager, commands, hooks, safecall

FLOW_HOOKS = frozenset(("requestheaders", "request", X402ChallengeHook.name, "responseheaders", "response"))
"""The hooks that every request passes; each has a flow and nothing else."""

_INDEX = "x402_hook_index"
"""Attribute of an addon manager that keeps its `HookIndex`."""
_BEGUN = "x402_begun"
"""Attribute of a hook event that `run_at_once` has begun, and `trigger_event` is to end."""
_OWN_PACKAGES = ("mitmproxy.addons.", __name__.partition(".")[0] + ".")
"""Addons of these are looked through once: their hooks are methods, and stay what they are."""

Asked = list[list[Any]]
"""The addons to ask: those of each entry of the chain, itself and its children, together."""
_Calls = Generator["Awaitable[Any]", None, None]


class HookIndex:
    """The addons that have each hook, in mitmproxy's order; looked up anew when an addon has come, gone or moved.

    Other people's addons are asked for every hook, as mitmproxy does: theirs may come and go as they like.
    """

    def __init__(self, addons: AddonManager) -> None:
        self.addons = addons
        self._asked: dict[str, Asked] = {}
        self._chain: list[Any] = []
        self._parents: list[tuple[Any, tuple[Any, ...]]] = []
        self._families: list[list[Any]] = []

    def look_again(self) -> None:
        """Take note of addons that have come, gone or moved."""
        if self._chain != self.addons.chain:
            self._look_around()
            return
        for parent, children in self._parents:
            if tuple(getattr(parent, "addons", ())) != children:
                self._look_around()
                return

    def asked(self, name: str) -> Asked:
        """Whom to ask when the hook of that name fires."""
        asked = self._asked.get(name)
        if asked is None:
            every = [[_stand_in(each, name) for each in family if _may_have(each, name)] for family in self._families]
            asked = self._asked[name] = [family for family in every if family]
        return asked

    def listens(self, name: str) -> bool:
        """Whether any addon has that hook by now."""
        for family in self.asked(name):
            for each in family:
                if getattr(each, name, None):
                    return True
        return False

    def _look_around(self) -> None:
        self._asked.clear()
        self._chain = list(self.addons.chain)
        self._families = [list(_traverse(addon)) for addon in self._chain]
        self._parents = [
            (each, tuple(getattr(each, "addons", ())))
            for family in self._families
            for each in family
            if hasattr(each, "addons") or not _is_own(each)
        ]


def _traverse(addon: Any) -> Generator[Any, None, None]:
    yield addon
    for child in getattr(addon, "addons", ()):
        yield from _traverse(child)


def _is_own(addon: Any) -> bool:
    return type(addon).__module__.startswith(_OWN_PACKAGES)


def _may_have(addon: Any, name: str) -> bool:
    return not _is_own(addon) or getattr(addon, name, None) is not None


class _Onboarding:
    """mitmproxy's page with its certificate, asked only where it has something to serve: asking takes a task."""

    def __init__(self, addon: Any) -> None:
        self._addon = addon

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        waits: Awaitable[None] | None = self._addon.request(flow) if self._addon.should_serve(flow) else None
        return waits


def _stand_in(addon: Any, name: str) -> Any:
    kind = type(addon)  # by its name, since to import it imports all of mitmproxy's addons
    is_onboarding = (kind.__module__, kind.__name__) == ("mitmproxy.addons.onboarding", "Onboarding")
    return _Onboarding(addon) if is_onboarding and name == "request" else addon


def index_of(addons: AddonManager) -> HookIndex:
    """The index of `addons` as they are now."""
    index: HookIndex | None = vars(addons).get(_INDEX)
    if index is None:
        index = vars(addons)[_INDEX] = HookIndex(addons)
    index.look_again()
    return index


async def trigger_event(self: AddonManager, event: hooks.Hook) -> None:
    """`AddonManager.trigger_event`: calls the hook on every addon that has it, or on those `run_at_once` has left."""
    begun = vars(event).pop(_BEGUN, None) or _Begun(index_of(self), event)
    calls, waits = begun.calls, begun.waits
    while waits is not None:
        try:
            await waits
        except Exception as error:  # noqa: PERF203
            waits = _throw(calls, error)
        else:
            waits = next(calls, None)


_HANDLE_LIFECYCLE = getattr(AddonManager, "handle_lifecycle", None)


def run_at_once(addons: AddonManager, event: commands.StartHook) -> bool:
    """Call the hook on every addon that has it, without a task of its own. False: `addons` has to see to the rest.

    So it is where an addon wants to wait, where the flow was intercepted, where somebody follows the updates of flows,
    and where mitmproxy's way of calling hooks is not, or not any more, the one of this module.
    """
    if event.name not in FLOW_HOOKS or not _is_in_place(addons):
        return False
    index, flow = index_of(addons), cast(Any, event).flow
    if index.listens("update"):
        return False
    begun = contextvars.copy_context().run(_Begun, index, event)  # as in a task: what a hook sets there ends with it
    if begun.waits is None and not flow.intercepted:
        return True
    vars(event)[_BEGUN] = begun
    _unfinished.add(begun)
    return False


def _is_in_place(addons: AddonManager) -> bool:
    return (
        getattr(addons.trigger_event, "__func__", None) is trigger_event
        and getattr(addons.handle_lifecycle, "__func__", None) is _HANDLE_LIFECYCLE
    )


class _Begun:
    """The calls of a hook, up to the first that is to be waited for."""

    def __init__(self, index: HookIndex, event: hooks.Hook) -> None:
        self.calls = _call(index, event)
        self.waits = next(self.calls, None)


_unfinished: weakref.WeakSet[_Begun] = weakref.WeakSet()


def has_unfinished() -> bool:
    """Whether a hook was begun that only `trigger_event` can end; it has its turn in this round of the event loop."""
    return bool(_unfinished)


def _call(index: HookIndex, event: hooks.Hook) -> _Calls:
    """Call the hooks; yields what is to be waited for in between."""
    name = event.name
    arguments = (cast(Any, event).flow,) if name in FLOW_HOOKS else event.args()
    for family in itertools.chain(index.asked(name), _added(index.addons.chain)):
        try:
            for addon in family:
                hook = getattr(addon, name, None)
                if not hook:
                    continue
                if not callable(hook):
                    if inspect.ismodule(hook):  # imported under the name of a hook
                        continue
                    raise exceptions.AddonManagerError(f"Addon handler {name} ({addon}) not callable")
                result = hook(*arguments)
                if result is not None and inspect.isawaitable(result):
                    yield result
        except exceptions.AddonHalt:  # costs nothing until it happens
            return
        except Exception:  # the rest of the family is skipped, as mitmproxy does
            with safecall():
                raise


def _added(chain: list[Any]) -> Iterator[Iterator[Any]]:
    """Addons that are added to `chain` from now on, each with its children: mitmproxy asks them in the same round."""
    return map(_traverse, itertools.islice(chain, len(chain), None))  # goes on to the end that the list has by then


def _throw(calls: _Calls, error: Exception) -> Awaitable[Any] | None:
    try:
        return calls.throw(error)
    except StopIteration:
        return None
