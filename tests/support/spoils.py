"""Payments, good and spoilt in every field: one table for the sandbox and for the reference facilitator.

Each spoil takes a good payment (JSON before base64) and the payer, and gives another. `good` says what both judges are
expected to answer.
"""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.message import Message as LegacyMessage
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from mitmproxy_x402.protocol.networks import BUILT_IN

from .reference_payer import Message, ReferencePayer

Spoil = Callable[[Message, ReferencePayer], Message]
OTHER = "0x000000000000000000000000000000000000dEaD"
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@dataclass(frozen=True)
class Case:
    name: str
    spoil: Spoil
    good: bool = False

    def __str__(self) -> str:
        return self.name


# --- the envelope, on either chain


def _put(*path_and_value: Any) -> Spoil:
    *path, last, value = path_and_value

    def spoil(message: Message, _payer: ReferencePayer) -> Message:
        message = copy.deepcopy(message)
        place = message
        for step in path:
            place = place[step]
        place[last] = value
        return message

    return spoil


def _drop(*path: str) -> Spoil:
    def spoil(message: Message, _payer: ReferencePayer) -> Message:
        message = copy.deepcopy(message)
        place = message
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        return message

    return spoil


ENVELOPE = [
    Case("untouched", lambda message, _: message, good=True),
    Case("another scheme", _put("accepted", "scheme", "upto")),
    Case("another network", _put("accepted", "network", "eip155:8453")),
    Case("a network of the other family", _put("accepted", "network", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp")),
    Case("a lower amount", _put("accepted", "amount", "1")),
    Case("a higher amount", _put("accepted", "amount", "99999999")),
    Case("another payee", _put("accepted", "payTo", OTHER)),
    Case("another asset", _put("accepted", "asset", OTHER)),
    Case("another timeout", _put("accepted", "maxTimeoutSeconds", 301)),
    Case("no extra", _put("accepted", "extra", {})),
    Case("a changed extension", _put("extensions", "bazaar", {"info": {"input": {"type": "mcp"}, "sandbox": True}})),
    Case("an emptied extension", _put("extensions", "bazaar", {"info": {}})),
    Case("an added extension", _put("extensions", "mine", {"info": {"a": 1}}), good=True),
    Case("no extensions", _drop("extensions"), good=True),
]


ENVELOPE_V1 = [
    Case("untouched", lambda message, _: message, good=True),
    Case("another scheme", _put("scheme", "upto")),
    Case("another network", _put("network", "base")),
    Case("a network of the other family", _put("network", "solana")),
    Case("the other version's network name", _put("network", "eip155:84532")),
]


# --- EIP-3009


def sign_transfer(account: Any, entry: Mapping[str, Any], authorization: Mapping[str, Any], **domain: Any) -> str:
    """The payer's signature over an authorization, over this entry's domain unless told otherwise."""
    names = ("from", "to", "value", "validAfter", "validBefore", "nonce")
    kinds = ("address", "address", "uint256", "uint256", "uint256", "bytes32")
    network = BUILT_IN.get(entry["network"])
    assert network
    full = {
        "name": entry["extra"]["name"],
        "version": entry["extra"]["version"],
        "chainId": network.chain_id,
        "verifyingContract": entry["asset"],
        **domain,
    }
    types = {"TransferWithAuthorization": [{"name": n, "type": k} for n, k in zip(names, kinds, strict=True)]}
    message = {name: int(value) if value.isdigit() else value for name, value in authorization.items()}
    return "0x" + Account.sign_typed_data(account.key, full, types, message).signature.hex().removeprefix("0x")


def resigned(**changes: Callable[[int], str] | str) -> Spoil:
    """Fields changed, and signed again by the payer."""

    def spoil(message: Message, payer: ReferencePayer) -> Message:
        message = copy.deepcopy(message)
        authorization = message["payload"]["authorization"]
        for name, change in changes.items():
            key = "from" if name == "sender" else name
            authorization[key] = change if isinstance(change, str) else change(int(authorization[key]))
        message["payload"]["signature"] = sign_transfer(payer.evm, payer.entry, authorization)
        return message

    return spoil


def _domain(**domain: Any) -> Spoil:
    def spoil(message: Message, payer: ReferencePayer) -> Message:
        message = copy.deepcopy(message)
        payload = message["payload"]
        payload["signature"] = sign_transfer(payer.evm, payer.entry, payload["authorization"], **domain)
        return message

    return spoil


def _signature(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(message: Message, _payer: ReferencePayer) -> Message:
        message = copy.deepcopy(message)
        signature = bytes.fromhex(message["payload"]["signature"][2:])
        message["payload"]["signature"] = "0x" + change(signature).hex()
        return message

    return spoil


def _numbers(message: Message, _payer: ReferencePayer) -> Message:
    message = copy.deepcopy(message)
    authorization = message["payload"]["authorization"]
    authorization |= {name: int(authorization[name]) for name in ("value", "validAfter", "validBefore")}
    return message


def _padded(message: Message, _payer: ReferencePayer) -> Message:
    message = copy.deepcopy(message)
    message["payload"]["authorization"]["value"] += " "
    return message


def _by_another(message: Message, payer: ReferencePayer) -> Message:
    message = copy.deepcopy(message)
    payload = message["payload"]
    payload["signature"] = sign_transfer(Account.create(), payer.entry, payload["authorization"])
    return message


def _high_s(signature: bytes) -> bytes:
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([27 + 28 - signature[64]])


def _flip(index: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def _now(seconds: int) -> Callable[[int], str]:
    return lambda _: str(int(time.time()) + seconds)


_FIELDS = ("from", "to", "value", "validAfter", "validBefore", "nonce")
_ADDRESSED = ("payload", "authorization")
EVM_PAYLOAD = [
    Case("signed again, unchanged", resigned(), good=True),
    Case("one unit more, signed", resigned(value=lambda value: str(value + 1))),
    Case("one unit less, signed", resigned(value=lambda value: str(value - 1))),
    Case("nothing, signed", resigned(value="0")),
    Case("to another payee, signed", resigned(to=OTHER)),
    Case("from another address, signed", resigned(sender=OTHER)),
    Case("three seconds left, signed", resigned(validBefore=_now(3))),
    Case("half a minute left, signed", resigned(validBefore=_now(30)), good=True),
    Case("expired, signed", resigned(validBefore=_now(-1))),
    Case("valid in a minute, signed", resigned(validAfter=_now(60))),
    Case("valid since ever, signed", resigned(validAfter="0"), good=True),
    Case("another nonce, signed", resigned(nonce="0x" + "ab" * 32), good=True),
    *(Case(f"{name} missing", _drop(*_ADDRESSED, name)) for name in _FIELDS),
    Case("from changed", _put(*_ADDRESSED, "from", OTHER)),
    Case("to changed", _put(*_ADDRESSED, "to", OTHER)),
    Case("value changed", _put(*_ADDRESSED, "value", "1")),
    Case("validAfter changed", _put(*_ADDRESSED, "validAfter", "1")),
    Case("validBefore changed", _put(*_ADDRESSED, "validBefore", "99999999999")),
    Case("nonce changed", _put(*_ADDRESSED, "nonce", "0x" + "cd" * 32)),
    Case("nonce too short", _put(*_ADDRESSED, "nonce", "0x" + "cd" * 31)),
    Case("nonce no hex", _put(*_ADDRESSED, "nonce", "0x" + "zz" * 32)),
    Case("value no number", _put(*_ADDRESSED, "value", "a lot")),
    Case("value beyond 256 bits", _put(*_ADDRESSED, "value", str(2**256))),
    Case("no authorization", _drop(*_ADDRESSED)),
    Case("no signature", _drop("payload", "signature")),
    Case("an empty signature", _put("payload", "signature", "")),
    Case("no hex in the signature", _put("payload", "signature", "0x" + "zz" * 65)),
    Case("a signature cut short", _signature(lambda signature: signature[:64])),
    Case("a signature too long", _signature(lambda signature: signature + b"\0")),
    Case("r flipped", _signature(_flip(5))),
    Case("s flipped", _signature(_flip(40))),
    Case("v the other", _signature(lambda signature: signature[:64] + bytes([55 - signature[64]]))),
    Case("v 0 or 1", _signature(lambda signature: signature[:64] + bytes([signature[64] - 27])), good=True),
    Case("v 29", _signature(lambda signature: signature[:64] + b"\x1d")),
    Case("zeros for a signature", _signature(lambda _: bytes(65))),
    Case("s in the upper half", _signature(_high_s)),
    Case("signed by another key", _by_another),
    Case("over another chain id", _domain(chainId=8453)),
    Case("over another name", _domain(name="USD Coin")),
    Case("over another version", _domain(version="1")),
    Case("over another contract", _domain(verifyingContract=OTHER)),
]
EVM = [*ENVELOPE, *EVM_PAYLOAD]
EVM_V1 = [*ENVELOPE_V1, *EVM_PAYLOAD]


# --- Solana

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
    Case("no transaction", _put("payload", {})),
    Case("an empty transaction", _put("payload", "transaction", "")),
    Case("no base64", _put("payload", "transaction", "%%%")),
    Case("no transaction in the base64", _put("payload", "transaction", "AAAA")),
    Case("a transaction cut short", _cut),
]
SVM = [
    *(case for case in ENVELOPE if case.name != "another network"),
    Case("another Solana network", _put("accepted", "network", "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z")),
    *SVM_PAYLOAD,
]
SVM_V1 = [*(case for case in ENVELOPE_V1 if case.name != "another network"), *SVM_PAYLOAD]


# --- where the sandbox is stricter than the Python reference

STRICTER_EVM = [
    Case("numbers for strings", _numbers),
    Case("blanks around a number", _padded),
]
STRICTER_SVM = [
    Case("a memo signed by the fee payer", rebuilt(_memo_signed_by_fee_payer)),
    Case("a line break in the base64", _broken_line),
    Case("bytes after the transaction", _trailing),
]
