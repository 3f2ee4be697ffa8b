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
"""Which of the requests that the gateway sees for one of the client's carry a payment."""
models = (f"model-{number}" for number in itertools.count())
