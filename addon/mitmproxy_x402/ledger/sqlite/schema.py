"""The tables of the ledger in SQLite, and their migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from ...gateways.blockrun import ALIAS
from . import tally

LEVELS = (10, 16, 22, 28)
"""Lengths of the spans that `spending` has sums for: 2**10 milliseconds (a second), 2**16 (a minute), 2**22 (70
minutes) and 2**28 (three days). Existing files contain such sums, so these numbers never change.
"""


def covered(row: str) -> str:
    """SQL that is true if `row` (a table's name) is in `scope`, by the rule of `limits.Scope.covers`."""
    path = f"LOWER(COALESCE({row}.limit_path, {row}.path))"
    return f"""
        (scope.model = '' OR {row}.unclear & 1 OR LOWER({row}.model) GLOB scope.model)
        AND (scope.path = '' OR {row}.unclear & 2 OR {path} GLOB scope.path OR {path} GLOB '{ALIAS}' || scope.path
            OR {path} || '/' GLOB scope.path OR {path} || '/' GLOB '{ALIAS}' || scope.path)"""


def _covered_without_its_folder(row: str) -> str:
    """The condition up to version 13 of the tables, in which /v1/images/* did not cover /v1/images itself."""
    path = f"LOWER(COALESCE({row}.limit_path, {row}.path))"
    return f"""
        (scope.model = '' OR {row}.unclear & 1 OR LOWER({row}.model) GLOB scope.model)
        AND (scope.path = '' OR {row}.unclear & 2 OR {path} GLOB scope.path OR {path} GLOB '{ALIAS}' || scope.path)"""


def _covered_before(row: str) -> str:
    """The condition up to version 6 of the tables."""
    return f"""
        (scope.model = '' OR {row}.model GLOB scope.model)
        AND (scope.path = '' OR {row}.path GLOB scope.path OR {row}.path GLOB '{ALIAS}' || scope.path)"""


def _add(amount: str, covered: Callable[[str], str] = _covered_before) -> str:
    return f"""
        INSERT INTO spending (scope, level, span, micro_usd)
        SELECT scope.id, level.bits, NEW.counted_at >> level.bits, {amount}
        FROM scope, ({" UNION ALL ".join(f"SELECT {bits} AS bits" for bits in LEVELS)}) AS level
        WHERE {covered("NEW")}
        ON CONFLICT (scope, level, span) DO UPDATE SET micro_usd = micro_usd + excluded.micro_usd"""


def _add_each(amount: str) -> str:
    """Does what `_add` does. SQLite builds a table anew, at each payment, for a subquery; a table it only reads."""
    return f"""
        INSERT INTO spending (scope, level, span, micro_usd)
        SELECT scope.id, level.bits, NEW.counted_at >> level.bits, {amount}
        FROM scope CROSS JOIN level WHERE {covered("NEW")}
        ON CONFLICT (scope, level, span) DO UPDATE SET micro_usd = micro_usd + excluded.micro_usd"""


def _counts(row: str) -> str:
    """SQL for the amount that `row` (a table's name) counts for; the two states named count for nothing."""
    return f"(CASE WHEN {row}.state IN ('released', 'expired') THEN 0 ELSE {row}.micro_usd - {row}.uncounted END)"


OLD_MARGIN_MS = 3600_000
"""Milliseconds, for clock differences, that old `rejected` rows count beyond the end of their signature."""

MIGRATIONS = (
    """
    CREATE TABLE payment (
        id INTEGER PRIMARY KEY,
        time INTEGER NOT NULL,        -- wall clock at the reservation, Unix milliseconds
        counted_at INTEGER NOT NULL,  -- the ledger's own time, milliseconds, never falls from row to row
        process TEXT NOT NULL,        -- boot and process id of whoever reserved it
        method TEXT NOT NULL,
        host TEXT NOT NULL,
        path TEXT NOT NULL,           -- without its query
        model TEXT,
        network TEXT NOT NULL,        -- CAIP-2
        asset TEXT NOT NULL,
        pay_to TEXT NOT NULL,
        amount TEXT NOT NULL,         -- atomic units of the asset, decimal, may be beyond 64 bits
        micro_usd INTEGER NOT NULL,
        cumulative INTEGER NOT NULL,  -- micro_usd of this and all earlier rows, for proxies of older versions
        state TEXT NOT NULL,
        sends INTEGER NOT NULL DEFAULT 0,
        reference TEXT,               -- EIP-3009 nonce or Solana signature
        valid_until INTEGER,          -- of the signature, Unix seconds
        transaction_id TEXT,
        status INTEGER,               -- of the upstream's answer
        code TEXT,                    -- of the gateway's rejection
        request_id TEXT,
        first_byte_ms INTEGER,
        total_ms INTEGER,
        bytes INTEGER,
        replaces INTEGER REFERENCES payment (id)
    );
    CREATE TABLE clock (
        boot TEXT NOT NULL,
        counted_at INTEGER NOT NULL,  -- the ledger's time when this boot was first seen, milliseconds
        uptime INTEGER NOT NULL       -- and the machine's uptime then
    );
    CREATE INDEX payment_counted_at ON payment (counted_at);
    CREATE INDEX payment_freed ON payment (counted_at, micro_usd) WHERE state IN ('rejected', 'released');
    CREATE INDEX payment_open ON payment (state, counted_at) WHERE state IN ('reserved', 'sent')
    """,
    """
    ALTER TABLE payment ADD COLUMN free_at INTEGER;  -- of superseded ones: the ledger's time, milliseconds
    DROP INDEX payment_freed;
    CREATE INDEX payment_freed ON payment (counted_at, micro_usd) WHERE state IN ('rejected', 'released', 'expired');
    CREATE INDEX payment_superseded ON payment (free_at) WHERE state = 'superseded'
    """,
    """
    ALTER TABLE payment ADD COLUMN job TEXT;    -- where the job is polled that this payment belongs to
    ALTER TABLE payment ADD COLUMN payer TEXT;  -- who signed, of payments whose answer was the job
    CREATE INDEX payment_job ON payment (job) WHERE job IS NOT NULL
    """,
    f"""
    -- What budgets asked for. An empty pattern means every request; the gateway's alias is not part of a path's.
    CREATE TABLE scope (
        id INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        path TEXT NOT NULL,
        used_at INTEGER NOT NULL,  -- the ledger's time of its last use, give or take a day, milliseconds
        UNIQUE (model, path),
        CHECK (LENGTH(model) + LENGTH(path) <= 10000)  -- SQLite can match no longer ones, and then could add no row
    );
    -- What the payments of a scope count for, by the time of their reservation.
    CREATE TABLE spending (
        scope INTEGER NOT NULL REFERENCES scope (id),
        level INTEGER NOT NULL,
        span INTEGER NOT NULL,  -- counted_at >> level
        micro_usd INTEGER NOT NULL,
        PRIMARY KEY (scope, level, span)
    ) WITHOUT ROWID;
    -- Whatever changes a row keeps them right, even a proxy of the version before that has not been restarted.
    CREATE TRIGGER spending_reserved AFTER INSERT ON payment
    WHEN NEW.state NOT IN ('rejected', 'released', 'expired')
    BEGIN {_add("NEW.micro_usd")}; END;
    CREATE TRIGGER spending_freed AFTER UPDATE OF state ON payment
    WHEN OLD.state NOT IN ('rejected', 'released', 'expired') AND NEW.state IN ('rejected', 'released', 'expired')
    BEGIN {_add("-NEW.micro_usd")}; END;
    CREATE TRIGGER spending_restored AFTER UPDATE OF state ON payment
    WHEN OLD.state IN ('rejected', 'released', 'expired') AND NEW.state NOT IN ('rejected', 'released', 'expired')
    BEGIN {_add("NEW.micro_usd")}; END;
    DROP INDEX payment_freed
    """,
    f"""
    ALTER TABLE payment ADD COLUMN scheme TEXT;          -- of x402; NULL in rows of older versions: exact
    ALTER TABLE payment ADD COLUMN wallet TEXT;          -- public address of whoever signs
    ALTER TABLE payment ADD COLUMN client TEXT;          -- who asked for it, as the client names itself
    ALTER TABLE payment ADD COLUMN nonce TEXT;           -- EVM: of the signature; Solana: the memo
    ALTER TABLE payment ADD COLUMN valid_before INTEGER; -- EVM: Unix seconds by the chain's clock
    ALTER TABLE payment ADD COLUMN blockhash TEXT;       -- Solana
    ALTER TABLE payment ADD COLUMN last_height INTEGER;  -- Solana: the last block that can hold the transaction
    ALTER TABLE payment ADD COLUMN dead_at INTEGER;      -- from when on nobody can submit it: the ledger's time, ms
    ALTER TABLE payment ADD COLUMN charged TEXT;         -- of a ceiling, as the answer says: atomic units
    ALTER TABLE payment ADD COLUMN charged_micro_usd INTEGER;
    ALTER TABLE payment ADD COLUMN uncounted INTEGER NOT NULL DEFAULT 0;  -- of micro_usd, counts no more
    ALTER TABLE payment ADD COLUMN chain_state TEXT;     -- what the chain says: moved or dead; NULL: not looked up
    ALTER TABLE payment ADD COLUMN chain_transaction TEXT;
    ALTER TABLE payment ADD COLUMN chain_time INTEGER;   -- of the block, Unix seconds
    ALTER TABLE payment ADD COLUMN chain_amount TEXT;    -- that moved, atomic units
    ALTER TABLE payment ADD COLUMN finding TEXT;         -- where the chain contradicts the gateway
    -- Rejections counted nothing. Those whose signature may live count again, by the triggers of the version before.
    UPDATE payment SET state = 'superseded',
        free_at = counted_at + MAX(COALESCE(valid_until * 1000 - time, 86400000), 0) + {OLD_MARGIN_MS}
        WHERE state = 'rejected';
    DROP TRIGGER spending_freed;
    DROP TRIGGER spending_restored;
    DROP TRIGGER spending_reserved;
    CREATE TRIGGER spending_reserved AFTER INSERT ON payment WHEN {_counts("NEW")} <> 0
    BEGIN {_add(_counts("NEW"))}; END;
    CREATE TRIGGER spending_changed AFTER UPDATE OF state, uncounted ON payment
    WHEN {_counts("NEW")} <> {_counts("OLD")}
    BEGIN {_add(f"{_counts('NEW')} - {_counts('OLD')}")}; END;
    DROP INDEX payment_superseded;
    CREATE INDEX payment_ending ON payment (free_at) WHERE free_at IS NOT NULL;
    CREATE INDEX payment_unproven ON payment (id)
        WHERE state IN ('sent', 'unknown', 'rejected', 'superseded') OR (state = 'expired' AND chain_state IS NULL)
    """,
    """
    CREATE TABLE opened (
        process TEXT PRIMARY KEY,  -- that has the file open; who closes it takes it out
        since INTEGER NOT NULL     -- wall clock, Unix milliseconds
    ) WITHOUT ROWID
    """,
    f"""
    ALTER TABLE payment ADD COLUMN limit_path TEXT;  -- what limits go by, where it is not the path in lower case
    ALTER TABLE payment ADD COLUMN unclear INTEGER NOT NULL DEFAULT 0;  -- 1: it may be for any model, 2: at any path
    -- Patterns are kept in lower case from now on, and all scopes are summed up anew.
    DROP TRIGGER spending_reserved;
    DROP TRIGGER spending_changed;
    DELETE FROM spending;
    DELETE FROM scope;
    CREATE TRIGGER spending_reserved AFTER INSERT ON payment WHEN {_counts("NEW")} <> 0
    BEGIN {_add(_counts("NEW"), _covered_without_its_folder)}; END;
    CREATE TRIGGER spending_changed AFTER UPDATE OF state, uncounted ON payment
    WHEN {_counts("NEW")} <> {_counts("OLD")}
    BEGIN {_add(f"{_counts('NEW')} - {_counts('OLD')}", _covered_without_its_folder)}; END
    """,
    tally.MIGRATION,
    "ALTER TABLE scope ADD COLUMN for_ever INTEGER NOT NULL DEFAULT 0",  # a budget of this scope has no period
    "CREATE INDEX payment_finding ON payment (id) WHERE finding IS NOT NULL",
    "CREATE INDEX payment_forgiven ON payment (counted_at) WHERE state = 'expired' AND chain_state IS NULL",
    """
    CREATE INDEX payment_given_back ON payment (counted_at) WHERE uncounted <> 0 AND chain_state IS NULL;
    CREATE INDEX payment_charge ON payment (id)
        WHERE state = 'settled' AND charged_micro_usd IS NOT NULL AND chain_state IS NULL
    """,
    """
    ALTER TABLE payment ADD COLUMN exact_micro_usd INTEGER;  -- the exact price beside a ceiling
    CREATE INDEX payment_ceiling ON payment (time) WHERE scheme = 'upto'
    """,
    f"""
    -- A pattern that ends in /* means what stands before that, too: all scopes are summed up anew.
    DROP TRIGGER spending_reserved;
    DROP TRIGGER spending_changed;
    DELETE FROM spending;
    DELETE FROM scope;
    CREATE TRIGGER spending_reserved AFTER INSERT ON payment WHEN {_counts("NEW")} <> 0
    BEGIN {_add(_counts("NEW"), covered)}; END;
    CREATE TRIGGER spending_changed AFTER UPDATE OF state, uncounted ON payment
    WHEN {_counts("NEW")} <> {_counts("OLD")}
    BEGIN {_add(f"{_counts('NEW')} - {_counts('OLD')}", covered)}; END
    """,
    """
    -- What budgets count beyond their period: signatures that live long, or are made again.
    CREATE INDEX payment_outliving ON payment (counted_at)
        WHERE dead_at - counted_at > 1500000 OR (dead_at IS NULL AND state = 'unknown')
    """,
    "-- From here on a reserved row of an ended process may have been sent (`departures`), which older versions ignore",
    f"""
    -- For a list of more than two values, too, SQLite builds a table at each payment.
    CREATE TABLE level (bits INTEGER PRIMARY KEY);
    INSERT INTO level VALUES {", ".join(f"({bits})" for bits in LEVELS)};
    DROP TRIGGER spending_reserved;
    DROP TRIGGER spending_changed;
    CREATE TRIGGER spending_reserved AFTER INSERT ON payment WHEN {_counts("NEW")} <> 0
    BEGIN {_add_each(_counts("NEW"))}; END;
    CREATE TRIGGER spending_changed AFTER UPDATE OF state, uncounted ON payment
    WHEN {_counts("NEW")} <> {_counts("OLD")}
    BEGIN {_add_each(f"{_counts('NEW')} - {_counts('OLD')}")}; END;
    DROP INDEX payment_unproven;
    CREATE INDEX payment_unproven ON payment (id)
        WHERE state IN ('sent', 'unknown') OR state IN ('rejected', 'superseded')
            OR (state = 'expired' AND chain_state IS NULL)
    """,
)
"""Each migrates the tables from its index to the next version; PRAGMA user_version is a file's version."""


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Migrate the tables from `version` to the newest. Called in a transaction."""
    for number in range(version, len(MIGRATIONS)):
        for statement in statements(MIGRATIONS[number]):
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {number + 1}")


def statements(script: str) -> Iterator[str]:
    """The single statements of `script`: `executescript` would commit the transaction."""
    statement = ""
    for part in script.split(";"):
        statement += f"{part};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
