"""A Solana network in this process: the reference facilitator's rules, then real execution in LiteSVM.

The mint and the token accounts are written as account data; from then on the SPL Token and Memo programs decide. The
sandbox's fee payer signs last, as a facilitator does (x402 `exact` on Solana).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from solders.account import Account
from solders.hash import Hash
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.token.state import Mint, TokenAccount, TokenAccountState
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata

from ...protocol.networks import TOKEN_2022_PROGRAM, TOKEN_PROGRAM, Network
from .interface import BLOCKHASH_STALE, INVALID, REPLAY, SETTLEMENT_FAILED, UNDERPAID, UNFUNDED, Rejected, Verified

COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
LIGHTHOUSE = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")
SYSTEM_PROGRAM = Pubkey.default()
TOKEN_PROGRAMS = (Pubkey.from_string(TOKEN_PROGRAM), Pubkey.from_string(TOKEN_2022_PROGRAM))

MAX_UNIT_PRICE = 5_000_000
"""Micro-lamports per compute unit: five lamports."""
SLOT_SECONDS = 0.4
MAX_TRANSACTION = 1232
"""Bytes of one transaction: a network packet."""

_SET_UNIT_LIMIT, _SET_UNIT_PRICE, _TRANSFER_CHECKED = 2, 3, 12
_LAMPORTS = 10**15
_FIRST_HEIGHT = 400_000_000


class SvmChain:
    """One Solana network. `clock` gives Unix seconds; a blockhash lives `blockhash_seconds`."""

    def __init__(
        self,
        network: Network,
        opening_balance: int,
        clock: Callable[[], float],
        *,
        blockhash_seconds: int,
        announce_blockhash: bool,
        memo: str,
    ) -> None:
        self.network = network
        self.asset = network.assets[0]
        self._mint = Pubkey.from_string(self.asset.address)
        self._token_program = Pubkey.from_string(self.asset.token_program)
        self._opening = opening_balance
        self._clock = clock
        self._blockhash_seconds = blockhash_seconds
        self._announce_blockhash = announce_blockhash
        self._memo = memo
        self._fee_payer = Keypair.from_seed(hashlib.sha256(b"mitmproxy-x402 sandbox " + network.name.encode()).digest())
        self.fee_payer = str(self._fee_payer.pubkey())
        seed = b"mitmproxy-x402 sandbox pays " + network.name.encode()
        self.pay_to = str(Pubkey(hashlib.sha256(seed).digest()))
        self.history: dict[str, dict[str, Any]] = {}
        """What `getTransaction` says of each transaction that was executed, and its memo, by its first signature."""
        self._hashes: OrderedDict[str, float] = OrderedDict()
        self._slots = 0
        self._born = clock()
        self._svm = LiteSVM().with_blockhash_check(False)  # we keep the hashes: LiteSVM knows only the newest
        self._svm.set_account(self._fee_payer.pubkey(), Account(_LAMPORTS, b"", SYSTEM_PROGRAM))
        self._write(self._mint, bytes(Mint(None, 10**18, self.asset.decimals, True)))
        self.fund(self.pay_to, 0)

    def extra(self) -> dict[str, Any]:
        """Who pays the fee, and by configuration the blockhash and the seller's memo."""
        extra: dict[str, Any] = {"feePayer": self.fee_payer}
        if self._memo:
            extra["memo"] = self._memo
        if self._announce_blockhash:
            extra |= {
                "recentBlockhash": self.latest_blockhash(),
                "lastValidBlockHeight": str(self.block_height() + 150),
            }
        return extra

    def latest_blockhash(self) -> str:
        """A blockhash that is valid from now on; a new one each slot."""
        now = self._clock()
        if not self._hashes or now - next(reversed(self._hashes.values())) >= SLOT_SECONDS:
            self._slots += 1
            seed = self._slots.to_bytes(8, "big") + os.urandom(16)
            self._hashes[str(Hash(hashlib.sha256(seed).digest()))] = now
            while len(self._hashes) > 1000:
                self._hashes.popitem(last=False)
        return next(reversed(self._hashes))

    def block_height(self) -> int:
        """The height of the newest block; grows by one each slot."""
        return self._height_at(self._clock())

    def time_of(self, height: int) -> int:
        """When that block was made, Unix seconds."""
        return int(self._born + (height - _FIRST_HEIGHT) * SLOT_SECONDS)

    def _height_at(self, moment: float) -> int:
        return _FIRST_HEIGHT + int((moment - self._born) / SLOT_SECONDS)

    def is_blockhash_valid(self, blockhash: str) -> bool:
        """Whether `blockhash` came from here, recently enough."""
        issued = self._hashes.get(blockhash)
        return issued is not None and self._clock() - issued <= self._blockhash_seconds

    def adopt_blockhash(self, blockhash: str) -> None:
        """Use another chain's blockhash, so that both chains accept the same transaction."""
        self._hashes[blockhash] = self._clock()

    def expire_blockhashes(self) -> None:
        """Make every blockhash that was handed out stale."""
        self._hashes.clear()

    def verify(
        self,
        entry: Mapping[str, Any],
        amount: int,
        payload: Mapping[str, Any],
        extensions: Any = None,  # noqa: ARG002
    ) -> Verified:
        """The transaction in `payload`. Raises Rejected: the first rule that it breaks, or what its simulation said."""
        transaction = _read(payload)
        message = transaction.message
        if len(bytes(transaction)) > MAX_TRANSACTION:
            raise Rejected(INVALID, f"The transaction has more than {MAX_TRANSACTION} bytes.")
        if not message.account_keys or message.account_keys[0] != self._fee_payer.pubkey():
            raise Rejected(INVALID, f"The transaction's fee payer must be {self.fee_payer}.")
        instructions = _instructions(transaction)
        _check_compute_budget(instructions)
        owner = self._check_transfer(instructions, amount)
        _check_rest(instructions[3:], entry["extra"].get("memo"))
        if any(self._fee_payer.pubkey() in accounts for _, accounts, _ in instructions):
            raise Rejected(INVALID, "The fee payer must not appear in any instruction.")
        self._open(owner)
        signed = self._cosign(transaction)
        reference = str(signed.signatures[0])
        if self._svm.get_transaction(signed.signatures[0]) is not None:
            raise Rejected(REPLAY, "This transaction was settled before.")
        if not self.is_blockhash_valid(str(message.recent_blockhash)):
            raise Rejected(BLOCKHASH_STALE, "The transaction's blockhash is unknown or too old.")
        if self.balance(str(owner)) < amount:
            raise Rejected(UNFUNDED, f"{owner} has {self.balance(str(owner))} units, {amount} are due.")
        outcome = self._svm.simulate_transaction(signed)
        if isinstance(outcome, FailedTransactionMetadata):
            raise Rejected(INVALID, f"The simulation failed: {_why(outcome)}.")
        return Verified(str(owner), reference, signed)

    def settle(self, verified: Verified, at: float | None = None, charge: int | None = None) -> str:  # noqa: ARG002
        """Execute the transaction. Raises Rejected with what the programs said."""
        signed: VersionedTransaction = verified.settlement
        moment = self._clock() if at is None else at
        issued = self._hashes.get(str(signed.message.recent_blockhash))
        if at is not None and (issued is None or at - issued > self._blockhash_seconds):
            raise Rejected(BLOCKHASH_STALE, "The transaction's blockhash is too old by now.")
        owners = [verified.payer, self.pay_to]
        before = [self.balance(owner) for owner in owners]
        outcome = self._svm.send_transaction(signed)
        if isinstance(outcome, FailedTransactionMetadata):
            raise Rejected(SETTLEMENT_FAILED, f"The transaction failed: {_why(outcome)}.")
        self._remember(signed, moment, owners, before)
        return verified.reference

    def _remember(
        self, signed: VersionedTransaction, moment: float, owners: Sequence[str], before: Sequence[int]
    ) -> None:
        def balances(amounts: Sequence[int]) -> list[dict[str, Any]]:
            mint = self.asset.address
            return [
                {"mint": mint, "owner": owner, "uiTokenAmount": {"amount": str(amount)}}
                for owner, amount in zip(owners, amounts, strict=True)
            ]

        after = [self.balance(owner) for owner in owners]
        message = signed.message
        keys = message.account_keys
        memos = [bytes(one.data) for one in message.instructions if keys[one.program_id_index] == MEMO]
        self.history[str(signed.signatures[0])] = {
            "slot": self._height_at(moment),
            "blockTime": int(moment),
            "memo": "; ".join(f"[{len(memo)}] {memo.decode(errors='replace')}" for memo in memos) or None,
            "meta": {"err": None, "preTokenBalances": balances(before), "postTokenBalances": balances(after)},
            "transaction": {
                "signatures": [str(signature) for signature in signed.signatures],
                "message": {"accountKeys": [str(key) for key in keys]},
            },
        }

    def fund(self, address: str, amount: int) -> None:
        """Write a token account for `address` that holds exactly `amount` atomic units."""
        owner = Pubkey.from_string(address)
        state = TokenAccount(self._mint, owner, amount, None, TokenAccountState.Initialized, None, 0)
        self._write(self._token_account(owner), bytes(state))

    def balance(self, address: str) -> int:
        """Atomic units; an address that was never seen has the opening balance."""
        account = self._svm.get_account(self._token_account(Pubkey.from_string(address)))
        return TokenAccount.from_bytes(account.data).amount if account is not None else self._opening

    def settled(self, signature: str) -> bool:
        """Whether a transaction with this signature was executed here."""
        try:
            return self._svm.get_transaction(Signature.from_string(signature)) is not None
        except ValueError:
            return False

    def token_account(self, address: str) -> str:
        """The associated token account of `address`."""
        return str(self._token_account(Pubkey.from_string(address)))

    def account(self, address: str) -> tuple[str, bytes, int] | None:
        """Owner, data and lamports of an account, or None."""
        found = self._svm.get_account(Pubkey.from_string(address))
        return (str(found.owner), found.data, found.lamports) if found is not None else None

    def _check_transfer(self, instructions: Sequence[_Instruction], amount: int) -> Pubkey:
        """Check that the third instruction pays us at least `amount`. Returns its authority, the payer."""
        program, accounts, data = instructions[2]
        if program not in TOKEN_PROGRAMS or len(accounts) < 4 or len(data) < 10 or data[0] != _TRANSFER_CHECKED:
            raise Rejected(INVALID, "The third instruction must be TransferChecked of the token program.")
        _, mint, destination, owner = accounts[:4]
        if mint != self._mint:
            raise Rejected(INVALID, f"The transfer is in {mint}; {self._mint} is asked for.")
        if destination != get_associated_token_address(Pubkey.from_string(self.pay_to), self._mint, program):
            raise Rejected(INVALID, f"The transfer goes to {destination}, which is not the account of {self.pay_to}.")
        paid = int.from_bytes(data[1:9], "little")
        if paid < amount:
            raise Rejected(UNDERPAID, f"The transfer is of {paid} units; {amount} are due.")
        return owner

    def _cosign(self, transaction: VersionedTransaction) -> VersionedTransaction:
        message = transaction.message
        signature = self._fee_payer.sign_message(to_bytes_versioned(message))
        return VersionedTransaction.populate(message, [signature, *transaction.signatures[1:]])

    def _open(self, owner: Pubkey) -> None:
        """Give a payer who was never seen an account with the opening balance."""
        if self._svm.get_account(self._token_account(owner)) is None:
            self.fund(str(owner), self._opening)

    def _token_account(self, owner: Pubkey) -> Pubkey:
        return get_associated_token_address(owner, self._mint, self._token_program)

    def _write(self, address: Pubkey, data: bytes) -> None:
        lamports = self._svm.minimum_balance_for_rent_exemption(len(data))
        self._svm.set_account(address, Account(lamports, data, self._token_program))


