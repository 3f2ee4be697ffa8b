"""Calls for each hook only those addons that have it, where mitmproxy asks every one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any, cast

from mitmproxy import exceptions, hooks, http

from .exchange import X402ChallengeHook
from .internals import (
    AddonManager,
    commands,
    safecall,
)

_Calls = Generator["Awaitable[Any]", None, None]


class IndexedAddons(AddonManager):
    """Knows which addons have a hook, where mitmproxy asks each of some forty whenever one fires.

    The order, and what an error or an AddonHalt ends, stay mitmproxy's own. Whatever loads, removes or reorders addons
    goes through the methods that forget the index.
    """

    _index: dict[str, list[list[Callable[..., Any]]]]

    async def trigger_event(self, event: hooks.Hook) -> None:
        """Call the hook of every addon that has it, or of those that `done_at_once` has left."""
        calls, waits = vars(event).pop(_BEGUN, None) or self._begin(event)
        while waits is not None:
            try:
                await waits
            except Exception as error:  # noqa: PERF203
                waits = _throw(calls, error)
            else:
                waits = next(calls, None)

    def done_at_once(self, event: commands.StartHook) -> bool:
        """Call the hook of every addon that has it. False: one has to be waited for, `trigger_event` does the rest."""
        if event.name not in _PASSING:
            return False
        flow: http.HTTPFlow = cast(Any, event).flow
        calls, waits = self._begin(event)
        if waits is None and not flow.intercepted and not self._asked(_UPDATE):
            return True
        vars(event)[_BEGUN] = calls, waits
        return False

    def _begin(self, event: hooks.Hook) -> tuple[_Calls, Awaitable[Any] | None]:
        calls = self._calls(event)
        return calls, next(calls, None)

    def _calls(self, event: hooks.Hook) -> _Calls:
        """Calls the hooks, and gives what is to be waited for in between."""
        asked = self._asked(event)
        if not asked:
            return
        arguments = (cast(Any, event).flow,) if event.name in _PASSING else event.args()
        for family in asked:
            try:
                for hook in family:
                    result = hook(*arguments)
                    if result is not None and inspect.isawaitable(result):
                        yield result
            except exceptions.AddonHalt:  # noqa: PERF203  # costs nothing until it happens
                return
            except Exception:  # of an addon and its children, it skips the rest
                with safecall():
                    raise

    def _asked(self, event: hooks.Hook) -> list[list[Callable[..., Any]]]:
        """The hooks to call, those of an addon and its children together."""
        asked = self._index.get(event.name)
        if asked is None:
            passing = event.name in _PASSING
            chain = [addon for addon in self.chain if not (passing and self._is_idle(addon))]
            every = [[hook for _, hook in self._iter_hooks(addon, event)] for addon in chain]
            asked = self._index[event.name] = [family for family in every if family]
        return asked

    def _is_idle(self, addon: Any) -> bool:
        """Whether `addon` is one of mitmproxy's own that has nothing to replace, or nobody to welcome."""
        if not type(addon).__module__.startswith("mitmproxy.addons."):
            return False
        if type(addon).__name__ == "Onboarding":
            return not self.master.options.onboarding
        return getattr(addon, "replacements", None) == []

    def trigger(self, event: hooks.Hook) -> None:
        """As mitmproxy does; it fires one for each line of the log, too. An option may have reordered the scripts."""
        if self._asked(event):
            super().trigger(event)
        if isinstance(event, hooks.ConfigureHook):
            self._index.clear()

    def register(self, addon: Any) -> Any:
        """As mitmproxy does."""
        self._index.clear()
        try:
            return super().register(addon)  # type: ignore[no-untyped-call]
        finally:
            self._index.clear()

    def remove(self, addon: Any) -> None:
        """As mitmproxy does."""
        super().remove(addon)  # type: ignore[no-untyped-call]
        self._index.clear()

    def clear(self) -> None:
        """As mitmproxy does."""
        super().clear()  # type: ignore[no-untyped-call]
        self._index.clear()


_PASSING = frozenset(("requestheaders", "request", X402ChallengeHook.name, "responseheaders", "response"))
"""Hooks with a flow and nothing else, that each request passes."""


_UPDATE = hooks.UpdateHook([])


_BEGUN = "x402_begun"


def _throw(calls: _Calls, error: Exception) -> Awaitable[Any] | None:
    try:
        return calls.throw(error)
    except StopIteration:
        return None
