"""Simulates Circle Gateway: EIP-3009 messages for its own contract, paid from balances deposited there.

The rules are those of Circle's SDK and documentation: the contract's signing domain, the exact amount, seven days of
validity left, a nonce that was never used, and the balance in the contract.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from eth_hash.auto import keccak

from .evm_payloads import Transfer, checksum_address, read_transfer, signer, transfer_digest, uint, word
from .interface import INVALID, REPLAY, SETTLEMENT_FAILED, UNDERPAID, UNFUNDED, Rejected, Verified

NAME, VERSION = "GatewayWalletBatched", "1"
WALLETS = {True: "0x77777777Dcc4d5A8B6E418Fd04D8997ef11000eE", False: "0x0077777d7EBA4688BDeF3E311b846F25870A19B9"}
"""The contract on mainnets, and on testnets."""
MAINNETS = frozenset({1, 10, 130, 137, 146, 480, 999, 1329, 5042, 8453, 42161, 43114})
MIN_SECONDS_LEFT = 7 * 24 * 3600
VALIDITY = 604_900
"""What entries ask for: a hundred seconds more than is needed."""

_DOMAIN = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"


class Circle:
    """The balances of one chain that lie in the contract; an address that was never seen has the opening one."""

    def __init__(self, chain_id: int, opening: int, clock: Callable[[], float]) -> None:
        self.contract = WALLETS[chain_id in MAINNETS]
        self._opening = opening
        self._clock = clock
        parts = (keccak(_DOMAIN), keccak(NAME.encode()), keccak(VERSION.encode()), uint(chain_id), word(self.contract))
        self._separator = keccak(b"".join(parts))
        self.balances: dict[str, int] = {}
        self._used: set[tuple[str, str]] = set()

    def extra(self) -> dict[str, Any]:
        """Its part of an entry's `extra`."""
        return {"name": NAME, "version": VERSION, "verifyingContract": self.contract}

    def balance(self, address: str) -> int:
        """Atomic units of `address` in the contract."""
        return self.balances.get(address.lower(), self._opening)

    def verify(self, entry: Mapping[str, Any], amount: int, payload: Mapping[str, Any]) -> Verified:
        """The transfer that `payload` signs for. Raises Rejected with the first rule that it breaks."""
        transfer, signature = read_transfer(payload)
        if transfer.to != str(entry["payTo"]).lower():
            raise Rejected(INVALID, "recipient_mismatch")
        if transfer.value != amount:
            raise Rejected(UNDERPAID if transfer.value < amount else INVALID, "amount_mismatch")
        now = int(self._clock())
        if transfer.valid_before < now + MIN_SECONDS_LEFT or transfer.valid_after > now:
            raise Rejected(INVALID, "authorization_validity_too_short")
        if signer(signature, transfer_digest(self._separator, transfer)) != transfer.sender:
            raise Rejected(INVALID, "invalid_signature")
        self._check(transfer)
        return Verified(checksum_address(transfer.sender), transfer.nonce, CircleTransfer(transfer))

    def settle(self, transfer: Transfer) -> str:
        """Take the money; returns the id of the transfer, which reaches the chain later. Raises Rejected."""
        self._check(transfer, SETTLEMENT_FAILED)
        self._used.add((transfer.sender, transfer.nonce))
        self.balances[transfer.sender] = self.balance(transfer.sender) - transfer.value
        return str(uuid.UUID(bytes=keccak(bytes.fromhex(transfer.nonce[2:]))[:16], version=4))

    def _check(self, transfer: Transfer, unfunded: str = UNFUNDED) -> None:
        if (transfer.sender, transfer.nonce) in self._used:
            raise Rejected(REPLAY, "nonce_already_used")
        if self.balance(transfer.sender) < transfer.value:
            raise Rejected(unfunded, "insufficient_balance")


class CircleTransfer:
    """What `Circle.settle` takes, told apart from a transfer of the token."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
