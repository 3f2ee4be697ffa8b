"""Payments whose attempt ended badly, ready to be sent again: one request, one payment.

Clients repeat by themselves what failed with 5xx, 429 or a lost connection. When a paid attempt ended like that, it is
remembered here under its request's fingerprint, and an equal request that comes next takes it over, alone, and sends
the very same payment, which can be settled once at most. What ended with a complete answer lends nothing, and neither
does what is still being answered: two equal requests side by side are two purchases.

A memory outlives its payment: it also says how often that request has been paid for, so that a gateway which takes the
money and fails is not paid again and again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..ledger.interface import Ledger
from ..protocol.networks import NetworkTable
from ..protocol.strict_json import Undecodable, decode_json
from ..settings.ledger_place import PostgresUrl
from ..wallet.sources import Wallets
from .payer import Payment

REMEMBER_SECONDS = 600
"""For how long, after its last bad end, a request counts as the same one."""
MAX_MEMORIES = 2000
"""More than this many failed requests at a time: the oldest are forgotten."""
MAX_BOUNDARY = 80
"""Bytes of a multipart body's first line: two hyphens, at most 70 of a boundary, the end of the line, and some."""
INCOMPLETE = frozenset({402, 408, 409, 425, 429})
"""Besides 5xx: answers after which clients repeat by themselves. 402: a rejection that proves nothing."""

Route = tuple[str, str, str]
"""Method, upstream (scheme, host and port), path with its query: cheap to compare before anything is computed."""
Fingerprint = tuple[Route, bytes]


def is_incomplete(status: int) -> bool:
    """Whether an answer of this status leaves the client without what it paid for."""
    return status >= 500 or status in INCOMPLETE


def fingerprint(route: Route, body: bytes) -> Fingerprint:
    """Equal for equal requests: JSON whatever the order of its keys, multipart bodies whatever their boundary is,
    anything else byte for byte.
    """
    return route, hashlib.sha256(_canonical(body)).digest()


def _canonical(body: bytes) -> bytes:
    if body.startswith(b"--"):
        return _without_boundary(body)
    if body.lstrip()[:1] not in (b"{", b"["):
        return body
    try:
        value, faults = decode_json(body)
    except Undecodable:
        return body
    return body if faults else json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _without_boundary(body: bytes) -> bytes:
    """A multipart body without its boundary (RFC 2046, section 5.1.1), which clients draw anew when they repeat."""
    line, end, _ = body[:MAX_BOUNDARY].partition(b"\r\n")
    if not end:
        return body
    parts = body.split(line)
    return b"".join([b"%d:" % len(parts), *(b"%d:%b" % (len(part), part) for part in parts)])


@dataclass
class Memory:
    """What is known of a request that was paid for and not answered."""

    payment: Payment | None
    """To be sent again while it is valid; None when it was found to be spent or dead."""
    sends: int
    """How often that payment was sent."""
    purchases: int
    """Payments that were made for this request and may have been settled."""
    last_row: int
    """The ledger's row of the last of them."""
    ledger: str
    """Name of that ledger."""
    forget_at: float = 0
    """Seconds of uptime; 0: to be set anew, since the request has just ended badly."""


class Held(Protocol):
    """Where bad ends are remembered. Whatever asks somebody else raises LedgerError when that fails."""

    def expects(self, route: Route) -> bool:
        """Whether a request of this route may be a repetition: only then its fingerprint is worth computing.

        Asked of every request, before it goes out: answered at once, from what this process knows.
        """

    def expects_by_now(self, route: Route) -> bool:
        """The same once more, when a challenge has come and a payment would be made; others may have remembered it."""

    def remember(self, key: Fingerprint, memory: Memory) -> None:
        """Keep `memory` for the next equal request. Never raises."""

    def take(self, key: Fingerprint) -> Memory | None:
        """The memory of an equal request, which nobody else gets then. Its payment is None where it has expired."""


class HeldPayments:
    """Remembers bad ends in this process. `clock` gives Unix seconds, by which signatures expire.

    `uptime` gives seconds from any time on, by which requests are forgotten: a wall clock that is set would make us
    forget what was paid for, or keep what was signed for an hour that is not this one.
    """

    def __init__(self, clock: Callable[[], float], uptime: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._uptime = uptime or clock
        self._kept: dict[int, tuple[Fingerprint, Memory]] = {}
        """By number, the oldest first."""
        self._by_route: dict[Route, list[int]] = {}
        self._numbers = itertools.count()

    def expects(self, route: Route) -> bool:
        """See `Held`."""
        return route in self._by_route

    def expects_by_now(self, _: Route) -> bool:
        """See `Held`. Nobody else remembers here; what has come since the request belongs to another one."""
        return False

    def remember(self, key: Fingerprint, memory: Memory) -> None:
        """See `Held`."""
        self._forget()
        if not memory.forget_at:
            left = memory.payment.valid_until - self._clock() if memory.payment else 0
            memory.forget_at = self._uptime() + max(REMEMBER_SECONDS, left)
        number = next(self._numbers)
        self._kept[number] = key, memory
        self._by_route.setdefault(key[0], []).append(number)
        while len(self._kept) > MAX_MEMORIES:
            self._remove(next(iter(self._kept)))

    def take(self, key: Fingerprint) -> Memory | None:
        """See `Held`."""
        now = self._clock()
        self._forget()
        found = [number for number in self._by_route.get(key[0], []) if self._kept[number][0] == key]
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
        key, _ = self._kept.pop(number)
        route = self._by_route[key[0]]
        route.remove(number)
        if not route:
            del self._by_route[key[0]]

    def _forget(self) -> None:
        now = self._uptime()
        for number in [number for number, (_, memory) in self._kept.items() if memory.forget_at <= now]:
            self._remove(number)


def open_held(ledger: Ledger, wallets: Wallets, networks: NetworkTable) -> Held | None:
    """Where the proxies of `ledger` hold payments together; None: each for itself, in its memory."""
    if not isinstance(ledger.place, PostgresUrl) or (wallets.evm is None and wallets.svm is None):
        return None
    from ..ledger.postgres.store import PostgresLedger  # noqa: PLC0415
    from .retained_postgres import SharedHeldPayments  # noqa: PLC0415 - needs psycopg

    assert isinstance(ledger, PostgresLedger)
    return SharedHeldPayments(ledger, wallets, networks, time.time)
