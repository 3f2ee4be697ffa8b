"""What BlockRun does its own way: hosts, error codes, receipts, prices, a second path for everything, signed polls.

Measured on the live service, whose source is closed.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import unquote

from .gateway import LENGTHS, Kind, Meaning, Measure, Sign, Standard

SOLANA_GATEWAY = "https://sol.blockrun.ai"
BASE_GATEWAY = "https://blockrun.ai"
SOLANA_RPC = f"{SOLANA_GATEWAY}/api/v1/solana/rpc"
ALIAS = "/api"
"""The gateway serves every path with and without this prefix."""

_DOMAIN = "blockrun.ai"
_CODE = re.compile(r"(PAYMENT|SETTLEMENT)_[A-Z_]{1,40}")
_MEANINGS = {
    "PAYMENT_UNDERPAID": Meaning.NOT_TAKEN,
    "PAYMENT_BLOCKHASH_STALE": Meaning.STALE,
    "PAYMENT_REPLAY": Meaning.SPENT,
    "PAYMENT_UNFUNDED": Meaning.UNFUNDED,
}
_KINDS: dict[str, Kind] = {"videos": "video", "audio": "audio", "images": "image"}
_MEDIA = re.compile(rf"(?:{ALIAS})?/v1/(videos|audio|images)/[^/]+/([^/]+)")
_SIGNATURE = "x-poll-signature"


@functools.lru_cache(maxsize=64)
def is_own(host: str) -> bool:
    """Whether `host` is BlockRun's, or loopback, where the sandbox imitates it."""
    name = host.lower().rstrip(".")
    if name in (_DOMAIN, "localhost") or name.endswith(f".{_DOMAIN}"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _tokens(length: Measure, shift: int) -> Measure:
    """A measure of four bytes or characters a token; the text counted may be a few longer or shorter than the body."""
    return lambda size, characters: (length(size, characters) + shift) // 4


class BlockRun(Standard):
    """The `Gateway` of BlockRun, which also gives the reasons of the reference facilitators."""

    measures: Mapping[str, Measure] = {
        **LENGTHS,
        **{f"{name} {shift}": _tokens(length, shift) for name, length in LENGTHS.items() for shift in range(4)},
    }
    receipt_header = "X-Payment-Receipt"
    proof_header = _SIGNATURE

    def is_code(self, text: str) -> bool:
        """Whether `text` has the form `PAYMENT_...` or `SETTLEMENT_...`."""
        return _CODE.fullmatch(text) is not None

    def meaning(self, code: str) -> Meaning:
        """What a code says. Only with STALE and UNDERPAID does the vendor say that nothing was broadcast."""
        return _MEANINGS.get(code) or super().meaning(code)

    def plain_path(self, path: str) -> str:
        """`path` without the alias."""
        return path.removeprefix(ALIAS) if path.startswith(f"{ALIAS}/v1") else path

    def polled(self, path: str) -> tuple[Kind, str] | None:
        """Kind and id of the media job that `path` polls; None: it is no such path."""
        found = _MEDIA.fullmatch(path.partition("?")[0])
        return (_KINDS[found[1]], unquote(found[2])) if found else None

    def proof(self, sign: Sign, wallet: str, job: tuple[Kind, str], now: int) -> tuple[tuple[bytes, bytes], ...]:
        """Headers with a signature over the job's id and the time. It moves nothing and is accepted for 300 s."""
        from solders.signature import Signature  # noqa: PLC0415 - not at the start: who pays on EVM never needs it

        kind, job_id = job
        signed = Signature(sign(f"blockrun-poll:v1:{kind}:{job_id}:{now}".encode()))
        values = {"x-poll-wallet": wallet, "x-poll-timestamp": str(now), _SIGNATURE: str(signed)}
        return tuple((name.encode(), value.encode()) for name, value in values.items())


GATEWAY = BlockRun()
