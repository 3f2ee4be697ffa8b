"""The verb `wallet`: shows the wallets, makes, restores and funds one, and sets what Permit2 may take of it."""
