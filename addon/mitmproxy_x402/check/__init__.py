"""Is everything in order? Wallet, balance, gateway, price, clock, ledger: one line each, `ok` or what to do.

Pays nothing. Uses everything below `cli`.
"""
