"""Headers and bodies to messages and back, for versions 1 and 2 of the protocol.

Strict about what is written: standard padded base64, the chosen entry, `resource` and `extensions` as they came (x402
v2, section 5.2; anything else counts as no payment at all). Tolerant about what is read, as long as it has one meaning:
a challenge with a doubled key or a number that is none is refused, because what we sign must be what the gateway meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

from ..errors import ChallengeError, PaymentHeaderError
from .messages import (
    AtomicUnits,
    Json,
    PaymentPayload,
    PaymentRequired,
    PaymentRequirements,
    SettlementResponse,
    X402Version,
)
from .strict_json import Undecodable, decode_base64, decode_json, encode_base64, shown

PAYMENT_REQUIRED = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE = "PAYMENT-RESPONSE"
X_PAYMENT = "X-PAYMENT"
X_PAYMENT_RESPONSE = "X-PAYMENT-RESPONSE"
X_PAYMENT_RECEIPT = "X-Payment-Receipt"

MAX_HEADER = 64 * 1024
"""Characters of one header that are read or written: servers cut requests off well below that."""
MAX_BODY = 1024 * 1024
"""Bytes of a 402's body that are read."""
MAX_ENTRIES = 256
"""Entries of `accepts` that are read."""
MAX_REASONS = 16
"""Descriptions of unreadable entries that are kept."""

_AMOUNT = re.compile(r"[1-9][0-9]{0,77}")
_AMOUNT_LIMIT = 2**256
_TRANSACTION_ID = re.compile(r"(0x)?[0-9a-fA-F]{64}|[1-9A-HJ-NP-Za-km-z]{64,88}")
_FLOWS = ("authorization", "upfront")
_EIP3009_METHODS = ("default", "eip3009")

Get = Callable[[str], "str | None"]
"""Looks a header up by its name, without regard to case."""


def read_payment_required(header: str | None, body: bytes) -> PaymentRequired | None:
    """The challenge in a 402: `header` is its PAYMENT-REQUIRED, `body` its decoded body.

    A decodable header decides, else a JSON body with an `accepts` list and an `x402Version`. None: this 402 is no
    challenge and passes through. Raises ChallengeError: it is one, and no entry can be used; the message says why.
    """
    oversized = header is not None and len(header) > MAX_HEADER
    if header is not None and not oversized:
        challenge = _challenge(lambda: decode_base64(header, tolerant=True))
        if challenge is not None:
            return _required(*challenge, default_version=2)
    if len(body) <= MAX_BODY:
        challenge = _challenge(lambda: body)
        if challenge is not None and "x402Version" in challenge[0]:
            return _required(*challenge, default_version=None)
    if oversized:
        raise ChallengeError(
            f"The challenge is unreadable: its {PAYMENT_REQUIRED} header has {len(header or '')} characters,"
            f" more than the {MAX_HEADER} that are read. Nothing was paid."
        )
    return None


def payment_header(payment: PaymentPayload) -> tuple[str, str]:
    """Name and value of the request header that carries `payment`, in its own version.

    Raises ChallengeError when what has to be echoed does not fit into a header.
    """
    message: dict[str, Any] = {"x402Version": payment.x402_version}
    if payment.x402_version == 1:
        message |= {"scheme": payment.accepted.scheme, "network": payment.accepted.network}
        message["payload"] = payment.payload
    else:
        if payment.resource is not None:
            message["resource"] = payment.resource
        message |= {"accepted": payment.accepted.raw, "payload": payment.payload}
        if payment.extensions is not None:
            message["extensions"] = payment.extensions
    try:
        value = encode_base64(message)
    except (ValueError, RecursionError) as error:
        raise ChallengeError(f"The challenge cannot be echoed: {error}. Nothing was paid.") from None
    if len(value) > MAX_HEADER:
        raise ChallengeError(
            f"The challenge cannot be answered: echoing its extensions makes a header of {len(value)} characters,"
            f" more than the {MAX_HEADER} that servers could accept. Nothing was paid."
        )
    return (X_PAYMENT if payment.x402_version == 1 else PAYMENT_SIGNATURE), value


