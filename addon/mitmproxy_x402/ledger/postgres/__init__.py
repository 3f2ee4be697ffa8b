"""The ledger in a PostgreSQL database, which proxies on several machines share. Needs psycopg."""
