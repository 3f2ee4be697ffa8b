"""Retained payments: those whose attempt ended badly, ready to be sent again with the next equal request.

Clients repeat by themselves what failed. When a paid attempt did not end in a complete answer, its payment is retained
here under its request's identity, and an equal request that comes next takes it over, alone, and sends the very same
payment, which can be settled once at most. What ended with a complete answer lends nothing, and neither does what is
still being answered: two equal requests side by side are two purchases.

A memory outlives its payment: it also says how often that request has been paid for, so that a gateway which takes the
money and fails is not paid again and again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...ledger.interface import Ledger
from ...protocol.networks import NetworkTable
from ...settings.ledger_place import PostgresUrl
from ...wallet.sources import Wallets
from ..payer import Payment
from .identity import RequestIdentity, Route

REMEMBER_SECONDS = 600
"""For how long, after its last bad end, a request counts as the same one."""
MAX_MEMORIES = 2000
"""More than this many failed requests at a time: the oldest are forgotten."""


@dataclass
class Memory:
    """What is known of a request that was paid for and not answered."""

    payment: Payment | None
    """To be sent again while it is valid; None when it was found to be spent or dead."""
    sends: int
    """How often that payment was sent."""
    purchases: int
    """Payments that were made for this request and may have been settled."""
    last_row: int | None
    """The ledger's row of the last of them."""
    ledger: str
    """Name of that ledger."""
    forget_at: float = 0
    """Seconds of uptime; 0: to be set anew, since the request has just ended badly."""


class Retained(Protocol):
    """Where payments are retained. Whatever asks somebody else raises LedgerError when that fails."""

    def expects(self, route: Route) -> bool:
        """Whether a request of this route may be a repetition: only then its fingerprint is worth computing.

        Asked of every request, before it goes out: answered at once, from what this process knows.
        """

    def may_be_retained_elsewhere(self, route: Route) -> bool:
        """The same once more, when a challenge has come and a payment would be made; others may have remembered it."""

    def remember(self, identity: RequestIdentity, memory: Memory) -> None:
        """Keep `memory` for the next equal request. Never raises, and never waits for the identity's digest."""

    def take(self, identity: RequestIdentity) -> Memory | None:
        """The memory of an equal request, which nobody else gets then. Its payment is None where it has expired.

        Waits for digests that are not ready; await `settle` first.
        """

    async def settle(self, identity: RequestIdentity) -> None:
        """Wait until `take` need not wait for digests, while other requests go on."""


class RetainedPayments:
    """Remembers bad ends in this process. `clock` gives Unix seconds, by which signatures expire.

    `uptime` gives seconds from any time on, by which requests are forgotten: a wall clock that is set would make us
    forget what was paid for, or keep what was signed for an hour that is not this one.
    """

    def __init__(self, clock: Callable[[], float], uptime: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._uptime = uptime or clock
        self._kept: dict[int, tuple[RequestIdentity, Memory]] = {}
        """By number, the oldest first."""
        self._by_route: dict[Route, list[int]] = {}
        self._numbers = itertools.count()

    def expects(self, route: Route) -> bool:
        """See `Retained`."""
        return route in self._by_route

    def may_be_retained_elsewhere(self, _: Route) -> bool:
        """See `Retained`. Nobody else remembers here; what has come since the request belongs to another one."""
        return False

    def remember(self, identity: RequestIdentity, memory: Memory) -> None:
        """See `Retained`."""
        self._forget()
        if not memory.forget_at:
            left = memory.payment.valid_until - self._clock() if memory.payment else 0
            memory.forget_at = self._uptime() + max(REMEMBER_SECONDS, left)
        number = next(self._numbers)
        identity.prepare()
        self._kept[number] = identity, memory
        self._by_route.setdefault(identity.route, []).append(number)
        while len(self._kept) > MAX_MEMORIES:
            self._remove(next(iter(self._kept)))

    def take(self, identity: RequestIdentity) -> Memory | None:
        """See `Retained`."""
        now = self._clock()
        self._forget()
        same_route = self._by_route.get(identity.route, [])
        found = [number for number in same_route if self._kept[number][0].digest == identity.digest]
        memories = {number: self._kept[number][1] for number in found}
        for memory in memories.values():
            if memory.payment is not None and memory.payment.valid_until <= now:
                memory.payment = None
        if not found:
            return None
        chosen = next((number for number in found if memories[number].payment is not None), found[0])
        self._remove(chosen)
        return memories[chosen]

    def _remove(self, number: int) -> None:
        identity, _ = self._kept.pop(number)
        same_route = self._by_route[identity.route]
        same_route.remove(number)
        if not same_route:
            del self._by_route[identity.route]

    def withdraw(self, identity: RequestIdentity) -> Memory | None:
        """The memory that was kept under this very `identity`, where it is still there."""
        for number in self._by_route.get(identity.route, []):
            kept, memory = self._kept[number]
            if kept is identity:
                self._remove(number)
                return memory
        return None

    async def settle(self, identity: RequestIdentity) -> None:
        """See `Retained`."""
        for each in [identity, *(self._kept[number][0] for number in self._by_route.get(identity.route, []))]:
            await each.ready()

    def _forget(self) -> None:
        now = self._uptime()
        for number in [number for number, (_, memory) in self._kept.items() if memory.forget_at <= now]:
            self._remove(number)


def open_retained(ledger: Ledger, wallets: Wallets, networks: NetworkTable) -> Retained | None:
    """Where the proxies of `ledger` retain payments together; None: each for itself, in its memory."""
    if not isinstance(ledger.place, PostgresUrl) or (wallets.evm is None and wallets.svm is None):
        return None
    from ...ledger.postgres.store import PostgresLedger  # noqa: PLC0415
    from .postgres import SharedRetainedPayments  # noqa: PLC0415 - needs psycopg

    assert isinstance(ledger, PostgresLedger)
    return SharedRetainedPayments(ledger, wallets, networks, time.time)
