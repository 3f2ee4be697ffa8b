"""Implements the verb `check`: one line each for wallet, balance, gateway, price, clock and ledger.

Pays nothing. Uses everything below `cli`.
"""
