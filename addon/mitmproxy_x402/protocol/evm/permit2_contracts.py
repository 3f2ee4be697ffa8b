"""The contracts that settle payments over Permit2: their addresses, and a reader for calls to them.

Permit2 and the two settling contracts have the same addresses on all chains (x402 specs, schemes/exact and
schemes/upto).
"""

from __future__ import annotations

from typing import NamedTuple

from .keccak import keccak

PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
SETTLERS: dict[str, str] = {
    "permit2": "0x402085c248EeA27D92E8b30b2C58ed07f9E20001",
    "upto": "0x4020A4f3b7b90ccA423B9fabCc0CE57C6C240002",
}
"""By method: `permit2` takes exactly what was signed for, `upto` any part of it."""

_PERMIT = "((address,uint256),uint256,uint256)"
_EIP2612 = "(uint256,uint256,bytes32,bytes32,uint8)"
_EXACT = "address,(address,uint256),bytes)"
_UPTO = "uint256,address,(address,address,uint256),bytes)"


class Call(NamedTuple):
    """A call of a settling contract."""

    owner: str
    """The address whose tokens it takes, in lower case."""
    nonce: int
    """The Permit2 nonce that it uses."""


def _selector(signature: str) -> str:
    return keccak(signature.encode())[:4].hex()


# Where nonce and owner are, counted in words of 32 bytes behind the selector.
_PLACES = {
    ("permit2", _selector(f"settle({_PERMIT},{_EXACT}")): (2, 4),
    ("permit2", _selector(f"settleWithPermit({_EIP2612},{_PERMIT},{_EXACT}")): (7, 9),
    ("upto", _selector(f"settle({_PERMIT},{_UPTO}")): (2, 5),
    ("upto", _selector(f"settleWithPermit({_EIP2612},{_PERMIT},{_UPTO}")): (7, 10),
}
_METHODS = {address.lower(): method for method, address in SETTLERS.items()}


def read_call(to: object, data: object) -> Call | None:
    """The call that a transaction to `to` with the input `data` (hex with 0x) makes; None: not to a settler."""
    if not isinstance(to, str) or not isinstance(data, str):
        return None
    place = _PLACES.get((_METHODS.get(to.lower(), ""), data[2:10].lower()))
    if place is None:
        return None
    nonce, owner = (data[10 + 64 * word : 74 + 64 * word] for word in place)
    try:
        return Call(f"0x{owner[24:].lower()}", int(nonce, 16)) if len(owner) == 64 else None
    except ValueError:
        return None
