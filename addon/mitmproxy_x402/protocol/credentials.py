"""Which headers carry credentials, and which carry payments."""

from __future__ import annotations

CREDENTIALS = ("authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "cookie")
"""Headers by which a client proves who it is to somebody else than us."""
PAYMENT_HEADERS = ("payment-signature", "x-payment")
"""A client that sends one of these pays for itself."""