_Instruction = tuple[Pubkey, tuple[Pubkey, ...], bytes]
"""Program, accounts, data; every index looked up."""


def _read(payload: Mapping[str, Any]) -> VersionedTransaction:
    encoded = payload.get("transaction")
    if not isinstance(encoded, str):
        raise Rejected(INVALID, "The payload has no transaction; base64 of a signed one is expected.")
    try:
        raw = base64.b64decode(encoded, validate=True)
        transaction = VersionedTransaction.from_bytes(raw)
        transaction.sanitize()
    except (binascii.Error, ValueError) as error:
        raise Rejected(INVALID, "The transaction is not base64 of a Solana transaction.") from error
    except Exception as error:  # solders has its own SanitizeError
        raise Rejected(INVALID, "The transaction's indexes do not fit together.") from error
    if bytes(transaction) != raw:
        raise Rejected(INVALID, "There are bytes after the transaction.")
    if len(transaction.signatures) != transaction.message.header.num_required_signatures:
        raise Rejected(INVALID, "The transaction has not one place for each signature.")
    return transaction


def _instructions(transaction: VersionedTransaction) -> list[_Instruction]:
    message = transaction.message
    if isinstance(message, MessageV0) and message.address_table_lookups:
        raise Rejected(INVALID, "The transaction looks addresses up; only static accounts are accepted.")
    if not 3 <= len(message.instructions) <= 6:
        raise Rejected(INVALID, f"The transaction has {len(message.instructions)} instructions; 3 to 6 are accepted.")
    keys = message.account_keys
    return [
        (keys[one.program_id_index], tuple(keys[index] for index in one.accounts), bytes(one.data))
        for one in message.instructions
    ]


