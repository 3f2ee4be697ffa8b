"""Reads a challenge: the PaymentRequired of a 402, from a header or a body, as sellers really write it.

Tolerant about the spelling, as long as it has one meaning: terms of version 2 with the field names of version 1, terms
nested one level deep, whole numbers written as `60.0` or `"60"`. What could be read in two ways is refused, because
what we sign must be what the gateway meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

from ..errors import ChallengeError, Undecodable
from .messages import AtomicUnits, Json, PaymentRequired, PaymentRequirements
from .strict_json import TooManyValues, decode_base64, decode_json, is_too_deep, shown

PAYMENT_REQUIRED = "PAYMENT-REQUIRED"
X_PAYMENT_REQUIRED = "X-PAYMENT-REQUIRED"
WWW_AUTHENTICATE = "WWW-Authenticate"

MAX_HEADER = 64 * 1024
"""Characters of one header that are read or written: servers cut requests off well below that."""
KEPT_HEADER = 8192
"""Most characters of a header whose challenge is cached (`_kept`)."""
MAX_BODY = 1024 * 1024
"""Bytes of a 402's body that are read."""
MAX_ENTRIES = 256
"""Entries of `accepts` that are read."""
MAX_VALUES = 1 << 14
"""Values in a challenge, at all depths: each costs some microseconds, and 1 MiB can hold half a million."""
MAX_REASONS = 16
"""Descriptions of unreadable entries that are kept."""
MAX_SECONDS = 2**53
"""A `maxTimeoutSeconds` above this is no number of seconds that all readers agree on."""

_AMOUNT = re.compile(r"0|[1-9][0-9]{0,77}")
_AMOUNT_LIMIT = 2**256
_SECONDS = re.compile(r"[0-9]{1,16}(\.0{1,16})?")
_FLOWS = ("authorization", "upfront")
_BEARER = re.compile(r'\bX402\s+requirements="([^"]*)"', re.IGNORECASE)
_AMOUNT_KEYS = {1: ("maxAmountRequired", "amount"), 2: ("amount", "maxAmountRequired")}
_NESTED = "paymentRequirements"

Get = Callable[[str], "str | None"]
"""Looks a header up by its name, without regard to case."""


def challenge_header(get: Get) -> str | None:
    """The header that holds the terms of a 402, or None: one value, which gateways send under up to three names."""
    value = get(PAYMENT_REQUIRED) or get(X_PAYMENT_REQUIRED)
    if value:
        return value
    found = _BEARER.search(get(WWW_AUTHENTICATE) or "")
    return found[1] if found else None


def read_payment_required(header: str | None, body: bytes) -> PaymentRequired | None:
    """The challenge in a 402: `header` is what `challenge_header` gave, `body` its decoded body.

    A decodable header decides, else a JSON body with terms and an `x402Version`. None: this 402 offers nothing to pay
    with and passes through. Raises ChallengeError: it is a challenge, and no entry can be read; the message says why.
    """
    oversized = header is not None and len(header) > MAX_HEADER
    found = read_challenge_header(header) if header is not None else None
    if found is not None:
        return found
    if len(body) <= MAX_BODY:
        terms = _terms(lambda: body)
        if terms is not None and "x402Version" in terms[0]:
            return _required(*terms, default_version=None)
    if oversized:
        raise ChallengeError(
            f"The challenge is unreadable: its {PAYMENT_REQUIRED} header has {len(header or '')} characters,"
            f" more than the {MAX_HEADER} that are read. Nothing was paid."
        )
    return None


def read_challenge_header(header: str) -> PaymentRequired | None:
    """The challenge in a header; None: it holds none. Raises ChallengeError, as `read_payment_required` does.

    Equal headers give the same object, if it is still known: gateways send one challenge again and again.
    """
    if len(header) <= KEPT_HEADER:
        return _kept(header)
    return None if len(header) > MAX_HEADER else _in_header(header)


def _in_header(header: str) -> PaymentRequired | None:
    terms = _terms(lambda: decode_base64(header, tolerant=True))
    return None if terms is None else _required(*terms, default_version=2)


_kept = lru_cache(maxsize=64)(_in_header)


def offers_nothing(header: str | None, body: bytes) -> str:
    """What a 402 is that speaks x402 and offers nothing to pay with, for the log; empty: it does not speak x402."""
    for said in (header, body):
        try:
            data = decode_base64(said[:MAX_HEADER], tolerant=True) if isinstance(said, str) else said
            value, _ = decode_json(data or b"", MAX_VALUES)
        except Undecodable:
            continue
        if isinstance(value, dict) and value.get("accepts") == []:
            extensions = value.get("extensions")
            if isinstance(extensions, dict) and "sign-in-with-x" in extensions:
                return "it wants a signature that proves who owns the wallet (sign-in-with-x), and no payment"
            return "its accepts list is empty: there is nothing to pay with"
    return ""


class Unreadable(Exception):
    """One entry, or one payment, breaks a rule; the text completes a sentence."""


def read_entry(entry: Any, version: Literal[1, 2]) -> PaymentRequirements:
    """One entry of `accepts` (x402 v2, section 5.1.2; v1, section 5.1). Raises Unreadable."""
    if not isinstance(entry, dict):
        raise Unreadable(f"expected an object, got {shown(entry)}")
    scheme, network, asset, pay_to = (needed(entry, key) for key in ("scheme", "network", "asset", "payTo"))
    extra = entry.get("extra")
    if extra is None:
        extra = {}
    if not isinstance(extra, dict):
        raise Unreadable(f"extra must be an object, got {shown(extra)}")
    flow = extra.get("paymentFlow")
    if flow is not None and flow not in _FLOWS:  # an unknown one may keep the money, or take it twice
        raise Unreadable(f"payment flow {shown(flow)} is unknown; {' and '.join(_FLOWS)} are known")
    timeout = _seconds(entry.get("maxTimeoutSeconds"))
    return PaymentRequirements(scheme, network, _price(entry, version), asset, pay_to, timeout, extra, entry)


