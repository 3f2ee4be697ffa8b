"""Keeps retained payments in this process, under the identity of the request that they were made for.

Clients retry what failed. If a paid request did not end in a complete answer, its payment is retained, and the next
equal request takes it over and sends the same payment, which can be settled only once. Requests that ended with a
complete answer, or are still running, retain nothing: two equal requests side by side are two purchases.

A memory lasts longer than its payment. It also counts how often the request was paid for, so that a gateway which takes
the money and fails is not paid again and again.

After a redirect the client may ask for anything: clients differ in which method they keep, whether they send the body
again and how they write the address, and another host can lead them back. So the memory of a paid request that was
answered by a redirect is also found (`Memory.also`) by any request with the same body, and by any request without a
body from the same client. Such a request takes it only when it is challenged, so that a free one does not use it up.
Under however many identities a memory is found, it is taken once.
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
"""Seconds after its last failure during which an equal request counts as a retry."""
MAX_MEMORIES = 2000
"""Most failed requests in memory; the oldest are forgotten."""


@dataclass
class Memory:
    """What is known of a request that was paid for and not answered completely."""

    payment: Payment | None
    """The payment to send again; None: it is spent or has expired."""
    sends: int
    """How often the payment was sent."""
    purchases: int
    """Number of payments for this request that may have been settled."""
    last_row: int | None
    """The ledger's row of the last of them."""
    ledger: str
    """Name of that ledger."""
    also: tuple[RequestIdentity, ...] = ()
    """Further requests that may take it over, because a redirect answered this one."""
    limits: frozenset[str] = frozenset()
    """Scopes of the limits for models and paths that `payment` is held to: it is not sent where others apply."""
    forget_at: float = 0
    """Seconds of uptime at which it is forgotten; 0: set when it is stored."""


class Retained(Protocol):
    """A store of retained payments. Methods that use a database raise LedgerError if it fails."""

    def expects(self, route: Route) -> bool:
        """Whether a request of this route may be a retry, so that its fingerprint has to be computed.

        Called for every request before it is sent; answers at once, from this process's memory.
        """

    def may_be_retained_elsewhere(self, *routes: Route) -> bool:
        """Whether another proxy may have retained a payment for one of `routes`. Called when a challenge has come."""

    def remember(self, identity: RequestIdentity, memory: Memory) -> None:
        """Keep `memory` for the next equal request, and for those in `Memory.also`.

        Never raises, and does not wait for the identity's digest.
        """

    def take(self, identity: RequestIdentity) -> Memory | None:
        """Remove and return the memory found under `identity`. Its payment is None if it has expired.

        Blocks on digests that are not ready, so await `settle` first.
        """

    async def settle(self, identity: RequestIdentity) -> None:
        """Wait, without blocking the event loop, until `take` need not wait for digests."""


class RetainedPayments:
    """The `Retained` of this process. Signatures expire by `clock` (Unix seconds), memories by `uptime`.

    `uptime` returns seconds from any starting point; setting the wall clock must not make us forget a payment.
    """

    def __init__(self, clock: Callable[[], float], uptime: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._uptime = uptime or clock
        self._kept: dict[int, tuple[tuple[RequestIdentity, ...], Memory]] = {}
        """Memories by number, oldest first, with the identities that they are found under."""
        self._by_route: dict[Route, list[int]] = {}
        self._numbers = itertools.count()

    def expects(self, route: Route) -> bool:
        """Whether there is a memory for the route."""
        return route in self._by_route

    def may_be_retained_elsewhere(self, *_: Route) -> bool:
        """False: no other proxy shares this memory."""
        return False

    def remember(self, identity: RequestIdentity, memory: Memory) -> None:
        """Keep `memory` for the next equal request."""
        self._forget()
        if not memory.forget_at:
            left = memory.payment.valid_until - self._clock() if memory.payment else 0
            memory.forget_at = self._uptime() + max(REMEMBER_SECONDS, left)
        number, keys = next(self._numbers), (identity, *memory.also)
        self._kept[number] = keys, memory
        for key in keys:
            key.prepare()
            self._by_route.setdefault(key.route, []).append(number)
        while len(self._kept) > MAX_MEMORIES:
            self._remove(next(iter(self._kept)))

    def take(self, identity: RequestIdentity) -> Memory | None:
        """Remove and return the memory of an equal request."""
        now = self._clock()
        self._forget()
        same_route = dict.fromkeys(self._by_route.get(identity.route, ()))
        found = [number for number in reversed(same_route) if self._leads(identity, number)]
        memories = {number: self._kept[number][1] for number in found}
        for memory in memories.values():
            if memory.payment is not None and memory.payment.valid_until <= now:
                memory.payment = None
        if not found:
            return None
        chosen = next((number for number in found if memories[number].payment is not None), found[0])
        self._remove(chosen)
        return memories[chosen]

    def _leads(self, identity: RequestIdentity, number: int) -> bool:
        return any(key.fingerprint == identity.fingerprint for key in self._on(identity.route, number))

    def _on(self, route: Route, number: int) -> list[RequestIdentity]:
        return [key for key in self._kept[number][0] if key.route == route]

    def _remove(self, number: int) -> None:
        keys, _ = self._kept.pop(number)
        for key in keys:
            same_route = self._by_route[key.route]
            same_route.remove(number)
            if not same_route:
                del self._by_route[key.route]

    def withdraw(self, identity: RequestIdentity) -> Memory | None:
        """Remove and return the memory kept under this `identity` object, if there is one."""
        for number in self._by_route.get(identity.route, []):
            keys, memory = self._kept[number]
            if keys[0] is identity:
                self._remove(number)
                return memory
        return None

    async def settle(self, identity: RequestIdentity) -> None:
        """Wait until `take` need not wait for digests."""
        kept = dict.fromkeys(self._by_route.get(identity.route, ()))
        for each in [identity, *(key for number in kept for key in self._on(identity.route, number))]:
            await each.ready()

    def _forget(self) -> None:
        now = self._uptime()
        for number in [number for number, (_, memory) in self._kept.items() if memory.forget_at <= now]:
            self._remove(number)


def open_retained(ledger: Ledger, wallets: Wallets, networks: NetworkTable) -> Retained | None:
    """The store shared by all proxies of `ledger`; None: each proxy retains payments in its own memory."""
    if not isinstance(ledger.place, PostgresUrl) or (wallets.evm is None and wallets.svm is None):
        return None
    from ...ledger.postgres.store import PostgresLedger  # noqa: PLC0415
    from .postgres import SharedRetainedPayments  # noqa: PLC0415 - needs psycopg

    assert isinstance(ledger, PostgresLedger)
    return SharedRetainedPayments(ledger, wallets, networks, time.time)
