"""What a payment adds to the extensions of a challenge (x402 v2, section 5.2: keys may be added, none changed)."""

from __future__ import annotations

from typing import Any

PAYMENT_IDENTIFIER = "payment-identifier"


def with_identifier(extensions: Any, identifier: str) -> Any:
    """`extensions` with `identifier` in them where the seller declares `payment-identifier`; else as they are."""
    declared = extensions.get(PAYMENT_IDENTIFIER) if isinstance(extensions, dict) else None
    info = declared.get("info") if isinstance(declared, dict) else None
    if not identifier or not isinstance(declared, dict) or not isinstance(info, dict) or "id" in info:
        return extensions
    return {**extensions, PAYMENT_IDENTIFIER: {**declared, "info": {**info, "id": identifier}}}
