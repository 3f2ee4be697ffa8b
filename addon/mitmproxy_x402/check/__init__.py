"""Implements the verb `check`: one line each for wallet, balance, gateway, price, clock and ledger.

Pays nothing. `check` has the verb; the other modules have its checks. Uses everything below `cli`.
"""
