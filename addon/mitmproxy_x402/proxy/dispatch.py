"""Calls each hook only on the addons that have it, where mitmproxy tries all of its forty addons."""

from __future__ import annotations

import contextvars
import functools
import inspect
import itertools
import weakref
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from mitmproxy import exceptions, http
from mitmproxy.net.http import url

from .exchange import X402ChallengeHook, X402LeavingHook
from .internals import AddonManager, commands, events, hooks, safecall

FLOW_HOOKS = frozenset(
    ("requestheaders", "request", X402ChallengeHook.name, X402LeavingHook.name, "responseheaders", "response", "error")
)
"""The hooks that every paid request may pass; each has a flow and nothing else.

None is left out, so that no hook overtakes `error`: a request after a cancelled one finds the payment of that.
"""

_INDEX = "x402_hook_index"
"""Attribute of an addon manager that keeps its `HookIndex`."""
_BEGUN = "x402_begun"
"""Attribute of a hook event that `run_at_once` has started and `trigger_event` is to finish."""
_OWN_PACKAGES = ("mitmproxy.addons.", __name__.partition(".")[0] + ".")
"""Packages whose addons are inspected once: their hooks are methods and do not change."""

_NO_ADDONS: list[Any] = []
Asked = list[list[Any]]
"""The addons to call, grouped by entry of the chain: the entry itself and its children."""
_Calls = Generator["Awaitable[Any]", None, None]


