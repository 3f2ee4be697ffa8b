"""The gateways of a group of tries, each ready for what it will do, and the proxy that is started before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from support.running import certs

from .scene import LONG, Control, Scene
from .sides.gateway import AT_THE_DOOR, Gateway, Shop
from .sides.rpc import Rpc
from .sides.shops import EvmShop, SvmShop
from .tries import Trial, Try

SLOW = ("stall", "timeout", "drip")
"""Faults of a client that reads, but not as fast as it could."""
_IN_GATEWAY = (
    "connect",
    "tls",
    "asked",
    "402-head",
    "402-body",
    "402",
    "again",
    "leaving",
    "paid",
    "head",
    "stream",
    "end",
    "after",
)


class Stage:
    """The gateways of a group, and how a proxy is started before them."""

    def __init__(self, folder: Path, stack: ExitStack, tries: Sequence[Try]) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self._pem = certs.make(folder)
        (folder / "other").mkdir()
        self._foreign = certs.make(folder / "other")
        self._svm = SvmShop() if any(what.point == "rpc" for what in tries) else None
        self.rpc = Rpc(None if self._svm is None else self._svm.svm)
        self.control = Control()
        self.ordinary = Gateway(EvmShop())
        self.ordinary.door.open()
        self.trials = [Trial(what, self._gateway(what)) for what in tries]
        stack.callback(self._close)

    def _gateway(self, what: Try) -> Gateway:
        shop: Shop = self._svm if what.point == "rpc" and self._svm is not None else EvmShop()
        tls = certs.server_context(self._pem) if what.point == "tls" else None
        gateway = Gateway(shop, taken=what.taken, tls=tls, big=what.point == "c-stream" and what.fault in SLOW)
        if what.point == "tls" and what.fault == "refused":
            gateway.tls, gateway.cure = certs.server_context(self._foreign), tls
        gateway.strikes = _strikes(what)
        gateway.times = 1 if what.once else None
        if gateway.strikes is not None and gateway.strikes[0] == "402":
            gateway.before_strike = lambda: self.control.wait_for(what.path)
        if gateway.strikes is not None and gateway.strikes[0] == "connect" and gateway.strikes[1] in AT_THE_DOOR:
            gateway.close_door(gateway.strikes[1])
        else:
            gateway.door.open()
        return gateway

    def scene(self, timeouts: Mapping[str, float] = LONG) -> Scene:
        gateways = [self.ordinary, *(trial.gateway for trial in self.trials)]
        return Scene(self.home, gateways, rpc=self.rpc, control=self.control, timeouts=timeouts, pem=self._pem)

    def _close(self) -> None:
        self.control.close()
        self.rpc.door.shut()
        for gateway in (self.ordinary, *(trial.gateway for trial in self.trials)):
            gateway.heal()
            gateway.door.shut()


def _strikes(what: Try) -> tuple[str, str] | None:
    """What the gateway does in the first attempt."""
    if what.point in ("c-waiting", "c-paid", "c-stream") and what.fault not in SLOW:
        return {"c-waiting": "asked", "c-paid": "paid", "c-stream": "stream"}[what.point], "hold"
    if what.point == "held":
        return "paid", "reset"
    if what.point not in _IN_GATEWAY or (what.hold and what.fault in ("kill", "clock")):
        return None
    return what.point, "hold" if what.fault in ("kill", "clock") else what.fault
