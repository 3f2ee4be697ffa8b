"""Explains in plain words why a payment was rejected: the codes of gateways and of the reference facilitators."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...errors import Undecodable
from ...machine.program import program
from ...protocol.strict_json import decode_json
from ..offer import Offer

NOT_VERIFIED = frozenset(
    {
        "permit2_allowance_required",
        "permit2_2612_amount_mismatch",
        "permit2_amount_mismatch",
        "permit2_token_mismatch",
        "permit2_not_yet_valid",
        "permit2_deadline_expired",
        "invalid_permit2_spender",
        "invalid_permit2_signature",
        "invalid_permit2_recipient_mismatch",
        "invalid_exact_evm_insufficient_balance",
        "insufficient_funds",
    }
)
"""Reasons for rejecting a payment over Permit2 before the nonce is checked: another scheme may work."""

_REASONS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), sentence)
    for pattern, sentence in (
        (
            r"PAYMENT_UNFUNDED|.*insufficient_(funds|balance)",
            "the wallet {payer} has too little {symbol} on {network}; fund it ({program} wallet fund)",
        ),
        (
            r"permit2_allowance_required",
            "the wallet {payer} has not allowed Permit2 to move its {symbol} on {network}",
        ),
        (
            r".*(valid_before|valid_after|not_yet_valid|deadline_expired)",
            "the payment was not valid then by the gateway's clock; {program} check compares it with this one's",
        ),
        (r"PAYMENT_BLOCKHASH_STALE", "its blockhash was too old when it arrived"),
        (r"PAYMENT_REPLAY|duplicate_settlement|.*nonce_already_used|permit2_invalid_nonce", "it was used before"),
        (r"PAYMENT_UNDERPAID|.*amount_mismatch", "the price has changed meanwhile"),
        (
            r"invalid_(exact_evm_payload|permit2)_signature",
            "the gateway does not take the signature; if the wallet {payer} has code (EIP-7702), it cannot pay so",
        ),
        (
            r"PAYMENT_VERIFICATION_UNAVAILABLE|unexpected_(verify|settle)_error",
            "the gateway could not check it; that is its own trouble, ask again later",
        ),
        (r"SETTLEMENT_FAILED|transaction_failed", "the gateway could not move the money"),
        (r"charged_nothing", "the gateway says that it charged nothing"),
    )
)


def explain(code: str, offer: Offer, payer: str) -> str:
    """What `code` means for a payment of `offer` by `payer`; an unknown code is returned as it is."""
    if offer.method == "gateway" and code.endswith("insufficient_balance"):
        return (
            f"{code}: too little {offer.asset.symbol} of the wallet {payer} lies with Circle Gateway on "
            f"{offer.network.name}; deposit some, or set the option x402_gateway to false"
        )
    for pattern, sentence in _REASONS:
        if pattern.fullmatch(code):
            symbol, network = offer.asset.symbol, offer.network.name
            words = sentence.format(payer=payer or "", symbol=symbol, network=network, program=program())
            return f"{code}: {' '.join(words.split())}"
    return code


def says_nothing(body: bytes) -> bool:
    """Whether a rejection's body has no message: it is empty, or JSON that holds nothing but terms."""
    if not body.strip():
        return True
    try:
        said, _ = decode_json(body)
    except Undecodable:
        return False
    if isinstance(said, dict):
        return not any(key not in _TERMS and value not in (None, "", {}, []) for key, value in said.items())
    return said in (None, [], "")


_TERMS = frozenset({"x402Version", "accepts", "resource", "extensions"})
