"""Turns a challenge into a payment and tracks its outcome. Only this package has payments signed.

Uses `ledger`, `reconcile`, `forecast`, `schemes`, `chain`, `wallet`, `limits`, `settings`, `gateways`, `protocol` and
`machine`; imports nothing of mitmproxy. One payment is made in this order: `challenge` reads the 402, `policy` chooses
an offer and admits it, the ledger reserves it, a scheme builds the payload, the wallet signs, `purchase` follows it
until the answer is over, `outcomes` records the outcome, `retained` keeps payments that an equal request may send
again.
"""
