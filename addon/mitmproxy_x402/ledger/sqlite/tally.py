"""SQL for the report's sums of payments per quarter of an hour, which triggers maintain.

Quarters of an hour fit the days of every time zone. Payments under way are not included; they are few, and an index
finds them.
"""

from __future__ import annotations

QUARTER_MS = 900_000
_KEY = ("bucket", "state", "network", "model", "path", "client")
_UNDER_WAY = "('reserved', 'sent')"


def _key(row: str) -> tuple[str, ...]:
    return (
        *(f"{row}.time / {QUARTER_MS}", f"{row}.state", f"{row}.network"),
        *(f"COALESCE({row}.model, '')", f"{row}.path", f"COALESCE({row}.client, '')"),
    )


def _counts(row: str) -> str:
    return f"(CASE WHEN {row}.state IN ('released', 'expired') THEN 0 ELSE {row}.micro_usd - {row}.uncounted END)"


def _out(row: str) -> str:
    """The statement that subtracts `row` from the sums."""
    its = " AND ".join(f"{name} = {value}" for name, value in zip(_KEY, _key(row), strict=True))
    return f"""
        UPDATE tally SET payments = payments - 1, micro_usd = micro_usd - {row}.micro_usd,
            counts = counts - {_counts(row)}
        WHERE {row}.state NOT IN {_UNDER_WAY} AND {its}"""


def _into(row: str) -> str:
    """The statement that adds `row` to the sums."""
    return f"""
        INSERT INTO tally SELECT {", ".join(_key(row))}, 1, {row}.micro_usd, {_counts(row)}
        WHERE {row}.state NOT IN {_UNDER_WAY}
        ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET payments = payments + 1,
            micro_usd = micro_usd + excluded.micro_usd, counts = counts + excluded.counts"""


MIGRATION = f"""
    CREATE TABLE tally (
        bucket INTEGER NOT NULL,     -- time / {QUARTER_MS}
        state TEXT NOT NULL,
        network TEXT NOT NULL,
        model TEXT NOT NULL,         -- empty: it names none
        path TEXT NOT NULL,
        client TEXT NOT NULL,
        payments INTEGER NOT NULL,
        micro_usd INTEGER NOT NULL,
        counts INTEGER NOT NULL,     -- of micro_usd
        PRIMARY KEY (bucket, state, network, model, path, client)
    ) WITHOUT ROWID;
    INSERT INTO tally
        SELECT {", ".join(_key("payment"))}, COUNT(*), SUM(micro_usd), SUM({_counts("payment")})
        FROM payment WHERE state NOT IN {_UNDER_WAY} GROUP BY 1, 2, 3, 4, 5, 6;
    CREATE TRIGGER tally_changed AFTER UPDATE OF state, uncounted ON payment
    WHEN OLD.state <> NEW.state OR OLD.uncounted <> NEW.uncounted
    BEGIN {_out("OLD")}; {_into("NEW")}; END;
    CREATE TRIGGER tally_deleted AFTER DELETE ON payment BEGIN {_out("OLD")}; END
    """
"""Existing files contain these sums, so it never changes."""
BOUNDS = f"SELECT MIN(bucket), MAX(bucket) FROM tally WHERE bucket >= ? / {QUARTER_MS}"
DAYS = "CREATE TEMP TABLE day (bucket INTEGER PRIMARY KEY, name TEXT NOT NULL)"
ADD_DAY = "INSERT INTO temp.day VALUES (?, ?)"
GROUPS = """
    SELECT day.name, state, network, model, path, client, SUM(payments), SUM(micro_usd), SUM(counts)
    FROM tally JOIN temp.day ON day.bucket = tally.bucket WHERE payments > 0 GROUP BY 1, 2, 3, 4, 5, 6"""
UNDER_WAY = f"SELECT * FROM payment WHERE state IN {_UNDER_WAY} AND time >= ?"