def read_settlement(get: Get) -> SettlementResponse | None:
    """What the gateway says became of the payment, or None when it says nothing readable.

    `transaction` is empty unless it has the form of an EVM hash or a Solana signature: only such an id proves that
    money moved. The gateway also writes it as `signature` or alone, in X-Payment-Receipt.
    """
    receipt = _transaction_id(get(X_PAYMENT_RECEIPT))
    value = get(PAYMENT_RESPONSE) or get(X_PAYMENT_RESPONSE)
    said = _object(value) if value else None
    if said is None:
        return SettlementResponse(True, receipt, "", "") if receipt else None
    transaction = _transaction_id(said.get("transaction")) or _transaction_id(said.get("signature")) or receipt
    reason = _text(said, "errorReason") or _text(said, "error")
    return SettlementResponse(
        said.get("success") is True, transaction, _text(said, "network"), _text(said, "payer"), reason
    )


def payment_required_header(required: Mapping[str, Any]) -> str:
    """The value of PAYMENT-REQUIRED for a challenge given as a JSON object: the gateway's side."""
    return encode_base64(required)


def read_payment(get: Get) -> PaymentPayload | None:
    """The payment that a request carries, or None: the gateway's side, so standard padded base64 only.

    Version 1 names no entry, so there `accepted` has the scheme and the network, and zero or nothing elsewhere. Raises
    PaymentHeaderError.
    """
    version: X402Version = 2
    name, value = PAYMENT_SIGNATURE, get(PAYMENT_SIGNATURE)
    if value is None:
        version, name, value = 1, X_PAYMENT, get(X_PAYMENT)
    if value is None:
        return None
    try:
        return _payment(value, version)
    except (Undecodable, _Unreadable) as error:
        raise PaymentHeaderError(f"{name} is unreadable: {error}.") from None


def settlement_header(version: X402Version, settlement: SettlementResponse) -> tuple[str, str]:
    """Name and value of the response header that reports `settlement`: the gateway's side."""
    said: dict[str, Any] = {"success": settlement.success}
    if settlement.error_reason:
        said["errorReason"] = settlement.error_reason
    said |= {"transaction": settlement.transaction, "network": settlement.network, "payer": settlement.payer}
    return (X_PAYMENT_RESPONSE if version == 1 else PAYMENT_RESPONSE), encode_base64(said)


class _Unreadable(Exception):
    """One entry, or one payment, breaks a rule; the text completes a sentence."""


def _challenge(data: Callable[[], bytes]) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """The JSON object with an `accepts` list behind `data`, and its faults; None if there is none."""
    try:
        value, faults = decode_json(data())
    except Undecodable:
        return None
    return (value, faults) if isinstance(value, dict) and isinstance(value.get("accepts"), list) else None


def _required(found: dict[str, Any], faults: tuple[str, ...], default_version: Literal[2] | None) -> PaymentRequired:
    version = found.get("x402Version", default_version)
    if version not in (1, 2) or type(version) is not int:  # True and 2.0 are equal to versions, and none
        raise ChallengeError(
            f"The challenge speaks x402 version {shown(version)}; versions 1 and 2 can be paid. Nothing was paid."
        )
    if faults:
        raise ChallengeError(f"The challenge is ambiguous: {faults[0]}. Nothing was paid.")
    offered = found["accepts"]
    key = "maxAmountRequired" if version == 1 else "amount"
    read = [_entry_or_reason(entry, key) for entry in offered[:MAX_ENTRIES]]
    entries = tuple(entry for entry in read if isinstance(entry, PaymentRequirements))
    reasons = [f"accepts[{index}]: {reason}" for index, reason in enumerate(read) if isinstance(reason, str)]
    if len(offered) > MAX_ENTRIES:
        reasons.insert(0, f"only the first {MAX_ENTRIES} of {len(offered)} entries were read")
    if len(reasons) > MAX_REASONS:
        reasons[MAX_REASONS - 1 :] = [f"and {len(reasons) - MAX_REASONS + 1} more"]
    if not entries:
        why = "; ".join(reasons[:3]) or "its accepts list is empty"
        raise ChallengeError(f"The challenge offers no way to pay that can be read: {why}. Nothing was paid.")
    return PaymentRequired(
        x402_version=1 if version == 1 else 2,
        accepts=entries,
        resource=found.get("resource"),
        extensions=found.get("extensions"),
        error=_text(found, "error") or None,
        unreadable=tuple(reasons),
    )


