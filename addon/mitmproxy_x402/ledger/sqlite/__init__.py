"""The ledger in a SQLite file, which proxies on one machine share."""
