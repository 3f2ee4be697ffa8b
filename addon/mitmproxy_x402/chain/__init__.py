"""Asks chains by JSON-RPC: for blockhashes, balances, and what became of payments. `approval` sends a transaction.

Uses `protocol`; knows no settings, ledger or wallet: URLs and seconds come in as plain values. Raises RpcError, or
Unreachable where a single RPC is asked; neither shows more of a URL than its origin.
"""
