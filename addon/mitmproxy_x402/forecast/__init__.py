"""What a gateway will ask for a request, learnt from its challenges (option `x402_preauthorize`).

Optional, off by default. Uses `protocol` and `limits`. Words: a Question is a request as its price depends on it, a
Quote what a gateway asked, Terms the challenge without its numbers, a Prediction the challenge that is expected.
"""
