"""The interface for what vendors do differently, and its implementation for the x402 standard."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

Kind = Literal["video", "audio", "image"]
Measure = Callable[[int, int], int]
"""A measure of a request's size, from the bytes and the characters of its body."""
Sign = Callable[[bytes], bytes]
"""Makes the wallet's ed25519 signature of a message."""


class Meaning(enum.Enum):
    """What the code of a rejection means. It is only the gateway's word, and frees no money."""

    NOT_TAKEN = "nothing was broadcast, and a fresh signature helps"
    STALE = "the same, since its blockhash has died"
    SPENT = "it was spent, or is being spent, already"
    UNFUNDED = "the wallet could not pay: another signature would be no better"
    OTHER = "anything else"

    @property
    def is_not_taken(self) -> bool:
        """Whether nothing was broadcast."""
        return self in (Meaning.NOT_TAKEN, Meaning.STALE)


class Gateway(Protocol):
    """What one vendor does its own way."""

    measures: Mapping[str, Measure]
    """The measures of a request's size on which its prices may depend, by name."""
    receipt_header: str
    """The header that holds the id of the payment's transaction, and nothing else; empty: there is none."""
    proof_header: str
    """The header of a poll's proof; empty: it has none."""

    def is_code(self, text: str) -> bool:
        """Whether `text` is a code by which this gateway rejects payments, in the field `code` of its answers."""

    def meaning(self, code: str) -> Meaning:
        """What a code of this gateway, or a reason of the reference facilitators, says."""

    def plain_path(self, path: str) -> str:
        """The form of a decoded path that is the same for all its aliases."""

    def polled(self, path: str) -> tuple[Kind, str] | None:
        """Kind and id of the job that `path` polls with a proof; None: no proof is needed."""

    def proof(self, sign: Sign, wallet: str, job: tuple[Kind, str], now: int) -> tuple[tuple[bytes, bytes], ...]:
        """Headers that prove, at `now` (Unix seconds), that `job` is polled by the wallet with that public address."""


_SPENT = re.compile(r"duplicate_settlement|permit2_invalid_nonce|[a-z0-9_]*nonce_already_used")
_UNFUNDED = re.compile(r"insufficient_funds|[a-z0-9_]*insufficient_balance")


LENGTHS: Mapping[str, Measure] = {
    "bytes": lambda size, _: size,
    "characters": lambda _, characters: characters,
}


class Standard:
    """The behaviour of the x402 specification and its reference servers."""

    measures: Mapping[str, Measure] = LENGTHS
    receipt_header = ""
    proof_header = ""

    def is_code(self, text: str) -> bool:  # noqa: ARG002
        """False: the standard puts reasons in the terms and the receipt."""
        return False

    def meaning(self, code: str) -> Meaning:
        """What a reason of the reference facilitators says (x402 v2, section 9)."""
        if _SPENT.fullmatch(code):
            return Meaning.SPENT
        return Meaning.UNFUNDED if _UNFUNDED.fullmatch(code) else Meaning.OTHER

    def plain_path(self, path: str) -> str:
        """`path` itself: there are no aliases."""
        return path

    def polled(self, path: str) -> tuple[Kind, str] | None:  # noqa: ARG002
        """None: the standard has no proofs."""
        return None

    def proof(self, sign: Sign, wallet: str, job: tuple[Kind, str], now: int) -> tuple[tuple[bytes, bytes], ...]:
        """Nothing: the standard has no proofs."""
        del sign, wallet, job, now
        return ()


STANDARD = Standard()
