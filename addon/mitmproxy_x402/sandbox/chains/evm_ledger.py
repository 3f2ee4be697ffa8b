"""EIP-3009 without a chain: recovers the signer, checks every rule of a facilitator, and moves play money.

The rules are those of the reference facilitator (x402 `exact` on EVM) and of the USDC contract: a signature over the
table's own domain, equal amounts, a window that is open and stays so for six seconds, a nonce that was never used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak

from ...protocol.networks import Asset, Network
from ...protocol.secp256k1 import ORDER, library
from .interface import INVALID, REPLAY, SETTLEMENT_FAILED, UNDERPAID, UNFUNDED, Rejected, Verified

MIN_SECONDS_LEFT = 6
"""A facilitator wants this long to get the transaction into a block."""

_DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_TRANSFER_TYPE = (
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")
_SIGNATURE = re.compile(r"(?:0x)?[0-9a-fA-F]{130}")
_NUMBER = re.compile(r"[0-9]{1,78}")
_WORD = 2**256


BLOCK_SECONDS = 0.05
"""From one block to the next: so a transaction is as deep as anybody wants within seconds."""


@dataclass(frozen=True)
class Transfer:
    """The signed message of EIP-3009. Addresses are lower case."""

    sender: str
    to: str
    value: int
    valid_after: int
    valid_before: int
    nonce: str


@dataclass(frozen=True)
class Settlement:
    """A transaction that moved money."""

    block: int
    transaction: str
    transfer: Transfer


class EvmLedger:
    """Balances and used nonces of one EVM network. `clock` gives Unix seconds."""

    def __init__(self, network: Network, opening_balance: int, clock: Callable[[], float]) -> None:
        self.network = network
        self.asset = network.assets[0]
        self.pay_to = checksum_address("0x" + keccak(b"mitmproxy-x402 sandbox " + network.name.encode())[12:].hex())
        self._opening = opening_balance
        self._clock = clock
        self._balances: dict[str, int] = {self.pay_to.lower(): 0}
        self._born = int(clock()) - 3600
        self.settlements: list[Settlement] = []
        """Everything that ever moved, in its order."""
        self._used: dict[tuple[str, str], Settlement] = {}
        self._separator = domain_separator(network, self.asset)

    def extra(self) -> dict[str, Any]:
        """The signing domain's name and version, which a payer must not believe but facilitators want to see."""
        return {"name": self.asset.domain_name, "version": self.asset.domain_version}

    def verify(self, entry: Mapping[str, Any], amount: int, payload: Mapping[str, Any]) -> Verified:
        """Raises Rejected with the first rule that `payload` breaks."""
        transfer, signature = _read(payload)
        if transfer.to != str(entry["payTo"]).lower():
            raise Rejected(INVALID, f"The authorization pays {transfer.to}; {entry['payTo']} was offered.")
        if transfer.value != amount:
            reason = UNDERPAID if transfer.value < amount else INVALID
            raise Rejected(reason, f"The authorization is for {transfer.value} units; exactly {amount} are due.")
        self._check_window(transfer, MIN_SECONDS_LEFT)
        if _signer(signature, transfer_digest(self._separator, transfer)) != transfer.sender:
            raise Rejected(INVALID, "The signature is not the payer's over this authorization on this network.")
        self._check_unused(transfer)
        if self.balance(transfer.sender) < transfer.value:
            raise Rejected(UNFUNDED, f"{transfer.sender} has {self.balance(transfer.sender)} units, {amount} are due.")
        return Verified(checksum_address(transfer.sender), transfer.nonce, transfer)

    def settle(self, verified: Verified, at: float | None = None) -> str:
        """As the token contract would: nonce, window and balance are checked again. Raises Rejected."""
        transfer: Transfer = verified.settlement
        moment = self._clock() if at is None else at
        self._check_unused(transfer)
        self._check_window(transfer, 1, moment)
        if self.balance(transfer.sender) < transfer.value:
            raise Rejected(SETTLEMENT_FAILED, "The transfer amount exceeds the payer's balance.")
        self._balances[transfer.sender] = self.balance(transfer.sender) - transfer.value
        self._balances[transfer.to] = self.balance(transfer.to) + transfer.value
        transaction = "0x" + keccak(b"settled" + bytes.fromhex(transfer.sender[2:] + transfer.nonce[2:])).hex()
        made = Settlement(self._block_at(moment), transaction, transfer)
        self._used[transfer.sender, transfer.nonce] = made
        self.settlements.append(made)
        return transaction

    def used(self, sender: str, nonce: str) -> list[Settlement]:
        """What used this nonce, if anything did; both in lower case."""
        made = self._used.get((sender, nonce))
        return [] if made is None else [made]

    def block_number(self) -> int:
        """Of the newest block."""
        return self._block_at(self._clock())

    def time_of(self, block: int) -> int:
        """When it was made, Unix seconds."""
        return self._born + int(block * BLOCK_SECONDS)

    def _block_at(self, moment: float) -> int:
        return int((moment - self._born) / BLOCK_SECONDS)

    def fund(self, address: str, amount: int) -> None:
        """Give `address` exactly `amount` atomic units."""
        self._balances[address.lower()] = amount

    def balance(self, address: str) -> int:
        """Atomic units; an address that was never seen has the opening balance."""
        return self._balances.get(address.lower(), self._opening)

    def _check_window(self, transfer: Transfer, seconds_left: int, moment: float | None = None) -> None:
        now = int(self._clock() if moment is None else moment)
        if transfer.valid_before < now + seconds_left:
            raise Rejected(INVALID, f"validBefore is {transfer.valid_before}; it is {now} now, too late to settle.")
        if transfer.valid_after >= now:
            raise Rejected(INVALID, f"validAfter is {transfer.valid_after}; it is only {now} now.")

    def _check_unused(self, transfer: Transfer) -> None:
        if (transfer.sender, transfer.nonce) in self._used:
            raise Rejected(REPLAY, "This authorization was settled before; its nonce is used.")


