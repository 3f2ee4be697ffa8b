"""From a challenge to a payment, and what becomes of it. The only package that has signatures made.

Uses everything below `proxy`; imports nothing of mitmproxy. One payment is made in this order: `challenge` reads the
402, `policy` chooses an offer and admits it, the ledger reserves it, a scheme builds the payload, the wallet signs,
`purchase` sends and follows it, `outcomes` writes down what became of it, `retained` keeps what an equal request may
send again.
"""