def _check_compute_budget(instructions: Sequence[_Instruction]) -> None:
    (limit_program, _, limit), (price_program, _, price) = instructions[:2]
    if limit_program != COMPUTE_BUDGET or limit[:1] != bytes([_SET_UNIT_LIMIT]):
        raise Rejected(INVALID, "The first instruction must be SetComputeUnitLimit.")
    if price_program != COMPUTE_BUDGET or price[:1] != bytes([_SET_UNIT_PRICE]) or len(price) < 9:
        raise Rejected(INVALID, "The second instruction must be SetComputeUnitPrice.")
    if int.from_bytes(price[1:9], "little") > MAX_UNIT_PRICE:
        raise Rejected(INVALID, f"The compute unit price is above {MAX_UNIT_PRICE} micro-lamports.")


def _check_rest(instructions: Sequence[_Instruction], memo: Any) -> None:
    """After the transfer only memos and Lighthouse's assertions; where the seller gave a memo, that one once."""
    for program, _, _ in instructions:
        if program not in (MEMO, LIGHTHOUSE):
            raise Rejected(INVALID, f"An instruction of {program} is not accepted.")
    memos = [data for program, _, data in instructions if program == MEMO]
    if memo and memos != [str(memo).encode()]:
        raise Rejected(INVALID, "The memo is not the one that was asked for, once.")


def _why(outcome: FailedTransactionMetadata) -> str:
    logs = [line for line in outcome.meta().logs() if "Error" in line or "failed" in line]
    return str(outcome.err()).strip() + (f" ({logs[-1]})" if logs else "")
