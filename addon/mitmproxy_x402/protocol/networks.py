"""The table of networks and assets that can be paid with, and all facts about them that a signature depends on.

A challenge can only pick a row of this table. It never supplies the chain id, the asset or the signing domain, because
that would let the gateway choose what a signature means. More rows come only from the user's configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from .known_networks import KNOWN, KnownNetwork
from .messages import AtomicUnits, Caip2

Family = Literal["evm", "svm"]
TOKEN_PROGRAM = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA"
"""The classic SPL Token program."""
TOKEN_2022_PROGRAM = "TokenzQdBNbLqP5VEhdkAS6EPFLC1PHnBqCXEpPxuEb"


@dataclass(frozen=True)
class Asset:
    """A dollar stablecoin on one network. Limits count every asset as dollars, one to one."""

    address: str
    """EVM: the contract, with checksum. Solana: the mint, base58."""
    symbol: str = "USDC"
    decimals: int = 6
    domain_name: str = ""
    """EIP-712 domain name; EVM only."""
    domain_version: str = ""
    """EIP-712 domain version; EVM only."""
    token_program: str = ""
    """Token program that owns the mint; Solana only."""
    eip3009: bool = True
    """Whether the contract takes TransferWithAuthorization; without it only Permit2 can move it. EVM only."""
    eip2612: bool = True
    """Whether the contract takes Permit, by which a seller can sponsor the allowance to Permit2. EVM only."""

    def micro_usd(self, amount: AtomicUnits) -> int:
        """`amount` in millionths of a dollar, rounded up, so that a limit is never passed by rounding."""
        if self.decimals <= 6:
            return amount * int(10 ** (6 - self.decimals))
        return -(-amount // int(10 ** (self.decimals - 6)))


@dataclass(frozen=True)
class Network:
    """One chain. `aliases` are the names that people and version 1 of the protocol use for it."""

    caip2: Caip2
    family: Family
    name: str
    """Short and human, also the version-1 name: `base`, `solana-devnet`."""
    assets: tuple[Asset, ...]
    chain_id: int = 0
    """EIP-155 chain id; EVM only."""

    def asset(self, address: str) -> Asset | None:
        """The asset at `address`, or None. EVM addresses compare without case, mints exactly."""
        fold = str.lower if self.family == "evm" else str
        return next((a for a in self.assets if fold(a.address) == fold(address)), None)


class NetworkTable:
    """An immutable table of networks, looked up by CAIP-2 name or by short name.

    A row may be known without being enabled: it is not paid on until the user names it, and `known` alone finds it.
    """

    def __init__(self, rows: Iterable[Network], known: Iterable[Network] = ()) -> None:
        self._rows = tuple(rows)
        self._by_name = {key: row for row in self._rows for key in (row.caip2, row.name)}
        self._known = tuple(row for row in known if not {row.caip2, row.name} & self._by_name.keys())
        self._known_by_name = {key: row for row in self._known for key in (row.caip2, row.name)}

    def __iter__(self) -> Iterator[Network]:
        """The enabled networks."""
        return iter(self._rows)

    def get(self, name: str) -> Network | None:
        """The enabled network that `name` (CAIP-2 or short) stands for, or None when the table has no such row."""
        return self._by_name.get(name)

    def known(self, name: str) -> Network | None:
        """Like `get`, but also finds networks that are known and not enabled."""
        return self._by_name.get(name) or self._known_by_name.get(name)

    @property
    def waiting(self) -> tuple[Network, ...]:
        """The networks that are known and not enabled."""
        return self._known

    def enabling(self, names: Iterable[str]) -> NetworkTable:
        """This table with the known networks of `names` enabled; `names` without a row say nothing."""
        added = {row.caip2: row for row in map(self._known_by_name.get, names) if row is not None}
        return self if not added else NetworkTable([*self._rows, *added.values()], self._known)

    def extended(self, rows: Iterable[Network]) -> NetworkTable:
        """This table with `rows` added; a row for a known network replaces it."""
        added = {row.caip2: row for row in rows}
        kept = [added.pop(row.caip2, row) for row in self._rows]
        return NetworkTable([*kept, *added.values()], self._known)


def _usdc_evm(name: str, chain_id: int, address: str, domain_name: str) -> Network:
    asset = Asset(address, domain_name=domain_name, domain_version="2")
    return Network(Caip2(f"eip155:{chain_id}"), "evm", name, (asset,), chain_id)


def _usdc_svm(name: str, genesis: str, mint: str) -> Network:
    return Network(Caip2(f"solana:{genesis}"), "svm", name, (Asset(mint, token_program=TOKEN_PROGRAM),))


ENABLED = (
    _usdc_evm("base", 8453, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin"),
    _usdc_evm("base-sepolia", 84532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC"),
    _usdc_evm("arc", 5042, "0x3600000000000000000000000000000000000000", "USDC"),
    _usdc_svm("solana", "5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"),
    _usdc_svm("solana-devnet", "EtWTRABZaYq6iMfeYKouRu166VU2xqa1", "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"),
)
"""Paid on without being named."""


def _known(row: KnownNetwork) -> Network:
    assets = tuple(Asset(*token) for token in row.tokens)
    return Network(Caip2(f"eip155:{row.chain_id}"), "evm", row.name, assets, row.chain_id)


BUILT_IN = NetworkTable(ENABLED, map(_known, KNOWN))
