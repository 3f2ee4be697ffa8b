"""Reads the `[[network]]` and `[[asset]]` tables of x402.toml.

These tables decide what a signature means. So every field is checked, nothing has a default that a chain could
contradict, and built-in values cannot be changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import SettingsError
from ..protocol.messages import Caip2
from ..protocol.networks import BUILT_IN, TOKEN_2022_PROGRAM, TOKEN_PROGRAM, Asset, Network, NetworkTable
from ..protocol.patterns import EVM_ADDRESS, EVM_NETWORK, SVM_ADDRESS, SVM_NETWORK
from .suggest import unknown_key

NETWORK_KEYS = ("caip2", "name", "family", "chain_id")
ASSET_KEYS = ("network", "address", "symbol", "decimals", "domain_name", "domain_version", "token_program")

_EVM = re.compile(EVM_NETWORK)
_SVM = re.compile(SVM_NETWORK)
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SYMBOL = re.compile(r"[A-Za-z0-9.]{1,16}")
_EVM_ADDRESS = re.compile(EVM_ADDRESS)
_SVM_ADDRESS = re.compile(SVM_ADDRESS)
_DOMAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,64}")


def read_networks(where: str, document: Mapping[str, Any]) -> NetworkTable:
    """The built-in table with the rows of `document` added; `where` is the file's name for errors.

    Raises SettingsError: for a row that is incomplete, contradicts itself or a built-in row, or is there twice.
    """
    rows: dict[str, Network] = {row.caip2: row for row in BUILT_IN}
    for table in _tables(where, document, "network", NETWORK_KEYS):
        network = _network(table)
        for row in rows.values():
            if network.caip2 == row.caip2 or network.name == row.name:
                raise table.wrong(
                    "caip2" if network.caip2 == row.caip2 else "name", f"is already taken by {row.caip2} ({row.name})"
                )
        rows[network.caip2] = network
    for table in _tables(where, document, "asset", ASSET_KEYS):
        named = table.text("network", "the name or CAIP-2 name of a network")
        waiting = BUILT_IN.known(named)
        if waiting is not None and not {waiting.caip2, waiting.name} & {
            n for r in rows.values() for n in (r.caip2, r.name)
        }:
            rows[waiting.caip2] = waiting  # a token of the user's there: it is meant to be paid on
        row_found = next((row for row in rows.values() if named in (row.caip2, row.name)), None)
        if row_found is None:
            known = ", ".join(row.name for row in rows.values())
            raise table.wrong("network", f"expected one of {known}, or add it as [[network]]")
        asset = _asset(table, row_found)
        if row_found.asset(asset.address) is not None:
            raise table.wrong("address", f"is already known on {row_found.name}; remove it here")
        rows[row_found.caip2] = replace(row_found, assets=(*row_found.assets, asset))
    for row in rows.values():
        if not row.assets:
            raise SettingsError(f"{where}: [[network]] {row.name}: has no asset to pay with; add one as [[asset]]")
    return BUILT_IN.extended(rows.values())


class _Table:
    """One `[[...]]` table of the file, and how errors name it."""

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self.where = where
        self.values = values

    def wrong(self, key: str, allowed: str) -> SettingsError:
        said = f" = {self.values[key]!r:.60}" if key in self.values else " is missing"
        return SettingsError(f"{self.where}: {key}{said}: {allowed}")

    def text(self, key: str, what: str, pattern: re.Pattern[str] | None = None, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
            raise self.wrong(key, f"expected {what}")
        return value

    def forbid(self, key: str, family: str) -> None:
        if key in self.values:
            raise self.wrong(key, f"only a network of the other family has this; remove it for {family}")


def _tables(where: str, document: Mapping[str, Any], name: str, keys: tuple[str, ...]) -> list[_Table]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{where}: {name}: expected tables that begin with [[{name}]]")
    for number, values in enumerate(tables, 1):
        for key in values:
            if key not in keys:
                raise SettingsError(f"{where}: [[{name}]] number {number}: {unknown_key(key, keys)}")
    return [_Table(f"{where}: [[{name}]] number {number}", values) for number, values in enumerate(tables, 1)]


def _network(table: _Table) -> Network:
    expected = "eip155:<chain id>, or solana: and the first 32 characters of the genesis hash"
    caip2 = Caip2(table.text("caip2", expected))
    found = _EVM.fullmatch(caip2)
    if not found and not _SVM.fullmatch(caip2):
        raise table.wrong("caip2", f"expected {expected}")
    name = table.text("name", "a short name of small letters, digits and dashes", _NAME)
    if table.values.get("family", "evm" if found else "svm") != ("evm" if found else "svm"):
        raise table.wrong("family", f"{caip2} is {'evm' if found else 'svm'}; leave the key out")
    if not found:
        table.forbid("chain_id", "svm")
        return Network(caip2, "svm", name, ())
    chain_id = int(found[1])
    given = table.values.get("chain_id", chain_id)
    if isinstance(given, bool) or given != chain_id:
        raise table.wrong("chain_id", f"{caip2} says {chain_id}; leave the key out")
    return Network(caip2, "evm", name, (), chain_id)


def _asset(table: _Table, network: Network) -> Asset:
    decimals = table.values.get("decimals")
    if isinstance(decimals, bool) or not isinstance(decimals, int) or not 0 <= decimals <= 18:
        raise table.wrong("decimals", "expected the token's own number of decimals, 0 to 18")
    symbol = table.text("symbol", "one to sixteen letters or digits", _SYMBOL)
    if network.family == "evm":
        table.forbid("token_program", "evm")
        return Asset(
            _evm_address(table),
            symbol,
            decimals,
            domain_name=table.text("domain_name", "the contract's EIP-712 domain name", _DOMAIN),
            domain_version=table.text("domain_version", 'the contract\'s EIP-712 domain version, as in "2"', _DOMAIN),
        )
    table.forbid("domain_name", "svm")
    table.forbid("domain_version", "svm")
    program = table.text("token_program", "the program that owns the mint", default=TOKEN_PROGRAM)
    if program not in (TOKEN_PROGRAM, TOKEN_2022_PROGRAM):
        raise table.wrong("token_program", f"expected {TOKEN_PROGRAM} or {TOKEN_2022_PROGRAM}")
    return Asset(_svm_address(table), symbol, decimals, token_program=program)


def _evm_address(table: _Table) -> str:
    address = table.text("address", "0x and 40 hex digits", _EVM_ADDRESS)
    from eth_utils.address import to_checksum_address  # noqa: PLC0415  (slow to import, and rarely needed)

    checksummed = str(to_checksum_address(address))
    if address != checksummed and address[2:] not in (address[2:].lower(), address[2:].upper()):
        raise table.wrong("address", f"its capitals are a checksum and do not fit; {checksummed} would")
    return checksummed


def _svm_address(table: _Table) -> str:
    expected = "the mint's address: base58 of 32 bytes"
    address = table.text("address", expected, _SVM_ADDRESS)
    from solders.pubkey import Pubkey  # noqa: PLC0415  (rarely needed)

    try:
        return str(Pubkey.from_string(address))
    except ValueError:
        raise table.wrong("address", f"expected {expected}") from None


def require_enabled(networks: NetworkTable, name: str) -> None:
    """Raises SettingsError: `name` is of a network that is known but not enabled."""
    row = next((row for row in networks.waiting if name in (row.name, row.caip2)), None)
    if row is not None:
        raise SettingsError(
            f"--network {row.name} is known but not enabled: add --set x402_networks={row.name}, or name it in "
            "x402_networks where you set that for the proxy"
        )
