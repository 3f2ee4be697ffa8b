"""The sandbox's configuration: one frozen SandboxConfig, validated when it is made."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import SettingsError
from ..protocol.messages import X402Version
from ..protocol.networks import BUILT_IN, Network, NetworkTable
from .faults import read_faults

Settle = Literal["vendor", "before", "after", "parallel"]
"""When money moves. `before` the work starts; `after` it succeeded (a stream: after its last chunk, or when it dies);
`parallel`: along with the work, so a failing answer is charged too and says nothing of it. `vendor` is what the real
gateway is reported to do: `after` on EVM, `parallel` on Solana."""

Scheme = Literal["exact", "permit2", "upto", "gateway"]
"""How payment is asked for: `exact` (EIP-3009, or a Solana transaction); on EVM also `permit2` (exact over Permit2),
`upto` (a ceiling, charged by the answer's length) and `gateway` (exact by Circle Gateway)."""

Where = Literal["both", "header", "body"]
"""Where a version-2 challenge is written; version 1 always uses the body."""

DEFAULT_PORT = 4420
ANY_BALANCE = 1_000_000_000
"""Opening balance of a new address: a thousand dollars of play money."""


@dataclass(frozen=True)
class SandboxConfig:
    """All settings of a sandbox. Raises SettingsError or UnknownFault, which name field, value and what is allowed."""

    networks: tuple[str, ...] = ("base-sepolia",)
    """Networks to offer, by short or CAIP-2 name, in order."""
    table: NetworkTable = BUILT_IN
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    allow_remote: bool = False
    """Whether to listen on other than loopback addresses."""
    certfile: Path | None = None
    keyfile: Path | None = None
    x402_version: X402Version = 2
    challenge_in: Where = "both"
    rejection_challenge: bool = True
    """Whether the 402 of a rejection has a new challenge, too, in its header (version 1: in its body)."""
    schemes: tuple[Scheme, ...] = ("exact",)
    """Schemes to offer, in order, on each network that supports them."""
    sponsored: bool = True
    """Whether to pay the gas of an EIP-2612 permit for payments over Permit2."""
    allowance: int = 0
    """Permit2 allowance of a new address, in atomic units."""
    unusable: bool = False
    """Whether to add an entry that is cheaper than all others and cannot be paid: its `payTo` is mistyped."""
    official: bool = False
    """Whether rejections give their reason like the reference servers: in the header, with the body `{}`."""
    decoys: bool = True
    """Whether to offer `upto` (EVM) and `batch-settlement` (Solana), too, at higher amounts."""
    shuffle: int | None = None
    """A seed: the entries of each challenge come in a different, repeatable order. None: `exact` first."""
    recent_blockhash: bool = True
    """Whether to put `recentBlockhash` and `lastValidBlockHeight` into Solana entries; if not, payers need the RPC."""
    memo: str = ""
    """A seller's memo (`extra.memo`) in Solana entries."""
    blockhash_seconds: int = 60
    payment_flow: str = ""
    """`extra.paymentFlow` of every exact entry; `upfront` also means that failed work is not refunded."""
    max_timeout_seconds: int = 300
    settle: Settle = "vendor"
    settle_late: float = 0
    """Seconds from the end of the work until money moves, where it moves `after` the work."""
    free: bool = False
    """Whether everything is free, for comparing clients without a payer."""
    opening_balance: int = ANY_BALANCE
    """Atomic units of play money that an unknown address has."""
    job_polls: int = 2
    """Polls of a job that are answered before it is done: `queued`, then `in_progress`."""
    job_seconds: int = 24 * 3600
    """Seconds for which a job is known."""
    chunk_seconds: float = 0
    """Pause between the events of a stream, so that a person sees it arrive."""
    fault: str = ""
    """Faults of every request, as in the header; a request's own header replaces it."""
    keep: int = 10_000
    """Most requests, payments and answers in memory; the oldest are dropped."""
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.networks:
            raise SettingsError(f"networks is empty; name one or more of {self._known()}.")
        for name in self.networks:
            if self.table.get(name) is None:
                raise SettingsError(f"networks: {name!r} is unknown; known are {self._known()}.")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port must be 0 (any) to 65535, got {self.port}.")
        if not self.allow_remote and not is_loopback(self.host):
            raise SettingsError(
                f"host {self.host!r} is not a loopback address; play money is for this machine only."
                " Use 127.0.0.1, or allow it with allow_remote (--allow-remote)."
            )
        unknown = [each for each in self.schemes if each not in ("exact", "permit2", "upto", "gateway")]
        if unknown or not self.schemes:
            raise SettingsError(
                f"schemes: {', '.join(unknown) or 'none'}; expected some of exact, permit2, upto, gateway."
            )
        if "exact" not in self.schemes and not any(row.family == "evm" for row in self.offered):
            raise SettingsError("schemes: on Solana only exact is offered; name it, or an EVM network.")
        if self.x402_version == 1 and self.schemes != ("exact",):
            raise SettingsError("schemes: version 1 of x402 has only exact.")
        if self.job_polls < 0:
            raise SettingsError(f"job_polls must be 0 or more, got {self.job_polls}.")
        if (self.certfile is None) != (self.keyfile is None):
            raise SettingsError("certfile and keyfile belong together: give both for TLS, or none.")
        if len(self.memo.encode()) > 256:
            raise SettingsError(f"memo must be at most 256 bytes, got {len(self.memo.encode())}.")
        read_faults(self.fault)
        if self.x402_version not in (1, 2):
            raise SettingsError(f"x402_version must be 1 or 2, got {self.x402_version!r}.")

    @property
    def offered(self) -> tuple[Network, ...]:
        """The networks as rows of the table."""
        rows = (self.table.get(name) for name in self.networks)
        return tuple(row for row in rows if row is not None)

    def _known(self) -> str:
        return ", ".join(row.name for row in self.table)


def is_loopback(host: str) -> bool:
    """Whether `host` is a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
