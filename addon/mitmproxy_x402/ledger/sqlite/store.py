"""The ledger in a SQLite file, shared by every proxy on this machine that pays from it."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import Refused
from ...limits.limits import Budget
from ...protocol.messages import AtomicUnits, Caip2
from ..interface import (
    CHAIN_TRANSITIONS,
    LAPSE_SECONDS,
    PASSING,
    REPLACEABLE,
    TRANSITIONS,
    UNKNOWN,
    ChainWord,
    Clock,
    Intent,
    JobPaid,
    LedgerError,
    Outcome,
    OverBudget,
    State,
    Submitted,
    Validity,
    sources,
)
from .schema import MIGRATIONS, migrate
from .spending import Spending

BUSY_MS = 250
"""How long one write waits for another process; a write itself takes a tenth of a millisecond."""
CHECKPOINT_PAGES = 4000
"""After so many pages of its log, 16 MB or 500 payments, SQLite brings them into the file. All streams wait for the
disk meanwhile, some milliseconds: four times as seldom as by default."""

_REPLACEABLE = f"({', '.join(repr(state) for state in REPLACEABLE)})"
_PASSING = f"({', '.join(repr(state) for state in PASSING)})"


def _sources(target: State, table: Mapping[State, tuple[State, ...]] = TRANSITIONS) -> str:
    return f"({', '.join(repr(state) for state in sources(target, table))})"


_INSERT = """
    INSERT INTO payment (time, counted_at, process, method, host, path, model, network, asset, pay_to, amount,
                         micro_usd, cumulative, state, replaces, job, scheme, wallet, nonce, client)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'reserved', ?, NULLIF(?, ''), ?, ?, ?, NULLIF(?, ''))"""
# The index has all that are open, and SQLite takes it only for a statement that says so in the same words.
_LAPSED = f"state IN ('reserved', 'sent') AND state = 'reserved' AND counted_at < {{now}} - {LAPSE_SECONDS * 1000}"
_DUE = "free_at <= {now}"
_LAPSE = f"UPDATE payment SET state = 'released' WHERE {_LAPSED.format(now='?')}"
_END = f"""
    UPDATE payment SET free_at = NULL, state = CASE WHEN state IN {_PASSING} THEN 'expired' ELSE state END,
        uncounted = CASE WHEN state = 'settled' AND chain_state IS NULL
                         THEN MAX(micro_usd - COALESCE(charged_micro_usd, micro_usd), 0) ELSE uncounted END
    WHERE {_DUE.format(now="?")}"""
# The ledger's time, everything that was ever reserved, and whether there is something to lapse or to end.
_LAST = f"""
    WITH last AS (SELECT MAX(counted_at, ?) AS now, cumulative FROM payment ORDER BY id DESC LIMIT 1)
    SELECT now, cumulative, EXISTS (SELECT 1 FROM payment WHERE {_LAPSED.format(now="now")}),
           EXISTS (SELECT 1 FROM payment WHERE {_DUE.format(now="now")})
    FROM last"""
_SENT = f"""
    UPDATE payment SET state = 'sent', sends = 1, reference = ?, valid_until = ?, valid_before = ?, blockhash = ?,
        last_height = ?, dead_at = MAX(counted_at, ?) + ?
    WHERE id = ? AND state IN {_sources("sent")}"""
_RESENT = """
    UPDATE payment SET state = CASE state WHEN 'sent' THEN 'unknown' ELSE state END, sends = sends + 1,
        valid_before = MAX(COALESCE(valid_before, ?1), COALESCE(?1, valid_before)),
        dead_at = MAX(COALESCE(dead_at, ?2), COALESCE(?2, dead_at))
    WHERE id = ?3 AND state IN ('sent', 'unknown', 'settled')"""
_RELEASE = f"UPDATE payment SET state = 'released' WHERE id = ? AND state IN {_sources('released')}"
# When it ends by itself: a rejection with its signature, and what was not charged of a ceiling likewise.
_ENDS = {
    **dict.fromkeys(PASSING, "CASE WHEN dead_at IS NULL OR :until > dead_at THEN :until ELSE dead_at END"),
    "settled": "CASE WHEN :charged_micro_usd IS NOT NULL AND chain_state IS NULL THEN dead_at END",
}
_FINISH = {
    state: f"""
    UPDATE payment SET state = CASE WHEN state IN {_sources(state)} THEN '{state}' ELSE state END,
                       transaction_id = COALESCE(NULLIF(:transaction, ''), transaction_id),
                       status = :status, code = NULLIF(:code, ''), request_id = NULLIF(:request_id, ''),
                       first_byte_ms = :first_byte, total_ms = :total, bytes = :size,
                       charged = COALESCE(:charged, charged),
                       charged_micro_usd = COALESCE(:charged_micro_usd, charged_micro_usd),
                       free_at = CASE WHEN state IN {_sources(state)} THEN {_ENDS.get(state, "free_at")}
                                      ELSE free_at END
    WHERE id = :row AND sends > 0"""
    for state in TRANSITIONS
}
_CHAIN: dict[str, str] = {
    "moved": f"""
    UPDATE payment SET state = 'settled', chain_state = 'moved', chain_transaction = NULLIF(:transaction, ''),
        chain_time = :time, chain_amount = :amount, finding = NULLIF(:finding, ''), free_at = NULL,
        uncounted = COALESCE(micro_usd - :micro_usd, uncounted)
    WHERE id = :row AND state IN {_sources("settled", CHAIN_TRANSITIONS)}""",
    "dead": f"""
    UPDATE payment SET state = 'expired', chain_state = 'dead', finding = NULLIF(:finding, ''), free_at = NULL
    WHERE id = :row AND state IN {_sources("expired", CHAIN_TRANSITIONS)} AND chain_state IS NOT 'moved'""",
}
_JOB = "UPDATE payment SET job = ?, payer = ? WHERE id = ?"
_FOLLOWING = (
    f"SELECT MAX(id) FROM payment WHERE job = ? AND replaces = ? AND payer IS NULL AND state NOT IN {_REPLACEABLE}"
)
_SUBMITTED = """
    SELECT id, method, path, model, network, asset, pay_to, amount, state, reference, payer, counted_at, valid_until
    FROM payment WHERE job = ? AND payer IS NOT NULL ORDER BY id DESC LIMIT 1"""


class SqliteLedger:
    """One connection to the file; every process, and every thread, opens its own. Raises LedgerError when it cannot."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.place = self.path = path
        self._clock = clock or Clock()
        self._process = f"{self._clock.boot_name} {os.getpid()}"
        self._unwritten: list[tuple[int, Outcome]] = []
        """Outcomes that came when nothing could be written: they go with the next ones."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Before SQLite makes it: its -wal and -shm files get the same mode. Never one that is there: closing it
            # would take away the locks of this process's other connections to it.
            if not path.exists():
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            if path.stat().st_mode & 0o077:
                path.chmod(0o600)
            self._db = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
            self._spending = Spending(self._db)
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
            self._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise LedgerError(
                    f"The ledger {self.path} was written by a newer version of mitmproxy-x402 (schema {version}, this "
                    f"one knows {len(MIGRATIONS)}). Update, or name another file with x402_ledger."
                )
            migrate(self._db, version)
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
            now, cumulative, lapsed, due = self._now()
            if lapsed:
                self._db.execute(_LAPSE, (now,))
            if due:
                self._db.execute(_END, (now,))
            if intent.job and self._following(intent.job, intent.replaces) is not None:
                raise JobPaid
            for budget in budgets:
                self._find_room(budget, intent.micro_usd, now)
            values = (
                *(_now_ms(self._clock.wall), now, self._process),
                *(intent.method, intent.host, intent.path, intent.model),
                *(intent.network, intent.asset, intent.pay_to, str(intent.amount), intent.micro_usd),
                *(cumulative + intent.micro_usd, intent.replaces, intent.job),
                *(intent.scheme, intent.wallet, intent.nonce, intent.client),
            )
            row = self._db.execute(_INSERT, values).lastrowid
        assert row is not None
        return row

    def record_sent(self, row: int, reference: str, valid_until: float, validity: Validity = UNKNOWN) -> None:
        """See `Ledger`."""
        its = validity.valid_before, validity.blockhash or None, validity.last_height
        dies_in = None if validity.dies_in is None else math.ceil(validity.dies_in * 1000)
        now = self._anchor + _now_ms(self._clock.uptime)
        self._change(_SENT, (reference, int(valid_until), *its, now, dies_in, row))

    def record_resent(self, row: int, validity: Validity = UNKNOWN) -> None:
        """See `Ledger`."""
        now = self._anchor + _now_ms(self._clock.uptime)
        dead_at = None if validity.dies_in is None else now + math.ceil(validity.dies_in * 1000)
        self._change(_RESENT, (validity.valid_before, dead_at, row))

    def release(self, row: int) -> None:
        """See `Ledger`."""
        with self._guarded():
            self._db.execute(_RELEASE, (row,))

    def finish(self, row: int, outcome: Outcome) -> State:
        """See `Ledger`."""
        return self.finish_all([(row, outcome)])[0]

    def finish_all(self, endings: Sequence[tuple[int, Outcome]]) -> list[State]:
        """See `Ledger`."""
        before = self._unwritten
        every, self._unwritten = [*before, *endings], []
        try:
            with self._transaction():
                return [self._finish(row, outcome) for row, outcome in every][len(before) :]
        except LedgerError:
            self._unwritten = every
            raise

    def _finish(self, row: int, outcome: Outcome) -> State:
        until = None if outcome.counts_for is None else self._now()[0] + math.ceil(outcome.counts_for * 1000)
        values = {
            **{"row": row, "until": until, "transaction": outcome.transaction, "status": outcome.status},
            **{"code": outcome.code, "request_id": outcome.request_id, "size": outcome.size},
            **{"first_byte": _milliseconds(outcome.first_byte), "total": _milliseconds(outcome.total)},
            "charged": None if outcome.charged is None else str(outcome.charged),
            "charged_micro_usd": outcome.charged_micro_usd,
        }
        self._db.execute(_FINISH[outcome.state], values)
        return self._state(row)

    def _state(self, row: int) -> State:
        state: State = self._db.execute("SELECT state FROM payment WHERE id = ?", (row,)).fetchone()[0]
        return state

    def record_chain(self, words: Sequence[ChainWord]) -> list[State]:
        """See `Ledger`."""
        with self._transaction():
            for word in words:
                values = {
                    **{"row": word.row, "transaction": word.transaction, "time": word.block_time},
                    "amount": None if word.amount is None else str(word.amount),
                    **{"micro_usd": word.micro_usd, "finding": word.finding},
                }
                self._db.execute(_CHAIN[word.verdict], values)
            return [self._state(word.row) for word in words]

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
        return self.spent_of((budget,))[0]

    def spent_of(self, budgets: Sequence[Budget]) -> list[int]:
        """See `Ledger`."""
        with self._transaction("DEFERRED"):
            now, _, _, due = self._now()
            known = [(scope, budget) for budget in budgets if (scope := self._spending.find(budget)) is not None]
            if not due and len(known) == len(budgets):
                return [self._spending.spent(scope, budget, now) for scope, budget in known]
        with self._transaction():
            now, _, _, due = self._now()
            if due:
                self._db.execute(_END, (now,))
            return [self._spending.spent(self._spending.use(budget, now), budget, now) for budget in budgets]

    def _now(self) -> tuple[int, int, int, int]:
        """What `_LAST` says."""
        now = self._anchor + _now_ms(self._clock.uptime)
        return self._db.execute(_LAST, (now,)).fetchone() or (now, 0, 0, 0)

    def _find_room(self, budget: Budget, wanted: int, now: int) -> None:
        """Raises OverBudget."""
        scope = self._spending.use(budget, now)
        spent = self._spending.spent(scope, budget, now)
        needed = spent + wanted - budget.micro_usd
        if needed <= 0:
            return
        if budget.seconds is None or wanted > budget.micro_usd:
            raise OverBudget(budget, spent, None)
        leaves = self._spending.leaves_at(scope, budget, now, needed)
        raise OverBudget(budget, spent, (leaves - now) / 1000 + budget.seconds)

    # SQLite.

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        with self._guarded():
            self._db.execute(f"BEGIN {kind}")
            try:
                try:
                    yield
                except Refused:  # an answer like another one: what was found out on the way to it stays
                    self._db.execute("COMMIT")
                    raise
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
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
        with contextlib.suppress(LedgerError):
            if self._unwritten:
                self.finish_all([])
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


def _now_ms(clock: Callable[[], float]) -> int:
    return int(clock() * 1000)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
