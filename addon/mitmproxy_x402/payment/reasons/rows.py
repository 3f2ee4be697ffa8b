"""Writes the rows for x402.toml that make an entry payable if its network or token is not known."""

from __future__ import annotations

import re

from solders.pubkey import Pubkey

from ...protocol.evm.address import parse_address
from ...protocol.messages import PaymentRequirements
from ...protocol.networks import Family, Network
from ...protocol.patterns import EVM_NETWORK, SVM_NETWORK
from ...schemes import GATEWAY_DOMAIN

_EVM_NETWORK = re.compile(EVM_NETWORK)
_SVM_NETWORK = re.compile(SVM_NETWORK)
MAX_FACT = 32
"""Most characters of a signing domain that a seller wrote and rows repeat."""


def why_never(requirement: PaymentRequirements, network: Network | None) -> str:
    """Why no row can make `requirement` payable, as half a sentence; empty: one can. `network` is None if unknown."""
    family = _family(requirement, network)
    if family is None:
        return "no network has that name, and none of its kind can be added"
    try:
        if family == "evm":
            parse_address(requirement.asset)
        else:
            Pubkey.from_string(requirement.asset)
    except ValueError as error:
        return f"the asset {error if family == 'evm' else 'is not a mint, which is 32 bytes in base58'}"
    return ""


def advice(what: str, requirement: PaymentRequirements, network: Network | None) -> str:
    """How to pay `what`, "there" or "with it": the rows for `requirement`, or what to look up for them."""
    rows = _rows(requirement, network)
    if not rows:
        tables = "[[asset]]" if network else "[[network]] and [[asset]]"
        return f"To pay {what}, describe it with {tables} in x402.toml (docs/configuration.md)."
    return (
        f"To pay {what}, compare these rows with the token's own contract (wrong decimals make your limits wrong, and "
        f"no seller can be believed there), and add them to x402.toml:\n{rows}"
    )


def _rows(requirement: PaymentRequirements, network: Network | None) -> str:
    """The rows; empty if the challenge does not say enough."""
    family, where, rows = _family(requirement, network), network.name if network else "", ""
    if network is None:
        chain = requirement.network.partition(":")[2]
        where = f"chain-{chain}" if family == "evm" else f"solana-{chain[:8].lower()}"
        rows = f'[[network]]\ncaip2 = "{requirement.network}"\nname = "{where}"\n'
    rows += (
        f'[[asset]]\nnetwork = "{where}"\naddress = "{requirement.asset}"\nsymbol = "UNKNOWN"\n'
        "decimals = 6  # compare\n"
    )
    if family != "evm":
        return rows
    name, version = requirement.extra.get("name"), requirement.extra.get("version")
    if not _is_plain(name) or not _is_plain(version) or name == GATEWAY_DOMAIN:  # Circle's domain is not the token's
        return ""
    return f'{rows}domain_name = "{name}"\ndomain_version = "{version}"\n'


def _is_plain(fact: object) -> bool:
    """Whether `fact`, which a seller wrote, can be pasted into x402.toml: its quotes cannot end early."""
    plain = isinstance(fact, str) and 0 < len(fact) <= MAX_FACT and fact.isprintable()
    return plain and not set(str(fact)) & {'"', "\\"}


def _family(requirement: PaymentRequirements, network: Network | None) -> Family | None:
    if network is not None:
        return network.family
    if _EVM_NETWORK.fullmatch(requirement.network):
        return "evm"
    return "svm" if _SVM_NETWORK.fullmatch(requirement.network) else None
