"""Records requests, payments and every byte sent, for tests and for users of the sandbox."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

from ..protocol.messages import AtomicUnits, Caip2

PaymentState = Literal["held", "settled", "released", "failed"]
"""`held`: verified, its work is being done. `settled`: money moved. `released`: the work failed before money moved, and
the same payment may come again. `failed`: the chain refused the settlement."""

MAX_KEPT = 8 * 1024 * 1024
"""Bytes of one body that are kept; of longer ones only the length and the digest."""


T = TypeVar("T")


class Kept(list[T]):
    """A list that forgets its oldest element rather than grow beyond `limit`."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def append(self, item: T) -> None:
        """Add `item` at the end."""
        super().append(item)
        if len(self) > self._limit:
            del self[0]


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it came over the wire."""

    request_id: str
    """Also the answer's `x-request-id`, and the key into `Sandbox.sent`."""
    method: str
    target: str
    """Path and query, undecoded."""
    headers: tuple[tuple[str, str], ...]
    """Names and values in the order and the case in which they came."""
    body: bytes = field(repr=False)
    connection: int
    """Counts connections: equal for requests that shared one."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query without its question mark, undecoded."""
        return self.target.partition("?")[2]

    def get(self, name: str) -> str | None:
        """The first header of this name, whatever its case, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @cached_property
    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty one when it is anything else."""
        if self.body[:1].isspace() or self.body[:1] == b"{":
            try:
                value = json.loads(self.body)
            except (ValueError, RecursionError):
                return {}
            return value if isinstance(value, dict) else {}
        return {}

    @cached_property
    def fingerprint(self) -> str:
        """Equal for equal requests, whatever the order of their JSON keys."""
        body = json.dumps(self.json, sort_keys=True).encode() if self.json else self.body
        return hashlib.sha256(b"\n".join([self.method.encode(), self.target.encode(), body])).hexdigest()


@dataclass
class ReceivedPayment:
    """One signed payment that passed verification, and what became of it."""

    network: Caip2
    payer: str
    pay_to: str
    amount: AtomicUnits
    asset: str
    reference: str
    """EVM: the nonce, 0x and 64 hex digits. Solana: the transaction's signature, base58."""
    path: str
    state: PaymentState = "held"
    transaction: str = ""
    """The transaction's id once settled."""
    attempts: int = 1
    """How many requests it paid for, one after the other."""
    scheme: str = "exact"
    """`exact`, `permit2`, `upto` or `gateway`."""
    charged: AtomicUnits | None = None
    """What was taken of `amount`, once settled."""


class Sent:
    """One answer, as handed to the socket: the body's pieces, before HTTP's own framing."""

    def __init__(self, status: int, headers: tuple[tuple[str, str], ...]) -> None:
        self.status = status
        self.headers = headers
        self.chunks: list[bytes] = []
        self.length = 0
        self.complete = False
        """False while it is being sent, and for ever when it was cut."""
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Remember `data`, which was flushed as one piece."""
        self.length += len(data)
        self._digest.update(data)
        if self.length <= MAX_KEPT:
            self.chunks.append(data)
        else:
            self.chunks.clear()

    @property
    def body(self) -> bytes:
        """All of it. Raises ValueError when it was too long to be kept; `length` and `sha256` are always there."""
        if self.length > MAX_KEPT:
            raise ValueError(f"only {MAX_KEPT} bytes are kept, this answer had {self.length}")
        return b"".join(self.chunks)

    @property
    def sha256(self) -> str:
        """The digest of everything that was sent, in hex."""
        return self._digest.hexdigest()