def domain_separator(network: Network, asset: Asset) -> bytes:
    """EIP-712 hash of the asset's signing domain."""
    name, version = (keccak(text.encode()) for text in (asset.domain_name, asset.domain_version))
    contract = bytes.fromhex(asset.address[2:]).rjust(32, b"\0")
    return keccak(keccak(_DOMAIN_TYPE) + name + version + _uint(network.chain_id) + contract)


def transfer_digest(separator: bytes, transfer: Transfer) -> bytes:
    """What the payer signs: EIP-712 over the domain and the transfer."""
    sender, to = (bytes.fromhex(address[2:]).rjust(32, b"\0") for address in (transfer.sender, transfer.to))
    numbers = b"".join(_uint(number) for number in (transfer.value, transfer.valid_after, transfer.valid_before))
    message = keccak(keccak(_TRANSFER_TYPE) + sender + to + numbers + bytes.fromhex(transfer.nonce[2:]))
    return keccak(b"\x19\x01" + separator + message)


def checksum_address(address: str) -> str:
    """`address` in the mixed case of EIP-55."""
    plain = address[2:].lower()
    digest = keccak(plain.encode()).hex()
    return "0x" + "".join(c.upper() if int(d, 16) > 7 else c for c, d in zip(plain, digest, strict=False))


def _read(payload: Mapping[str, Any]) -> tuple[Transfer, bytes]:
    authorization = payload.get("authorization")
    if not isinstance(authorization, Mapping):
        raise Rejected(INVALID, "The payload has no authorization; an EIP-3009 transfer is expected.")
    sender, to = (_text(authorization, name, _ADDRESS).lower() for name in ("from", "to"))
    value, after, before = (_number(authorization, name) for name in ("value", "validAfter", "validBefore"))
    nonce = _text(authorization, "nonce", _BYTES32).lower()
    signature = bytes.fromhex(_text(payload, "signature", _SIGNATURE).removeprefix("0x"))
    return Transfer(sender, to, value, after, before, nonce), signature


def _text(place: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str:
    value = place.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise Rejected(INVALID, f"{name} is missing or malformed.")
    return value


def _number(place: Mapping[str, Any], name: str) -> int:
    number = int(_text(place, name, _NUMBER))
    if number >= _WORD:
        raise Rejected(INVALID, f"{name} is beyond 256 bits.")
    return number


def _signer(signature: bytes, digest: bytes) -> str:
    """The address that signed, in lower case. Raises Rejected for a signature that no contract would take."""
    r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:64]))
    parity = signature[64] - 27 if signature[64] >= 27 else signature[64]  # facilitators put 0 and 1 right
    if parity not in (0, 1):
        raise Rejected(INVALID, f"The signature's v is {signature[64]}; the contract takes 27 and 28.")
    if not 0 < s <= ORDER // 2 or not 0 < r < ORDER:
        raise Rejected(INVALID, "The signature is malleable: its s must be in the lower half.")
    try:
        key = library().recover(signature[:64] + bytes([parity]), digest)
    except Exception as error:  # each library has its own
        raise Rejected(INVALID, "The signature belongs to no key.") from error
    return "0x" + keccak(key)[12:].hex()


def _uint(number: int) -> bytes:
    return number.to_bytes(32, "big")
