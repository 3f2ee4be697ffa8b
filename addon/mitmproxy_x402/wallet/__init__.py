"""Keys: where they are found, and the wallets that sign with them.

Uses `protocol`. No key is reachable through an attribute, a repr, a pickle or an error.
"""
