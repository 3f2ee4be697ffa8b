"""Predicts the challenge that a request will get, from earlier challenges (option `x402_preauthorize`).

Optional, off by default. Uses `protocol`, `limits` and `gateways`. Words: a Question is what the price of a request may
depend on, a Quote the known prices of one model, Terms a challenge without its numbers, a Prediction the challenge that
is expected.
"""
