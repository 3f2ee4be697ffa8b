"""The ledger in a SQLite file, shared by every proxy on this machine that pays from it."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .ledger import (
    FREE,
    LAPSE_SECONDS,
    Clock,
    Intent,
    JobPaid,
    LedgerError,
    Outcome,
    OverBudget,
    State,
    Submitted,
    sources,
)
from .limits import ALIAS, Budget
from .protocol.messages import AtomicUnits, Caip2

BUSY_MS = 250
"""How long one write waits for another process; a write itself takes a tenth of a millisecond."""

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
        cumulative INTEGER NOT NULL,  -- micro_usd of this and all earlier rows, whatever became of them
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
)
"""Each brings the schema from its index to the next version; PRAGMA user_version says where a file is."""

_FREE = f"({', '.join(repr(state) for state in FREE)})"


def _sources(target: State) -> str:
    return f"({', '.join(repr(state) for state in sources(target))})"


_INSERT = """
    INSERT INTO payment (time, counted_at, process, method, host, path, model, network, asset, pay_to, amount,
                         micro_usd, cumulative, state, replaces, job)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'reserved', ?, NULLIF(?, ''))"""
_LAPSE = "UPDATE payment SET state = 'released' WHERE state = 'reserved' AND counted_at < ?"
_DUE = "SELECT 1 FROM payment WHERE state = 'superseded' AND free_at <= ? LIMIT 1"
_EXPIRE = "UPDATE payment SET state = 'expired' WHERE state = 'superseded' AND free_at <= ?"
_SENT = f"""
    UPDATE payment SET state = 'sent', sends = 1, reference = ?, valid_until = ?
    WHERE id = ? AND state IN {_sources("sent")}"""
_RESENT = """
    UPDATE payment SET state = CASE state WHEN 'sent' THEN 'unknown' ELSE state END, sends = sends + 1
    WHERE id = ? AND state IN ('sent', 'unknown', 'settled')"""
_RELEASE = f"UPDATE payment SET state = 'released' WHERE id = ? AND state IN {_sources('released')}"
_FINISH = """
    UPDATE payment SET state = CASE WHEN state IN {sources} THEN ? ELSE state END,
                       transaction_id = COALESCE(NULLIF(?, ''), transaction_id),
                       status = ?, code = NULLIF(?, ''), request_id = NULLIF(?, ''),
                       first_byte_ms = ?, total_ms = ?, bytes = ?, free_at = COALESCE(?, free_at)
    WHERE id = ? AND sends > 0"""
_JOB = "UPDATE payment SET job = ?, payer = ? WHERE id = ?"
_FOLLOWING = f"SELECT MAX(id) FROM payment WHERE job = ? AND replaces = ? AND payer IS NULL AND state NOT IN {_FREE}"
_SUBMITTED = """
    SELECT id, method, path, model, network, asset, pay_to, amount, state, reference, payer, counted_at, valid_until
    FROM payment WHERE job = ? AND payer IS NOT NULL ORDER BY id DESC LIMIT 1"""
_LAST = "SELECT counted_at, cumulative FROM payment ORDER BY id DESC LIMIT 1"
_BEFORE = "SELECT cumulative FROM payment WHERE counted_at <= ? ORDER BY counted_at DESC, id DESC LIMIT 1"
_FREED = f"SELECT TOTAL(micro_usd) FROM payment WHERE state IN {_FREE} AND counted_at > ?"
# An empty pattern means every request, and the gateway's alias of a path is the same path.
_COVERED = f"(?1 = '' OR model GLOB ?1) AND (?2 = '' OR path GLOB ?2 OR path GLOB '{ALIAS}' || ?2)"
_SCOPED = f"SELECT TOTAL(micro_usd) FROM payment WHERE counted_at > ?3 AND state NOT IN {_FREE} AND {_COVERED}"
_ROOM = f"""
    SELECT counted_at FROM (
        SELECT counted_at, SUM(micro_usd) OVER (ORDER BY id) AS gone FROM payment
        WHERE counted_at > ?3 AND state NOT IN {_FREE} AND {_COVERED}
    ) WHERE gone >= ?4 LIMIT 1"""


class SqliteLedger:
    """One connection to the file; every process, and every thread, opens its own. Raises LedgerError when it cannot."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.place = self.path = path
        self._clock = clock or Clock()
        self._process = f"{self._clock.boot_name} {os.getpid()}"
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before SQLite makes it: its -wal and -shm files get the same mode. Never one that is there: closing it
            # would take away the locks of this process's other connections to it.
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            self._db = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise self._failure(error) from None
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    @property
    def name(self) -> str:
        """See `Ledger`."""
        return str(self.path)

    @property
    def process(self) -> str:
        """See `Ledger`."""
        return self._process

    def _prepare(self) -> None:
        with self._guarded():
            self._db.execute("PRAGMA journal_mode = WAL")
            # Survives the end of the process at any point; a power cut may take the last moments.
            self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise LedgerError(
                    f"The ledger {self.path} was written by a newer version of mitmproxy-x402 (schema {version}, this "
                    f"one knows {len(MIGRATIONS)}). Update, or name another file with x402_ledger."
                )
            for number in range(version, len(MIGRATIONS)):
                for statement in MIGRATIONS[number].split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {number + 1}")
            self._anchor = self._start_clock()
            self._recover()

    def _start_clock(self) -> int:
        """The ledger's time at uptime zero of this boot, in milliseconds, fixed by whoever opens the ledger first."""
        boot = self._clock.boot_name
        known = self._db.execute("SELECT counted_at - uptime FROM clock WHERE boot = ?", (boot,)).fetchone()
        if known is not None:
            return int(known[0])
        last = (
            "SELECT MAX(t) FROM (SELECT MAX(counted_at) t FROM payment UNION ALL SELECT MAX(counted_at) t FROM clock)"
        )
        then = self._db.execute(last).fetchone()[0] or 0
        now, uptime = max(then, _now_ms(self._clock.wall)), _now_ms(self._clock.uptime)
        self._db.execute("DELETE FROM clock")
        self._db.execute("INSERT INTO clock VALUES (?, ?, ?)", (boot, now, uptime))
        return now - uptime

    def _recover(self) -> None:
        """Close the rows of processes that are no more."""
        rows = self._db.execute("SELECT DISTINCT process FROM payment WHERE state IN ('reserved', 'sent')").fetchall()
        for (process,) in rows:
            if not is_alive(process, self._clock.boot_name):
                self._db.execute(
                    "UPDATE payment SET state = CASE state WHEN 'reserved' THEN 'released' ELSE 'unknown' END"
                    " WHERE state IN ('reserved', 'sent') AND process = ?",
                    (process,),
                )

    # The life of a row.

    def reserve(self, intent: Intent, budgets: Sequence[Budget]) -> int:
        """See `Ledger`."""
        with self._transaction():
            now, cumulative = self._now()
            self._db.execute(_LAPSE, (now - LAPSE_SECONDS * 1000,))
            self._db.execute(_EXPIRE, (now,))
            if intent.job and self._following(intent.job, intent.replaces) is not None:
                raise JobPaid
            for budget in budgets:
                spent = self._spent(budget, now, cumulative)
                if spent + intent.micro_usd > budget.micro_usd:
                    raise OverBudget(budget, spent, self._returns(budget, spent, intent.micro_usd, now))
            values = (
                *(_now_ms(self._clock.wall), now, self._process),
                *(intent.method, intent.host, intent.path, intent.model),
                *(intent.network, intent.asset, intent.pay_to, str(intent.amount), intent.micro_usd),
                *(cumulative + intent.micro_usd, intent.replaces, intent.job),
            )
            row = self._db.execute(_INSERT, values).lastrowid
        assert row is not None
        return row

    def record_sent(self, row: int, reference: str, valid_until: float) -> None:
        """See `Ledger`."""
        self._change(_SENT, (reference, int(valid_until), row))

    def record_resent(self, row: int) -> None:
        """See `Ledger`."""
        self._change(_RESENT, (row,))

    def release(self, row: int) -> None:
        """See `Ledger`."""
        with self._guarded():
            self._db.execute(_RELEASE, (row,))

    def finish(self, row: int, outcome: Outcome) -> State:
        """See `Ledger`."""
        with self._guarded():
            free_at = None
            if outcome.state == "superseded":
                free_at = self._now()[0] + math.ceil(outcome.counts_for * 1000)
            values = (
                *(outcome.state, outcome.transaction, outcome.status, outcome.code, outcome.request_id),
                *(_milliseconds(outcome.first_byte), _milliseconds(outcome.total), outcome.size, free_at, row),
            )
            self._db.execute(_FINISH.format(sources=_sources(outcome.state)), values)
            state: State = self._db.execute("SELECT state FROM payment WHERE id = ?", (row,)).fetchone()[0]
        return state

    def record_job(self, row: int, job: str, payer: str) -> None:
        """See `Ledger`."""
        with self._guarded():
            self._db.execute(_JOB, (job, payer, row))

    def find_job(self, job: str) -> Submitted | None:
        """See `Ledger`."""
        with self._transaction("DEFERRED"):
            found = self._db.execute(_SUBMITTED, (job,)).fetchone()
            if found is None:
                return None
            row, method, path, model, network, asset, pay_to, amount, state, reference, payer, then, until = found
            following = self._following(job, row)
            age = (self._now()[0] - then) / 1000
        terms = Caip2(network), asset, pay_to, AtomicUnits(int(amount))
        return Submitted(row, following or row, method, path, model, *terms, state, reference, payer, age, until or 0)

    def _following(self, job: str, row: int | None) -> int | None:
        """The row that counts of the payment that followed `row` for its job."""
        (following,) = self._db.execute(_FOLLOWING, (job, row)).fetchone()
        return None if following is None else int(following)

    def _change(self, statement: str, values: tuple[Any, ...]) -> None:
        with self._guarded():
            changed = self._db.execute(statement, values).rowcount
        if changed != 1:
            raise LedgerError("The reservation of this payment has lapsed, so it was not sent. Ask again.")

    # Budgets.

    def spent(self, budget: Budget) -> int:
        """See `Ledger`."""
        with self._transaction("DEFERRED"):
            now, cumulative = self._now()
            if self._db.execute(_DUE, (now,)).fetchone() is None:
                return self._spent(budget, now, cumulative)
        with self._transaction():
            now, cumulative = self._now()
            self._db.execute(_EXPIRE, (now,))
            return self._spent(budget, now, cumulative)

    def spent_of(self, budgets: Sequence[Budget]) -> list[int]:
        """See `Ledger`."""
        return [self.spent(budget) for budget in budgets]

    def _now(self) -> tuple[int, int]:
        """The ledger's time in milliseconds, and everything that was ever reserved."""
        then, cumulative = self._db.execute(_LAST).fetchone() or (0, 0)
        return max(then, self._anchor + _now_ms(self._clock.uptime)), cumulative

    def _spent(self, budget: Budget, now: int, cumulative: int) -> int:
        begin = _begin(budget, now)
        if budget.scope.model or budget.scope.path:
            return int(self._db.execute(_SCOPED, (*_patterns(budget), begin)).fetchone()[0])
        before = self._db.execute(_BEFORE, (begin,)).fetchone()
        freed = int(self._db.execute(_FREED, (begin,)).fetchone()[0])
        return cumulative - (before[0] if before else 0) - freed

    def _returns(self, budget: Budget, spent: int, wanted: int, now: int) -> float | None:
        """Seconds until enough has left the period. None: never."""
        if budget.seconds is None or wanted > budget.micro_usd:
            return None
        needed = spent + wanted - budget.micro_usd
        found = self._db.execute(_ROOM, (*_patterns(budget), _begin(budget, now), needed)).fetchone()
        return None if found is None else (found[0] - now) / 1000 + budget.seconds

    # SQLite.

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        with self._guarded():
            self._db.execute(f"BEGIN {kind}")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> LedgerError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return LedgerError(
            f"The ledger {self.path} cannot be used: {reason}. Without it nothing is paid. See that the file and its "
            "folder are writable and the disk is not full, or name another file with the option x402_ledger."
        )

    def close(self) -> None:
        """See `Ledger`."""
        self._db.close()


def is_alive(process: str, boot: str) -> bool:
    """Whether `process`, as a row names it, may still run in this boot. A wrong answer costs no money, see `ledger`."""
    its_boot, _, pid = process.rpartition(" ")
    if its_boot != boot:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _begin(budget: Budget, now: int) -> int:
    return -1 if budget.seconds is None else now - budget.seconds * 1000


def _patterns(budget: Budget) -> tuple[str, str]:
    return budget.scope.model, budget.scope.path.removeprefix(ALIAS)


def _now_ms(clock: Callable[[], float]) -> int:
    return int(clock() * 1000)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
