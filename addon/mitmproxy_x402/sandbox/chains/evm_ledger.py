"""Simulates an EIP-3009 token: recovers the signer, checks every rule of a facilitator, and moves play money.

The rules are those of the reference facilitator (x402 `exact` on EVM) and of the USDC contract: a signature over the
table's own domain, equal amounts, a window that is open and stays so for six seconds, a nonce that was never used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak

from ...protocol.networks import Asset, Network
from .circle import Circle
from .evm_payloads import Transfer, checksum_address, read_transfer, signer, transfer_digest, uint
from .evm_transactions import EvmTransactions
from .interface import INVALID, REPLAY, SETTLEMENT_FAILED, UNDERPAID, UNFUNDED, Rejected, Verified
from .permit2 import Permit2, Permitted

MIN_SECONDS_LEFT = 6
"""Seconds that a facilitator needs to get the transaction into a block."""

_DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"

BLOCK_SECONDS = 0.05
"""Seconds between two blocks; so short that a transaction is final within seconds."""


@dataclass(frozen=True)
class Settlement:
    """A transaction that moved money."""

    block: int
    transaction: str
    transfer: Transfer
    over_permit2: bool = False
    """Whether Permit2 moved it: `transfer` then says what moved, and has the Permit2 nonce."""


class EvmLedger:
    """Balances and used nonces of one EVM network. `clock` gives Unix seconds."""

    def __init__(
        self, network: Network, opening_balance: int, clock: Callable[[], float], *, allowance: int = 0
    ) -> None:
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
        facilitator = checksum_address("0x" + keccak(b"sandbox facilitator " + network.name.encode())[12:].hex())
        self.permit2 = Permit2(self, network.chain_id, self.asset.address, self._separator, facilitator)
        self.permit2.opening = allowance
        self.transactions = EvmTransactions(network.chain_id, self.asset, self.permit2, self.block_number)
        self.circle = Circle(network.chain_id, opening_balance, clock)
        """The balances that lie with Circle Gateway."""

    def extra(self) -> dict[str, Any]:
        """The signing domain's name and version, which a payer must not believe but facilitators want to see."""
        return {"name": self.asset.domain_name, "version": self.asset.domain_version}

    def now(self) -> int:
        """Unix seconds."""
        return int(self._clock())

    def move(self, sender: str, to: str, amount: int) -> None:
        """Take `amount` from one and give it to the other; both in lower case."""
        self._balances[sender] = self.balance(sender) - amount
        self._balances[to] = self.balance(to) + amount

    def verify(
        self, entry: Mapping[str, Any], amount: int, payload: Mapping[str, Any], extensions: Any = None
    ) -> Verified:
        """The transfer that `payload` signs for. Raises Rejected with the first rule that it breaks."""
        extra = entry.get("extra") or {}
        if entry.get("scheme") == "upto" or extra.get("assetTransferMethod") == "permit2":
            return self.permit2.verify(entry, amount, payload, extensions)
        if extra.get("name") == "GatewayWalletBatched":
            return self.circle.verify(entry, amount, payload)
        transfer, signature = read_transfer(payload)
        if transfer.to != str(entry["payTo"]).lower():
            raise Rejected(INVALID, f"The authorization pays {transfer.to}; {entry['payTo']} was offered.")
        if transfer.value != amount:
            reason = UNDERPAID if transfer.value < amount else INVALID
            raise Rejected(reason, f"The authorization is for {transfer.value} units; exactly {amount} are due.")
        self._check_window(transfer, MIN_SECONDS_LEFT)
        if signer(signature, transfer_digest(self._separator, transfer)) != transfer.sender:
            raise Rejected(INVALID, "The signature is not the payer's over this authorization on this network.")
        self._check_unused(transfer)
        if self.balance(transfer.sender) < transfer.value:
            raise Rejected(UNFUNDED, f"{transfer.sender} has {self.balance(transfer.sender)} units, {amount} are due.")
        return Verified(checksum_address(transfer.sender), transfer.nonce, transfer)

    def settle(self, verified: Verified, at: float | None = None, charge: int | None = None) -> str:
        """Move the money as the token contract would: checks nonce, window and balance again. Raises Rejected."""
        moment = self._clock() if at is None else at
        if isinstance(verified.settlement, Permitted):
            return self._settle_permitted(verified.settlement, moment, charge)
        if not isinstance(verified.settlement, Transfer):
            return self.circle.settle(verified.settlement.transfer)
        transfer = verified.settlement
        self._check_unused(transfer)
        self._check_window(transfer, 1, moment)
        if self.balance(transfer.sender) < transfer.value:
            raise Rejected(SETTLEMENT_FAILED, "The transfer amount exceeds the payer's balance.")
        self.move(transfer.sender, transfer.to, transfer.value)
        transaction = "0x" + keccak(b"settled" + bytes.fromhex(transfer.sender[2:] + transfer.nonce[2:])).hex()
        made = Settlement(self._block_at(moment), transaction, transfer)
        self._used[transfer.sender, transfer.nonce] = made
        self.settlements.append(made)
        return transaction

    def _settle_permitted(self, permitted: Permitted, moment: float, charge: int | None) -> str:
        amount = permitted.ceiling if charge is None else charge
        if amount == 0:
            return ""  # nothing happens, and the nonce stays unused
        self.permit2.settle(permitted, amount, moment)
        nonce = f"0x{permitted.nonce:064x}"
        transaction = "0x" + keccak(b"permit2" + bytes.fromhex(permitted.sender[2:] + nonce[2:])).hex()
        transfer = Transfer(permitted.sender, permitted.to, amount, 0, permitted.deadline, nonce)
        self.settlements.append(Settlement(self._block_at(moment), transaction, transfer, over_permit2=True))
        return transaction

    def used(self, sender: str, nonce: str) -> list[Settlement]:
        """The settlement that used this nonce, in a list; empty: none did. Both arguments are in lower case."""
        made = self._used.get((sender, nonce))
        return [] if made is None else [made]

    def block_number(self) -> int:
        """The number of the newest block."""
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
    return keccak(keccak(_DOMAIN_TYPE) + name + version + uint(network.chain_id) + contract)