class HookIndex:
    """The addons that have each hook, in mitmproxy's order; rebuilt when an addon is added, removed or moved.

    Addons of other packages are tried for every hook, as mitmproxy does: they may gain and lose hooks at any time.
    """

    def __init__(self, addons: AddonManager) -> None:
        self.addons = addons
        self._asked: dict[str, Asked] = {}
        self._chain: list[Any] = []
        self._parents: list[tuple[Any, list[Any]]] = []
        self._families: list[list[Any]] = []

    def look_again(self) -> None:
        """Rebuild the index if addons have been added, removed or moved."""
        if self._chain != self.addons.chain:
            self._look_around()
            return
        for parent, children in self._parents:
            now = getattr(parent, "addons", _NO_ADDONS)
            if (now if type(now) is list else list(now)) != children:
                self._look_around()
                return

    def asked(self, name: str) -> Asked:
        """The addons to call when the hook of that name fires."""
        asked = self._asked.get(name)
        if asked is None:
            every = [[_stand_in(each, name) for each in family if _may_have(each, name)] for family in self._families]
            asked = self._asked[name] = [family for family in every if family]
        return asked

    def listens(self, name: str) -> bool:
        """Whether any addon has the hook of that name."""
        asked = self._asked.get(name)
        for family in self.asked(name) if asked is None else asked:
            for each in family:
                if getattr(each, name, None):
                    return True
        return False

    def _look_around(self) -> None:
        self._asked.clear()
        self._chain = list(self.addons.chain)
        self._families = [list(_traverse(addon)) for addon in self._chain]
        self._parents = [
            (each, list(getattr(each, "addons", ())))
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


class StandIn:
    """Is called in place of one of mitmproxy's addons, which it calls only if that has something to do."""

    def __init__(self, addon: Any) -> None:
        self.addon = addon


class _Onboarding(StandIn):
    """Stands in for mitmproxy's page with its certificate: each call of it costs a task."""

    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        asked = flow.request.host_header
        if (_host_of(asked) if asked else flow.request.host) != self.addon.host or not self.addon.should_serve(flow):
            return None
        waits: Awaitable[None] | None = self.addon.request(flow)
        return waits


@functools.lru_cache(maxsize=64)
def _host_of(authority: str) -> str:
    """The host of a Host header, as `Request.pretty_host` has it."""
    return url.parse_authority(authority, check=False)[0]


class _MapLocal(StandIn):
    """Stands in for mitmproxy's option `map_local`, which looks at each request's URL even if it is not set."""

    def request(self, flow: http.HTTPFlow) -> None:
        if self.addon.replacements:
            self.addon.request(flow)


_STAND_INS: dict[tuple[str, str, str], Any] = {  # by name, since to import them imports all of mitmproxy's addons
    ("mitmproxy.addons.onboarding", "Onboarding", "request"): _Onboarding,
    ("mitmproxy.addons.maplocal", "MapLocal", "request"): _MapLocal,
}


def _stand_in(addon: Any, name: str) -> Any:
    make = _STAND_INS.get((type(addon).__module__, type(addon).__name__, name))
    return addon if make is None else make(addon)


def index_of(addons: AddonManager) -> HookIndex:
    """The index of `addons` as they are now."""
    index: HookIndex | None = vars(addons).get(_INDEX)
    if index is None:
        index = vars(addons)[_INDEX] = HookIndex(addons)
    index.look_again()
    return index


async def trigger_event(self: AddonManager, event: hooks.Hook) -> None:
    """Replaces `AddonManager.trigger_event`: calls the hook on every addon that has it, or finishes `run_at_once`."""
    begun = vars(event).pop(_BEGUN, None)
    if begun is None:
        calls = _call(index_of(self), event)
        waits = next(calls, None)
    else:
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
    """Call the hook on every addon that has it, without a task. Returns whether that was all there is to do.

    False when an addon awaits something, the flow was intercepted, an addon has the `update` hook, or mitmproxy's way
    of calling hooks is not the one of this module: then `addons` has to trigger the event as usual.
    """
    if (
        event.name not in FLOW_HOOKS
        or getattr(addons.trigger_event, "__func__", None) is not trigger_event
        or getattr(addons.handle_lifecycle, "__func__", None) is not _HANDLE_LIFECYCLE
    ):
        return False
    index, flow = index_of(addons), event.flow  # type: ignore[attr-defined]  # as FLOW_HOOKS says
    if index.listens("update"):
        return False
    calls = _call(index, event)
    waits = contextvars.copy_context().run(next, calls, None)  # as in a task, variables that a hook sets end with it
    if waits is None and not flow.intercepted:
        return True
    begun = vars(event)[_BEGUN] = _Begun(calls, waits)
    _unfinished.add(begun)
    return False


async def finish(addons: AddonManager, event: commands.StartHook, go_on: Callable[[events.Event], Any]) -> None:
    """Finish a hook that `run_at_once` has begun, then `go_on`. mitmproxy's task for that takes many more steps."""
    await trigger_event(addons, event)
    await event.flow.wait_for_resume()  # type: ignore[attr-defined]  # as FLOW_HOOKS says
    await go_on(events.HookCompleted(event))


def is_begun(event: commands.StartHook) -> bool:
    """Whether `run_at_once` has begun the hook, and it has to be finished."""
    return _BEGUN in vars(event)


class _Begun:
    """The calls of one hook event, up to the first that returns an awaitable."""

    def __init__(self, calls: _Calls, waits: Awaitable[Any] | None) -> None:
        self.calls = calls
        self.waits = waits


_unfinished: weakref.WeakSet[_Begun] = weakref.WeakSet()


def has_unfinished() -> bool:
    """Whether a hook was started that `trigger_event` has yet to finish, in this iteration of the event loop."""
    return bool(_unfinished)


def _call(index: HookIndex, event: hooks.Hook) -> _Calls:
    """Call the hooks; yields each awaitable in between."""
    name = event.name
    arguments = (event.flow,) if name in FLOW_HOOKS else event.args()  # type: ignore[attr-defined]
    chain = index.addons.chain
    # Addons that are added to the chain from now on, each with its children: mitmproxy calls them for the same event.
    added = map(_traverse, itertools.islice(chain, len(chain), None))  # goes on to the end that the list has by then
    for family in itertools.chain(index.asked(name), added):
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


def _throw(calls: _Calls, error: Exception) -> Awaitable[Any] | None:
    try:
        return calls.throw(error)
    except StopIteration:
        return None
