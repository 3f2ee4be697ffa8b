"""Payments on Solana, good and spoilt in every field."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message as LegacyMessage
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from ..chains.reference_payer import Message, ReferencePayer
from .envelope import ENVELOPE, ENVELOPE_V1, Case, Spoil, put

Instructions = list[Instruction]
COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
LIGHTHOUSE = Pubkey.from_string("L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95")


def transaction_of(message: Message) -> VersionedTransaction:
    return VersionedTransaction.from_bytes(base64.b64decode(message["payload"]["transaction"]))


def instructions_of(transaction: VersionedTransaction) -> Instructions:
    """The instructions with every index looked up."""
    message = transaction.message
    keys = message.account_keys
    signers = message.header.num_required_signatures

    def meta(index: int) -> AccountMeta:
        return AccountMeta(keys[index], is_signer=index < signers, is_writable=message.is_maybe_writable(index))

    return [
        Instruction(keys[one.program_id_index], bytes(one.data), [meta(index) for index in one.accounts])
        for one in message.instructions
    ]


def _with_transaction(message: Message, raw: bytes) -> Message:
    return {**message, "payload": {"transaction": base64.b64encode(raw).decode()}}


def rebuilt(
    change: Callable[[Instructions, Message, ReferencePayer], Instructions] = lambda found, *_: found,
    *,
    blockhash: Hash | None = None,
    legacy: bool = False,
    fee_payer: Callable[[ReferencePayer], Pubkey] | None = None,
    signer: Callable[[ReferencePayer], Keypair] = lambda payer: payer.svm,
) -> Spoil:
    """Other instructions in the transaction, signed again."""

    def spoil(message: Message, payer: ReferencePayer) -> Message:
        old = transaction_of(message)
        instructions = change(instructions_of(old), message, payer)
        first = fee_payer(payer) if fee_payer else old.message.account_keys[0]
        recent = blockhash or old.message.recent_blockhash
        new: Any
        if legacy:
            new = LegacyMessage.new_with_blockhash(instructions, first, recent)
        else:
            new = MessageV0.try_compile(first, instructions, [], recent)
        places = new.account_keys[: new.header.num_required_signatures]
        signature = signer(payer).sign_message(to_bytes_versioned(new))
        own = payer.svm.pubkey()
        signatures = [signature if place == own else Signature.default() for place in places]
        return _with_transaction(message, bytes(VersionedTransaction.populate(new, signatures)))

    return spoil


def _data(index: int, data: Callable[[bytes], bytes]) -> Spoil:
    """Other data in one instruction."""

    def change(found: Instructions, *_: Any) -> Instructions:
        one = found[index]
        found[index] = Instruction(one.program_id, data(bytes(one.data)), one.accounts)
        return found

    return rebuilt(change)


def _account(
    index: int, position: int, pick: Callable[[Message, ReferencePayer], Pubkey], *, signs: bool = False
) -> Spoil:
    """Another account in one instruction."""

    def change(found: Instructions, message: Message, payer: ReferencePayer) -> Instructions:
        one = found[index]
        accounts = list(one.accounts)
        old = accounts[position]
        accounts[position] = AccountMeta(pick(message, payer), signs, old.is_writable)
        found[index] = Instruction(one.program_id, bytes(one.data), accounts)
        return found

    return rebuilt(change)


def _order(*indexes: int) -> Spoil:
    return rebuilt(lambda found, *_: [found[index] for index in indexes])


def _added(*more: Instruction) -> Spoil:
    return rebuilt(lambda found, *_: [_roomy_limit(), *found[1:], *more])


def _roomy_limit() -> Instruction:
    return Instruction(COMPUTE_BUDGET, b"\x02" + (200_000).to_bytes(4, "little"), [])


def _memo(text: bytes, accounts: Sequence[AccountMeta] = ()) -> Instruction:
    return Instruction(MEMO, text, list(accounts))


def _amount(change: Callable[[int], int]) -> Spoil:
    return _data(
        2, lambda data: data[:1] + change(int.from_bytes(data[1:9], "little")).to_bytes(8, "little") + data[9:]
    )


def _price(micro_lamports: int) -> Spoil:
    return _data(1, lambda _: b"\x03" + micro_lamports.to_bytes(8, "little"))


def _fee_payer(_message: Message, payer: ReferencePayer) -> Pubkey:
    return Pubkey.from_string(payer.entry["extra"]["feePayer"])


def _own_account(_message: Message, payer: ReferencePayer) -> Pubkey:
    return get_associated_token_address(payer.svm.pubkey(), Pubkey.from_string(payer.entry["asset"]))


def _stranger(*_: Any) -> Pubkey:
    return Keypair().pubkey()


def _lamports(found: Instructions, message: Message, payer: ReferencePayer) -> Instructions:
    system = Pubkey.from_string("11111111111111111111111111111111")
    accounts = [
        AccountMeta(_fee_payer(message, payer), is_signer=True, is_writable=True),
        AccountMeta(payer.svm.pubkey(), is_signer=True, is_writable=True),
    ]
    return [*found, Instruction(system, (2).to_bytes(4, "little") + (10**9).to_bytes(8, "little"), accounts)]


def _unsigned(message: Message, _payer: ReferencePayer) -> Message:
    transaction = transaction_of(message)
    empty = [Signature.default() for _ in transaction.signatures]
    return _with_transaction(message, bytes(VersionedTransaction.populate(transaction.message, empty)))


def _memo_signed_by_fee_payer(found: Instructions, message: Message, payer: ReferencePayer) -> Instructions:
    meta = AccountMeta(_fee_payer(message, payer), is_signer=True, is_writable=False)
    return [_roomy_limit(), *found[1:3], _memo(b"signed by the fee payer", [meta])]


def _broken_line(message: Message, _payer: ReferencePayer) -> Message:
    encoded = message["payload"]["transaction"]
    return {**message, "payload": {"transaction": encoded[:76] + "\n" + encoded[76:]}}


def _trailing(message: Message, _payer: ReferencePayer) -> Message:
    return _with_transaction(message, bytes(transaction_of(message)) + b"\0")


def _cut(message: Message, _payer: ReferencePayer) -> Message:
    return _with_transaction(message, bytes(transaction_of(message))[:-5])


SVM_PAYLOAD = [
    Case("rebuilt, unchanged", rebuilt(), good=True),
    Case("a legacy transaction", rebuilt(legacy=True), good=True),
    Case("no memo", _order(0, 1, 2), good=True),
    Case("two more memos", _added(_memo(b"a"), _memo(b"b")), good=True),
    Case("four more memos", _added(*(_memo(bytes([97 + n])) for n in range(4)))),
    Case("only two instructions", _order(0, 1)),
    Case("limit and price the wrong way round", _order(1, 0, 2, 3)),
    Case("the transfer first", _order(2, 0, 1, 3)),
    Case("memo before the transfer", _order(0, 1, 3, 2)),
    Case("no limit", _order(1, 2, 3)),
    Case("no price", _order(0, 2, 3)),
    Case("a limit without its number", _data(0, lambda data: data[:1])),
    Case("a limit too small to execute", _data(0, lambda _: b"\x02" + (100).to_bytes(4, "little"))),
    Case("another limit", _data(0, lambda _: b"\x02" + (30_000).to_bytes(4, "little")), good=True),
    Case("five lamports a unit", _price(5_000_000), good=True),
    Case("more than five lamports a unit", _price(5_000_001)),
    Case("a price cut short", _data(1, lambda data: data[:5])),
    Case("one unit less", _amount(lambda amount: amount - 1)),
    Case("one unit more", _amount(lambda amount: amount + 1), good=True),
    Case("nothing", _amount(lambda _: 0)),
    Case("more than there is", _amount(lambda _: 2**63)),
    Case("other decimals", _data(2, lambda data: data[:9] + b"\x09")),
    Case("a plain Transfer", _data(2, lambda data: b"\x03" + data[1:9])),
    Case("another token instruction", _data(2, lambda data: b"\x08" + data[1:])),
    Case("another mint", _account(2, 1, _stranger)),
    Case("back to the payer", _account(2, 2, _own_account)),
    Case("to a stranger's account", _account(2, 2, _stranger)),
    Case("from a stranger's account", _account(2, 0, _stranger)),
    Case("the fee payer's own money", _account(2, 3, _fee_payer, signs=True)),
    Case("lamports of the fee payer", rebuilt(_lamports)),
    Case("a program nobody knows", _added(Instruction(_stranger(), b"", []))),
    Case("another fee payer", rebuilt(fee_payer=lambda payer: payer.svm.pubkey())),
    Case("not signed", _unsigned),
    Case("signed by another key", rebuilt(signer=lambda _: Keypair())),
    Case("an unknown blockhash", rebuilt(blockhash=Hash.new_unique())),
    Case("no transaction", put("payload", {})),
    Case("an empty transaction", put("payload", "transaction", "")),
    Case("no base64", put("payload", "transaction", "%%%")),
    Case("no transaction in the base64", put("payload", "transaction", "AAAA")),
    Case("a transaction cut short", _cut),
]
SVM = [
    *(case for case in ENVELOPE if case.name != "another network"),
    Case("another Solana network", put("accepted", "network", "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z")),
    *SVM_PAYLOAD,
]
SVM_V1 = [*(case for case in ENVELOPE_V1 if case.name != "another network"), *SVM_PAYLOAD]
STRICTER_SVM = [
    Case("a memo signed by the fee payer", rebuilt(_memo_signed_by_fee_payer)),
    Case("a line break in the base64", _broken_line),
    Case("bytes after the transaction", _trailing),
]
