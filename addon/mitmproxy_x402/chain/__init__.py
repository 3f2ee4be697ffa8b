"""Queries chains by JSON-RPC: blockhashes, balances, and what became of payments.

Uses `protocol`; knows no settings, ledger or wallet. Everything takes URLs and seconds as plain values, and raises
RpcError (which shows no more of a URL than its host).
"""