def needed(entry: Json, key: str) -> str:
    """The text under `key`. Raises Unreadable."""
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise Unreadable(f"{key} must be a string, got {shown(value)}")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise Unreadable(f"{key} holds half a surrogate pair, which is no text: {shown(value)}")
    return value


def _terms(data: Callable[[], bytes]) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """The JSON object with a filled `accepts` list behind `data`, and its faults; None if there is none.

    Raises ChallengeError where it has too many values to be read.
    """
    said = b""
    try:
        said = data()
        value, faults = decode_json(said, MAX_VALUES)
    except TooManyValues:
        if b'"x402Version"' not in said or is_too_deep(said[:MAX_HEADER]):
            return None
        raise ChallengeError(
            f"The challenge is unreadable: it has more than the {MAX_VALUES} values that are read. Nothing was paid."
        ) from None
    except Undecodable:
        return None
    if not isinstance(value, dict):
        return None
    found = _filled(value)
    if found is not None:
        return found, faults
    inside = [_filled(each) for each in value.values() if isinstance(each, dict)]
    nested = [each for each in inside if each is not None and "x402Version" in each]
    if not nested:
        return None
    if any(each["accepts"] != nested[0]["accepts"] for each in nested[1:]):
        faults = (*faults, "it holds several lists of terms that differ")
    return nested[0], faults


def _filled(value: dict[str, Any]) -> dict[str, Any] | None:
    """`value` with its entries under `accepts`, wherever they are in it; None: it has none."""
    offered, other = value.get("accepts"), value.get(_NESTED)
    entries = other.get("accepts") if isinstance(other, dict) else other
    if _has_entries(entries) and not _has_entries(offered):
        return {**(other if isinstance(other, dict) else {}), **value, "accepts": entries}
    return value if isinstance(offered, list) and offered else None


def _has_entries(entries: Any) -> bool:
    return isinstance(entries, list) and any(
        isinstance(entry, dict) and "scheme" in entry for entry in entries[:MAX_ENTRIES]
    )


def _required(found: dict[str, Any], faults: tuple[str, ...], default_version: Literal[2] | None) -> PaymentRequired:
    version = found.get("x402Version", default_version)
    if version not in (1, 2) or type(version) is not int:  # True equals 1 and 2.0 equals 2, but neither is a version
        raise ChallengeError(
            f"The challenge speaks x402 version {shown(version)}; versions 1 and 2 can be paid. Nothing was paid."
        )
    if faults:
        raise ChallengeError(f"The challenge is ambiguous: {faults[0]}. Nothing was paid.")
    offered = found["accepts"]
    read = [_entry_or_reason(entry, 1 if version == 1 else 2) for entry in offered[:MAX_ENTRIES]]
    entries = tuple(entry for entry in read if isinstance(entry, PaymentRequirements))
    reasons = [f"accepts[{index}]: {reason}" for index, reason in enumerate(read) if isinstance(reason, str)]
    if len(offered) > MAX_ENTRIES:
        reasons.insert(0, f"only the first {MAX_ENTRIES} of {len(offered)} entries were read")
    if len(reasons) > MAX_REASONS:
        reasons[MAX_REASONS - 1 :] = [f"and {len(reasons) - MAX_REASONS + 1} more"]
    if not entries:
        why = "; ".join(reasons)
        raise ChallengeError(f"The challenge offers no way to pay that can be read: {why}. Nothing was paid.")
    error = found.get("error")
    return PaymentRequired(
        x402_version=1 if version == 1 else 2,
        accepts=entries,
        resource=found.get("resource"),
        extensions=found.get("extensions"),
        error=error if isinstance(error, str) and error else None,
        unreadable=tuple(reasons),
        in_body=default_version is None,
    )


def _entry_or_reason(entry: Any, version: Literal[1, 2]) -> PaymentRequirements | str:
    try:
        return read_entry(entry, version)
    except Unreadable as reason:
        return str(reason)


def _seconds(value: object) -> int:
    """A whole number of seconds, 0 where none is named: some schemes need none, the others say so."""
    if value is None:
        return 0
    if isinstance(value, str) and _SECONDS.fullmatch(value):
        value = int(value.partition(".")[0])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value <= MAX_SECONDS:
        raise Unreadable(f"maxTimeoutSeconds must be a whole number of seconds, got {shown(value)}")
    return value


def _price(entry: Json, version: Literal[1, 2]) -> AtomicUnits:
    named = [key for key in _AMOUNT_KEYS[version] if entry.get(key) is not None]
    amounts = {_amount(entry[key], key) for key in named}
    if len(amounts) > 1:
        raise Unreadable(f"{' and '.join(named)} differ")
    return amounts.pop() if amounts else _amount(None, _AMOUNT_KEYS[version][0])


def _amount(value: object, key: str) -> AtomicUnits:
    # A number is refused: the specification says string, and reference servers do not recognise an echoed number.
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value) or int(value) >= _AMOUNT_LIMIT:
        raise Unreadable(f'{key} must be a string of decimal digits such as "1000", below 2^256, got {shown(value)}')
    return AtomicUnits(int(value))
