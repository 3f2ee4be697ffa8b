"""Payments on EVM chains, good and spoilt in every field."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

from eth_account import Account

from mitmproxy_x402.protocol.networks import BUILT_IN

from ..chains.reference_payer import Message, ReferencePayer
from .envelope import ENVELOPE, ENVELOPE_V1, OTHER, Case, Spoil, drop, put

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


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
    *(Case(f"{name} missing", drop(*_ADDRESSED, name)) for name in _FIELDS),
    Case("from changed", put(*_ADDRESSED, "from", OTHER)),
    Case("to changed", put(*_ADDRESSED, "to", OTHER)),
    Case("value changed", put(*_ADDRESSED, "value", "1")),
    Case("validAfter changed", put(*_ADDRESSED, "validAfter", "1")),
    Case("validBefore changed", put(*_ADDRESSED, "validBefore", "99999999999")),
    Case("nonce changed", put(*_ADDRESSED, "nonce", "0x" + "cd" * 32)),
    Case("nonce too short", put(*_ADDRESSED, "nonce", "0x" + "cd" * 31)),
    Case("nonce no hex", put(*_ADDRESSED, "nonce", "0x" + "zz" * 32)),
    Case("value no number", put(*_ADDRESSED, "value", "a lot")),
    Case("value beyond 256 bits", put(*_ADDRESSED, "value", str(2**256))),
    Case("no authorization", drop(*_ADDRESSED)),
    Case("no signature", drop("payload", "signature")),
    Case("an empty signature", put("payload", "signature", "")),
    Case("no hex in the signature", put("payload", "signature", "0x" + "zz" * 65)),
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
STRICTER_EVM = [
    Case("numbers for strings", _numbers),
    Case("blanks around a number", _padded),
]
