"""Reads what a gateway answers instead of serving: the PaymentRequired of a 402, or the code of a rejection.

A PaymentRequired in a header takes precedence over the body. A rejection can have another status, such as 412.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..errors import ChallengeError, Undecodable
from ..gateways import Gateway
from ..protocol.codings import decode
from ..protocol.headers import read_settlement
from ..protocol.http_message import Response
from ..protocol.messages import PaymentRequired
from ..protocol.payment_required import (
    MAX_BODY,
    MAX_VALUES,
    challenge_header,
    offers_nothing,
    read_challenge_header,
    read_payment_required,
)
from ..protocol.strict_json import decode_json

MISMATCH = "mismatch"
"""The `challenge_text` of a 402 that says only that the entry which was paid is not offered now."""
REASON = re.compile(r"(invalid_)?(permit2|upto|exact)_[a-z0-9_]{1,80}|insufficient_funds")
"""Reasons for which the reference facilitators reject a payment (x402 v2, section 9)."""
_REASON_OF_402 = re.compile(f"{REASON.pattern}|insufficient_balance")
"""Those and Circle's code for a deposit that is too small, which is a rejection only with status 402."""


def read(response: Response) -> PaymentRequired | None:
    """The challenge in `response`; None: the 402 has none.

    Raises ChallengeError: it has one that cannot be used.
    """
    header = challenge_header(response.headers.get)
    found = read_challenge_header(header) if header else None  # then the body does not matter
    return found or read_payment_required(header, _decoded(response))


def why_none(response: Response) -> str:
    """Why `read` found no challenge in a 402 that speaks x402; empty: it does not speak x402."""
    return offers_nothing(challenge_header(response.headers.get), _decoded(response))


def rejection_code(response: Response, gateway: Gateway) -> str | None:
    """The gateway's code, if `response` rejects the payment that was sent; else None.

    A 402 always rejects it, possibly with an empty code. Other statuses do so only with a payment code of the gateway,
    or with a reason of the reference facilitators, whose servers answer 412 if the Permit2 allowance is too small.
    """
    try:
        said, _ = decode_json(_decoded(response), MAX_VALUES)
    except Undecodable:
        said = None
    found = (
        [part.get("code") for part in (said, said.get("error")) if isinstance(part, dict)]
        if isinstance(said, dict)
        else []
    )
    code = next((text for text in found if isinstance(text, str) and gateway.is_code(text)), "")
    known = REASON if response.status_code != 402 else _REASON_OF_402
    code = code or next(filter(known.fullmatch, _reasons(response, said, gateway)), "")
    return code if code or response.status_code == 402 else None


def _reasons(response: Response, said: object, gateway: Gateway) -> Iterator[str]:
    """The reasons for a rejection that reference servers give: in their terms, their receipt, or their body."""
    try:
        required = read(response)
    except ChallengeError:
        required = None
    if required is not None and required.error:
        yield required.error
    settlement = read_settlement(response.headers.get, gateway.receipt_header)
    if settlement is not None:
        yield settlement.error_reason
    if isinstance(said, dict):
        yield from (text for key in ("code", "error", "reason") if isinstance(text := said.get(key), str))


def challenge_text(response: Response, gateway: Gateway) -> str:
    """The text of a 402 besides its challenge, with numbers masked; empty: it is not a plain challenge.

    If the answer to a payment has the same text as the answer to an unpaid request, the gateway has not recognised the
    payment. MISMATCH stands for the reference servers' message that the entry paid for is not on offer; they check that
    before the payment itself.
    """
    try:
        required = read(response) if response.status_code == 402 else None
        said, _ = decode_json(_decoded(response), MAX_VALUES)
    except ChallengeError:
        return ""
    except Undecodable:
        said = None
    if required is None or read_settlement(response.headers.get, gateway.receipt_header) is not None:
        return ""
    rest = {key: value for key, value in said.items() if key not in _TERMS} if isinstance(said, dict) else {}
    if rest.get("error") == required.error:  # the same error as in the terms
        rest.pop("error", None)
    if required.error == _NO_MATCH and not rest:
        return MISMATCH
    return _DIGITS.sub("#", json.dumps([required.error, rest], sort_keys=True))


_DIGITS = re.compile("[0-9]+")
_TERMS = frozenset({"x402Version", "accepts", "resource", "extensions", "price", "paymentInfo"})
_NO_MATCH = "No matching payment requirements"


def _decoded(response: Response) -> bytes:
    return decoded(response.raw_content or b"", response.headers.get("content-encoding"))


def decoded(body: bytes, coding: str | None) -> bytes:
    """`body` without its Content-Encoding, `coding`; empty when it cannot be decoded or is too large."""
    try:
        return decode(body, coding or "identity", MAX_BODY + 1)
    except Undecodable:
        return b""
