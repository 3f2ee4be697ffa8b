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

No memory is forgotten to make room for others, or a flood of failures would let old requests be paid twice. When there
is no room, nothing new is paid (`Retained.is_full`).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ..signing.payment import Payment
from .identity import Fingerprint, RequestIdentity, Route

REMEMBER_SECONDS = 600
"""Seconds after its last failure during which an equal request counts as a retry."""
MAX_MEMORIES = 10_000
"""Failed requests in memory from which on nothing new is paid; none is forgotten to make room."""
MAX_HEADERS = 64 << 20
"""Characters of the headers of their payments for which the same holds."""

_Key = TypeVar("_Key")


@dataclass
class Memory:
    """The payments of a request that was paid for and not answered completely."""

    payment: Payment | None
    """The payment to send again; None: it is spent or has expired."""
    sends: int
    """Number of times that the payment was sent."""
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
    alive_until: float = 0
    """Unix seconds until which one of the payments made for this request can be settled, whatever was said of it."""
    forget_at: float = 0
    """When it is forgotten, in seconds by the clock of its store; 0: set when it is stored."""


class Retained(Protocol):
    """A store of retained payments. Methods that use a database raise LedgerError if it fails."""

    def expects(self, route: Route) -> bool:
        """Whether a request of this route may be a retry, so that its fingerprint has to be computed.

        Called for every request before it is sent; answers at once, from this process's memory.
        """

    def may_be_retained_elsewhere(self, *routes: Route) -> bool:
        """Whether another proxy may have retained a payment for one of `routes`. Called when a challenge has come."""

    @property
    def is_full(self) -> bool:
        """Whether what fails now has no room in this process, so that nothing new may be paid."""

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
        """Memories by number, each with the identities under which it is found."""
        self._numbers_of: dict[Route, dict[int, None]] = {}
        """The numbers of a route's memories."""
        self._unread: dict[Route, dict[int, None]] = {}
        """The numbers of memories whose digests may not be known yet, by route; `_found` may lack them."""
        self._found: dict[Fingerprint, dict[int, None]] = {}
        self._ends: list[tuple[float, int]] = []
        """A heap of (time to forget, number); memories that were taken may still be in it."""
        self._size = 0
        """Characters of the payments' headers."""
        self._numbers = itertools.count()

    def expects(self, route: Route) -> bool:
        """Whether there is a memory for the route."""
        return route in self._numbers_of

    @property
    def is_full(self) -> bool:
        """Whether MAX_MEMORIES or MAX_HEADERS is reached."""
        self._forget()
        return len(self._kept) >= MAX_MEMORIES or self._size >= MAX_HEADERS

    def may_be_retained_elsewhere(self, *_: Route) -> bool:
        """False: no other proxy shares this memory."""
        return False

    def remember(self, identity: RequestIdentity, memory: Memory) -> None:
        """Keep `memory` for the next equal request."""
        self._forget()
        if not memory.forget_at:
            memory.forget_at = self._uptime() + max(REMEMBER_SECONDS, memory.alive_until - self._clock())
        number, keys = next(self._numbers), tuple(dict.fromkeys((identity, *memory.also)))
        self._kept[number] = keys, memory
        self._size += _size(memory)
        heapq.heappush(self._ends, (memory.forget_at, number))
        for key in keys:
            key.prepare()
            self._numbers_of.setdefault(key.route, {})[number] = None
            self._unread.setdefault(key.route, {})[number] = None

    def take(self, identity: RequestIdentity) -> Memory | None:
        """Remove and return the memory of an equal request."""
        now = self._clock()
        self._forget()
        self._read(identity.route)
        found = list(reversed(self._found.get(identity.fingerprint, ())))
        memories = {number: self._kept[number][1] for number in found}
        if not found:
            return None
        for memory in memories.values():
            if memory.payment is not None and memory.payment.valid_until <= now:
                self._size -= _size(memory)
                memory.payment = None
        chosen = next((number for number in found if memories[number].payment is not None), found[0])
        self._remove(chosen)
        return memories[chosen]

    def _read(self, route: Route) -> None:
        """Index the route's memories by their digests. Blocks on those that are not ready."""
        for number in self._unread.pop(route, ()):
            for key in self._on(route, number):
                self._found.setdefault(key.fingerprint, {})[number] = None

    def _on(self, route: Route, number: int) -> list[RequestIdentity]:
        return [key for key in self._kept[number][0] if key.route == route]

    def _remove(self, number: int) -> None:
        keys, memory = self._kept.pop(number)
        self._size -= _size(memory)
        for key in keys:
            _take_out(self._numbers_of, key.route, number)
            if number in self._unread.get(key.route, ()):
                _take_out(self._unread, key.route, number)
            elif key.is_ready:
                _take_out(self._found, key.fingerprint, number)

    def withdraw(self, identity: RequestIdentity) -> Memory | None:
        """Remove and return the memory kept under this `identity` object, if there is one."""
        for number in self._numbers_of.get(identity.route, ()):
            keys, memory = self._kept[number]
            if keys[0] is identity:
                self._remove(number)
                return memory
        return None

    async def settle(self, identity: RequestIdentity) -> None:
        """Wait until `take` need not wait for digests."""
        kept = list(self._unread.get(identity.route, ()))
        for each in [identity, *(key for number in kept for key in self._on(identity.route, number))]:
            await each.ready()

    def _forget(self) -> None:
        now = self._uptime()
        while self._ends and self._ends[0][0] <= now:
            _, number = heapq.heappop(self._ends)
            if number in self._kept:
                self._remove(number)
        if len(self._ends) > max(2 * len(self._kept), 50):  # most entries are outdated
            self._ends = [(memory.forget_at, number) for number, (_, memory) in self._kept.items()]
            heapq.heapify(self._ends)


def _size(memory: Memory) -> int:
    return 0 if memory.payment is None else len(memory.payment.header[1])


def _take_out(numbers: dict[_Key, dict[int, None]], key: _Key, number: int) -> None:
    """Remove `number` from the numbers of `key`, and `key` itself when none is left."""
    left = numbers.get(key)
    if left is not None:
        left.pop(number, None)
        if not left:
            del numbers[key]
