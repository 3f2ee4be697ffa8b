"""Encodes payments into headers and reads settlements from them, for versions 1 and 2.

Strict about what is written: standard padded base64, the chosen entry, `resource` and `extensions` as they came (x402
v2, section 5.2; anything else counts as no payment at all). Tolerant about receipts. `payment_required` reads
challenges.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import ChallengeError, PaymentHeaderError, Undecodable
from ..quick_init import quick_init
from .messages import AtomicUnits, Json, PaymentPayload, PaymentRequirements, SettlementResponse, X402Version
from .patterns import SVM_SIGNATURE
from .payment_required import MAX_HEADER, Get, Unreadable, needed, read_entry
from .strict_json import base64_text, compact_json, decode_base64, decode_json, encode_base64, shown

PAYMENT_SIGNATURE = "PAYMENT-SIGNATURE"
PAYMENT_RESPONSE = "PAYMENT-RESPONSE"
X_PAYMENT = "X-PAYMENT"
X_PAYMENT_RESPONSE = "X-PAYMENT-RESPONSE"
PAYMENT_IDENTIFIER = "payment-identifier"
"""The extension by which a seller wants to have each request of a client named."""

_TRANSACTION_ID = re.compile(f"(0x)?[0-9a-fA-F]{{64}}|{SVM_SIGNATURE}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_CHARGE = re.compile(r"0|[1-9][0-9]{0,77}")
_ID_KEYS = ("transaction", "txHash", "transactionHash", "signature")


@quick_init
@dataclass(frozen=True)
class PaymentFrame:
    """A payment header but for its payload: what is the same in all payments of one entry of a challenge."""

    name: str
    _before: str
    """JSON up to the payload."""
    _after: str

    def around(self, payload: Json) -> tuple[str, str]:
        """Name and value of the header that carries `payload`. Raises ChallengeError: it does not fit into a header."""
        value = base64_text(f"{self._before}{_encoded(payload)}{self._after}")
        if len(value) > MAX_HEADER:
            raise ChallengeError(
                f"The challenge cannot be answered: the header that echoes it has {len(value)} characters,"
                f" more than the {MAX_HEADER} that servers could accept. Nothing was paid."
            )
        return self.name, value


def payment_frame(version: X402Version, accepted: PaymentRequirements, resource: Any, extensions: Any) -> PaymentFrame:
    """The header that pays `accepted`, but for its payload. Raises ChallengeError: JSON cannot say what is echoed."""
    before: dict[str, Any] = {"x402Version": version}
    if version == 1:
        before |= {"scheme": accepted.scheme, "network": accepted.network}
        return PaymentFrame(X_PAYMENT, f'{_encoded(before)[:-1]},"payload":', "}")
    if resource is not None:
        before["resource"] = resource
    before["accepted"] = accepted.raw
    after = "}" if extensions is None else f',"extensions":{_encoded(extensions)}}}'
    return PaymentFrame(PAYMENT_SIGNATURE, f'{_encoded(before)[:-1]},"payload":', after)


def _encoded(value: Any) -> str:
    try:
        return compact_json(value)
    except (ValueError, RecursionError):
        why = "it holds what JSON cannot say, or nests it too deeply"
        raise ChallengeError(f"The challenge cannot be echoed: {why}. Nothing was paid.") from None


def payment_header(payment: PaymentPayload) -> tuple[str, str]:
    """Name and value of the request header that carries `payment`, in its own version.

    Raises ChallengeError when what has to be echoed does not fit into a header.
    """
    frame = payment_frame(payment.x402_version, payment.accepted, payment.resource, payment.extensions)
    return frame.around(payment.payload)


def with_identifier(extensions: Any, identifier: str) -> Any:
    """`extensions` with `identifier` in them where the seller declares `payment-identifier`; else as they are."""
    declared = extensions.get(PAYMENT_IDENTIFIER) if isinstance(extensions, dict) else None
    info = declared.get("info") if isinstance(declared, dict) else None
    if not identifier or not isinstance(declared, dict) or not isinstance(info, dict) or "id" in info:
        return extensions
    return {**extensions, PAYMENT_IDENTIFIER: {**declared, "info": {**info, "id": identifier}}}


def read_settlement(get: Get, id_header: str = "") -> SettlementResponse | None:
    """What the gateway says became of the payment, or None when it says nothing readable.

    `transaction` is empty unless it has the form of an EVM hash or a Solana signature: only such an id proves that
    money moved. Gateways write it under several names, in base64 or as plain JSON;
    some write it alone into a header of their own, `id_header`.
    """
    receipt = _transaction_id(get(id_header)) if id_header else ""
    value = get(PAYMENT_RESPONSE) or get(X_PAYMENT_RESPONSE)
    settlement = _settlement(value, receipt) if value else None
    return SettlementResponse(True, receipt, "", "") if settlement is None and receipt else settlement


@lru_cache(maxsize=32)  # it is read when the head of an answer comes and when the answer is over
def _settlement(value: str, receipt: str) -> SettlementResponse | None:
    said = _object(value)
    if said is None:
        return None
    transaction = next(filter(None, (_transaction_id(said.get(key)) for key in _ID_KEYS)), receipt)
    named = _text(said, "transaction")
    amount, extra = said.get("amount"), said.get("extra")
    return SettlementResponse(
        said.get("success") is True,
        transaction,
        _text(said, "network"),
        _text(said, "payer"),
        _text(said, "errorReason") or _text(said, "error"),
        amount=AtomicUnits(int(amount)) if isinstance(amount, str) and _CHARGE.fullmatch(amount) else None,
        extra=extra if isinstance(extra, dict) else {},
        transfer=named if _UUID.fullmatch(named) else "",
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
    except (Undecodable, Unreadable) as error:
        raise PaymentHeaderError(f"{name} is unreadable: {error}.") from None


def settlement_header(version: X402Version, settlement: SettlementResponse) -> tuple[str, str]:
    """Name and value of the response header that reports `settlement`: the gateway's side."""
    said: dict[str, Any] = {"success": settlement.success}
    if settlement.error_reason:
        said["errorReason"] = settlement.error_reason
    transaction = settlement.transaction or settlement.transfer
    said |= {"transaction": transaction, "network": settlement.network, "payer": settlement.payer}
    if settlement.amount is not None:
        said["amount"] = str(settlement.amount)
    if settlement.extra:
        said["extra"] = settlement.extra
    return (X_PAYMENT_RESPONSE if version == 1 else PAYMENT_RESPONSE), encode_base64(said)


