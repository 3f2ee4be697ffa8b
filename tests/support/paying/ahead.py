"""Payments ahead of their challenge: how to ask for them, and what a gateway sees of them."""

from __future__ import annotations

import itertools

from mitmproxy_x402.forecast.forecast import TRUST

ON = ("--set", "x402_preauthorize=true")
ENOUGH = TRUST + 1
"""Equal requests after which the next one is paid ahead."""
TWO_LEGS = [False, True]
AHEAD = [True]
IN_VAIN = [True, True]
"""For each request that the gateway gets for one of the client's, whether it carries a payment: in an ordinary
purchase, in one that was paid ahead, and in one that was paid ahead in vain."""
models = (f"model-{number}" for number in itertools.count())
