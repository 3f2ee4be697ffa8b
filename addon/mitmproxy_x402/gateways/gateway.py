"""What is asked of a gateway's manners, and the answers of the x402 standard."""

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
    """What a gateway says with the code of a rejection. It is its word, and frees no money."""

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
    """One vendor's manners."""

    measures: Mapping[str, Measure]
    """What a price may be made from, by a name of ours."""
    receipt_header: str
    """The header that holds the id of the payment's transaction, and nothing else; empty: there is none."""
    proof_header: str
    """The header that holds a proof of who polls; empty: there is none."""

    def is_code(self, text: str) -> bool:
        """Whether `text` is a code by which this gateway rejects payments, in the field `code` of its answers."""

    def meaning(self, code: str) -> Meaning:
        """What a code of this gateway, or a reason of the reference facilitators, says."""

    def plain_path(self, path: str) -> str:
        """The form of a decoded path that it shares with its aliases."""

    def polled(self, path: str) -> tuple[Kind, str] | None:
        """Kind and id of the job that `path` polls with a proof of who polls; None: it asks for none."""

    def proof(self, sign: Sign, wallet: str, job: tuple[Kind, str], now: int) -> tuple[tuple[bytes, bytes], ...]:
        """Headers that prove who polls `job`, at `now` in Unix seconds; `wallet` is the public address."""


_SPENT = re.compile(r"duplicate_settlement|permit2_invalid_nonce|[a-z0-9_]*nonce_already_used")
_UNFUNDED = re.compile(r"insufficient_funds|[a-z0-9_]*insufficient_balance")


LENGTHS: Mapping[str, Measure] = {
    "bytes": lambda size, _: size,
    "characters": lambda _, characters: characters,
}


class Standard:
    """The `Gateway` that does as the x402 specification and its reference servers do."""

    measures: Mapping[str, Measure] = LENGTHS
    receipt_header = ""
    proof_header = ""

    def is_code(self, text: str) -> bool:  # noqa: ARG002
        """None: reasons stand in the terms and in the receipt."""
        return False

    def meaning(self, code: str) -> Meaning:
        """By the reasons of the reference facilitators (x402 v2, section 9)."""
        if _SPENT.fullmatch(code):
            return Meaning.SPENT
        return Meaning.UNFUNDED if _UNFUNDED.fullmatch(code) else Meaning.OTHER

    def plain_path(self, path: str) -> str:
        """The path itself."""
        return path

    def polled(self, path: str) -> tuple[Kind, str] | None:  # noqa: ARG002
        """None."""
        return None

    def proof(self, sign: Sign, wallet: str, job: tuple[Kind, str], now: int) -> tuple[tuple[bytes, bytes], ...]:
        """None."""
        del sign, wallet, job, now
        return ()


STANDARD = Standard()
