"""Keeps retained payments in PostgreSQL, encrypted, where all proxies of the ledger with the same wallets find them.

Each retained payment is a row in the ledger's database. A signed payment can move money while it is valid, so rows are
encrypted (AES-256-GCM) with a key derived from the wallets' keys, and found by hashes that are keyed with another one.
Proxies with the same wallets need no further secret; anyone else who reads the database learns neither a header nor
which request it belongs to. A row that is moved to another request cannot be decrypted.

Taking a row deletes it, so only one proxy gets it. Expired rows are deleted when the next row is written or the next
session begins. A memory that is found under several identities (`Memory.also`) is in one row; the others have rows that
point to that one, and a pointer to a row that is gone is skipped.

A look-up costs a round trip, so it is made only after a challenge: a retry that reaches another proxy goes out unpaid
first, like any request, and then carries the retained payment instead of a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Callable
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...errors import X402Error
from ...ledger.interface import LedgerError
from ...ledger.moments import milliseconds
from ...ledger.postgres.store import PostgresLedger
from ...protocol.messages import AtomicUnits, PaymentRequirements
from ...protocol.networks import NetworkTable
from ...wallet.sources import Wallets
from ..offer import Offer
from ..signing.payment import Payment
from .identity import RequestIdentity, Route
from .store import REMEMBER_SECONDS, Memory, RetainedPayments

NONCE_BYTES = 12
"""Length of the AES-GCM nonce, which is random for each row."""
_EXPECTS = "SELECT 1 FROM x402_held WHERE route = ANY(%s) AND forget_at > x402_now() LIMIT 1"
_REMEMBER = """
    WITH past AS (DELETE FROM x402_held WHERE forget_at <= x402_now())
    INSERT INTO x402_held (route, fingerprint, sealed, sendable_until, forget_at)
    VALUES (%s, %s, %s, x402_now() + %s::bigint, x402_now() + %s::bigint)"""
_TAKE = """
    DELETE FROM x402_held WHERE id = (
        SELECT id FROM x402_held WHERE fingerprint = %s AND forget_at > x402_now()
        ORDER BY sendable_until > x402_now() DESC, id DESC LIMIT 1 FOR UPDATE SKIP LOCKED
    ) RETURNING sealed, forget_at - x402_now()"""

logger = logging.getLogger(__name__)


class SharedRetainedPayments:
    """The `Retained` shared by all proxies of `ledger` with the same `wallets`. `clock` returns Unix seconds."""

    def __init__(
        self, ledger: PostgresLedger, wallets: Wallets, networks: NetworkTable, clock: Callable[[], float]
    ) -> None:
        self._link, self._name = ledger.link, ledger.name
        self._networks = networks
        self._clock = clock
        self._alone = RetainedPayments(clock)
        """Payments whose digest is not known yet, or that could not be written to the database."""
        self._seal = AESGCM(_key(wallets, b"held payments: seal"))
        self._index = _key(wallets, b"held payments: index")

    def expects(self, route: Route) -> bool:
        """Whether this process keeps a memory for the route; the database is not asked."""
        return self._alone.expects(route)

    @property
    def is_full(self) -> bool:
        """Whether this process has no room for what could not be written to the database."""
        return self._alone.is_full

    def may_be_retained_elsewhere(self, *routes: Route) -> bool:
        """Whether the database may have a memory for one of the routes."""
        return bool(self._link.ask(_EXPECTS, ([self._hash(route) for route in routes],)))

    def remember(self, identity: RequestIdentity, memory: Memory) -> None:
        """Keep `memory` for the next equal request; in this process if the database cannot be reached."""
        if not identity.is_ready:
            self._alone.remember(identity, memory)
            with contextlib.suppress(RuntimeError):  # no event loop: it is kept in this process
                loop = asyncio.get_running_loop()
                publish = functools.partial(loop.call_soon_threadsafe, self._publish, identity)
                identity.start().add_done_callback(lambda _: publish())
            return
        now = self._clock()
        valid_until = memory.payment.valid_until if memory.payment else now
        forget_at = memory.forget_at or max(now + REMEMBER_SECONDS, memory.alive_until)
        key = self._fingerprint(identity)
        times = milliseconds(valid_until - now), milliseconds(forget_at - now)
        try:
            self._link.ask(_REMEMBER, (self._hash(identity.route), key, self._sealed(_write(memory), key), *times))
            for other in memory.also:
                alias = self._fingerprint(other)
                if alias != key:
                    pointer = self._sealed(json.dumps({"see": key.hex()}).encode(), alias)
                    self._link.ask(_REMEMBER, (self._hash(other.route), alias, pointer, *times))
        except LedgerError as error:
            logger.warning("x402: a payment can be sent again by this proxy only: %s", error)
            self._alone.remember(identity, memory)

    def _fingerprint(self, identity: RequestIdentity) -> bytes:
        return self._hash(identity.route, identity.digest)

    def _sealed(self, text: bytes, key: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._seal.encrypt(nonce, text, key)

    def _publish(self, identity: RequestIdentity) -> None:
        """Write a memory to the database that was kept here until its digest was known."""
        memory = self._alone.withdraw(identity)
        if memory is not None:
            self.remember(identity, memory)

    def take(self, identity: RequestIdentity) -> Memory | None:
        """The memory of an equal request, which no other proxy gets. Raises LedgerError."""
        memory = self._alone.take(identity) if self._alone.expects(identity.route) else None
        if memory is not None:
            return memory
        return self._take(self._fingerprint(identity))

    def _take(self, key: bytes) -> Memory | None:
        while found := self._link.ask(_TAKE, (key,)):
            ((sealed, left_ms),) = found
            try:
                said = json.loads(self._seal.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], key))
                if "see" in said:
                    memory = self._take(bytes.fromhex(said["see"]))
                    if memory is None:
                        continue  # another key has led to it before
                    return memory
                memory = _read(said, self._name, self._networks)
            except (InvalidTag, ValueError, KeyError, TypeError, X402Error):
                logger.warning("x402: a payment that was kept to be sent again cannot be read, and is not sent")
                return None
            now = self._clock()
            memory.forget_at = now + left_ms / 1000
            if memory.payment is not None and memory.payment.valid_until <= now:
                memory.payment = None
            return memory
        return None

    async def settle(self, identity: RequestIdentity) -> None:
        """Wait until `take` need not wait for digests."""
        await self._alone.settle(identity)

    def _hash(self, route: Route, body: bytes = b"") -> bytes:
        return hmac.new(self._index, json.dumps(route).encode() + body, hashlib.sha256).digest()


def _key(wallets: Wallets, purpose: bytes) -> bytes:
    """A 32-byte key for `purpose` that only proxies with the same wallets can derive."""
    both = [wallet.derive_key(purpose) for wallet in (wallets.evm, wallets.svm) if wallet is not None]
    if not both:
        raise ValueError("no wallet, so nothing is ever retained")
    return hashlib.sha256(b"".join(both)).digest() if len(both) > 1 else both[0]


def _write(memory: Memory) -> bytes:
    said: dict[str, Any] = {
        "sends": memory.sends,
        "purchases": memory.purchases,
        "last_row": memory.last_row,
        "payment": None if memory.payment is None else _said(memory.payment),
        "also": [[*each.route, each.digest.hex()] for each in memory.also],
        "limits": sorted(memory.limits),
        "alive_until": memory.alive_until,
    }
    return json.dumps(said).encode()


def _said(payment: Payment) -> dict[str, Any]:
    requirement = payment.offer.requirement
    return {
        "requirement": {
            **{"scheme": requirement.scheme, "network": requirement.network, "amount": requirement.amount},
            **{"asset": requirement.asset, "pay_to": requirement.pay_to, "extra": requirement.extra},
            **{"max_timeout_seconds": requirement.max_timeout_seconds, "raw": requirement.raw},
        },
        **{"payer": payment.payer, "reference": payment.reference, "header": payment.header},
        **{"method": payment.offer.method, "in_both_headers": payment.in_both_headers},
        **{"row": payment.row, "valid_until": payment.valid_until, "window": payment.window},
    }


def _read(said: dict[str, Any], ledger: str, networks: NetworkTable) -> Memory:
    """Read what `_write` has written; without the payment if this proxy does not know the asset."""
    payment = None if said["payment"] is None else _payment(said["payment"], networks)
    also = tuple(
        RequestIdentity.known((method, origin, path), bytes.fromhex(digest))
        for method, origin, path, digest in said.get("also", ())
    )
    limits = frozenset(said.get("limits", ()))
    numbers = said["sends"], said["purchases"], said["last_row"]
    alive_until = said.get("alive_until", 0)
    return Memory(payment, *numbers, ledger, also=also, limits=limits, alive_until=alive_until)


def _payment(said: dict[str, Any], networks: NetworkTable) -> Payment | None:
    terms = said["requirement"]
    requirement = PaymentRequirements(**{**terms, "amount": AtomicUnits(terms["amount"])})
    network = networks.get(requirement.network)
    asset = None if network is None else network.asset(requirement.asset)
    if network is None or asset is None:
        return None
    name, value = said["header"]
    offer = Offer(requirement, network, asset, said.get("method", "exact"))
    times: tuple[float, float] = said["valid_until"], said["window"]
    both = said.get("in_both_headers", False)
    return Payment(offer, said["payer"], said["reference"], (name, value), said["row"], *times, in_both_headers=both)