def _entry_or_reason(entry: Any, amount_key: str) -> PaymentRequirements | str:
    try:
        return _entry(entry, amount_key)
    except _Unreadable as reason:
        return str(reason)


def _entry(entry: Any, amount_key: str) -> PaymentRequirements:
    """One entry of `accepts` (x402 v2, section 5.1.2; v1, section 5.1)."""
    if not isinstance(entry, dict):
        raise _Unreadable(f"expected an object, got {shown(entry)}")
    scheme, network, asset, pay_to = (_needed(entry, key) for key in ("scheme", "network", "asset", "payTo"))
    timeout = entry.get("maxTimeoutSeconds")
    if type(timeout) is not int or timeout <= 0:
        raise _Unreadable(f"maxTimeoutSeconds must be a whole number of seconds above 0, got {shown(timeout)}")
    extra = entry.get("extra")
    if extra is None:
        extra = {}
    if not isinstance(extra, dict):
        raise _Unreadable(f"extra must be an object, got {shown(extra)}")
    flow = extra.get("paymentFlow")
    if flow is not None and flow not in _FLOWS:  # an unknown one may keep the money, or take it twice
        raise _Unreadable(f"payment flow {shown(flow)} is unknown; {' and '.join(_FLOWS)} are known")
    method = extra.get("assetTransferMethod")
    if scheme == "exact" and method is not None and method not in _EIP3009_METHODS:
        raise _Unreadable(f"asset transfer method {shown(method)} cannot be signed; eip3009 can")
    amount = _amount(entry.get(amount_key), amount_key)
    return PaymentRequirements(scheme, network, amount, asset, pay_to, timeout, extra, entry)


def _needed(entry: Json, key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise _Unreadable(f"{key} must be a string, got {shown(value)}")
    return value


def _amount(value: object, key: str) -> AtomicUnits:
    # A number is no amount: the specification says string, and reference servers do not know a number again.
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value) or int(value) >= _AMOUNT_LIMIT:
        raise _Unreadable(
            f'{key} must be a string of decimal digits such as "1000", above 0 and below 2^256, got {shown(value)}'
        )
    return AtomicUnits(int(value))


def _payment(value: str, version: X402Version) -> PaymentPayload:
    if len(value) > MAX_HEADER:
        raise _Unreadable(f"{len(value)} characters, more than the {MAX_HEADER} that are read")
    message, faults = decode_json(decode_base64(value))
    if faults:
        raise _Unreadable(faults[0])
    if not isinstance(message, dict):
        raise _Unreadable("expected an object")
    said = message.get("x402Version")
    if type(said) is not int or said != version:
        raise _Unreadable(f"expected x402Version {version}, got {shown(said)}")
    payload = message.get("payload")
    if not isinstance(payload, dict):
        raise _Unreadable(f"payload must be an object, got {shown(payload)}")
    if version == 1:
        scheme, network = _needed(message, "scheme"), _needed(message, "network")
        return PaymentPayload(1, PaymentRequirements(scheme, network, AtomicUnits(0), "", "", 0, {}, {}), payload)
    accepted = _entry(message.get("accepted"), "amount")
    return PaymentPayload(2, accepted, payload, message.get("resource"), message.get("extensions"))


@lru_cache(maxsize=32)  # an answer's receipt is read when its head comes and when it is over
def _object(value: str) -> Mapping[str, Any] | None:
    if len(value) > MAX_HEADER:
        return None
    try:
        decoded, faults = decode_json(decode_base64(value, tolerant=True))
    except Undecodable:
        return None
    return decoded if isinstance(decoded, dict) and not faults else None


def _transaction_id(value: object) -> str:
    return value if isinstance(value, str) and _TRANSACTION_ID.fullmatch(value) else ""


def _text(said: Json, key: str) -> str:
    value = said.get(key)
    return value if isinstance(value, str) else ""