def _payment(value: str, version: X402Version) -> PaymentPayload:
    if len(value) > MAX_HEADER:
        raise Unreadable(f"{len(value)} characters, more than the {MAX_HEADER} that are read")
    message, faults = decode_json(decode_base64(value))
    if faults:
        raise Unreadable(faults[0])
    if not isinstance(message, dict):
        raise Unreadable("expected an object")
    said = message.get("x402Version")
    if type(said) is not int or said != version:
        raise Unreadable(f"expected x402Version {version}, got {shown(said)}")
    payload = message.get("payload")
    if not isinstance(payload, dict):
        raise Unreadable(f"payload must be an object, got {shown(payload)}")
    if version == 1:
        scheme, network = needed(message, "scheme"), needed(message, "network")
        return PaymentPayload(1, PaymentRequirements(scheme, network, AtomicUnits(0), "", "", 0, {}, {}), payload)
    accepted = read_entry(message.get("accepted"), 2)
    return PaymentPayload(2, accepted, payload, message.get("resource"), message.get("extensions"))


def _object(value: str) -> Mapping[str, Any] | None:
    if len(value) > MAX_HEADER:
        return None
    try:
        data = value.encode("latin-1", "replace") if value.lstrip()[:1] == "{" else decode_base64(value, tolerant=True)
        decoded, faults = decode_json(data)
    except Undecodable:
        return None
    return decoded if isinstance(decoded, dict) and not faults else None


def _transaction_id(value: object) -> str:
    return value if isinstance(value, str) and _TRANSACTION_ID.fullmatch(value) else ""


def _text(said: Json, key: str) -> str:
    value = said.get(key)
    return value if isinstance(value, str) else ""
