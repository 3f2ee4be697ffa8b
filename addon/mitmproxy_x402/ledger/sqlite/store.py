"""The ledger in a SQLite file, shared by every proxy on this machine that pays from it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import sqlite3
import sys
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import Refused
from ...limits.limits import Budget
from ...machine.private_files import folder_objection, objection
from ...protocol.messages import AtomicUnits, Caip2
from ..clock import Clock
from ..interface import (
    UNKNOWN,
    ChainWord,
    Charge,
    Intent,
    JobPaid,
    LedgerError,
    Outcome,
    Pending,
    State,
    Submitted,
    Syncing,
    Validity,
)
from ..moments import milliseconds, milliseconds_at_least
from . import statements
from .departures import LATEST_MS
from .durability import Disk, write_again
from .file import failure, make_file
from .liveness import ProcessLock, close_ended, record_open, start_clock, sweep, warning_of
from .schema import migrate
from .spending import Room, Spending
from .syncing import Sync

logger = logging.getLogger(__name__)

OPENING_SECONDS = 2
"""Seconds that the start waits for another process."""
COLLISION_MS = 10
"""Milliseconds that a write waits, on the event loop, for another process's, which normally takes a tenth of one.
After a write that timed out, others do not wait at all until one succeeds."""
MAX_RESERVED = 10_000
"""Most rows of which it is remembered when they were reserved."""
CHECKPOINT_PAGES = 16_000
"""Pages of the log (64 MB) after which SQLite runs a checkpoint on the event loop."""
CHECKPOINT_PAYMENTS = 250
"""Payments after which a thread runs a checkpoint (`durability`), long before that."""


class SqliteLedger:
    """The ledger over one connection to the file; each process and thread opens its own. Raises LedgerError."""

    def __init__(
        self,
        path: Path,
        clock: Clock | None = None,
        make_sync: Callable[[int], Sync] | None = None,
        *,
        is_tool: bool = False,
    ) -> None:
        """Open the ledger. `is_tool`: not for a proxy, in whose log a user sees what is wrong with it."""
        self.place = self.path = path
        self.name = str(path)
        """The ledger's name for people; equal names mean the same rows."""
        self._failure = functools.partial(failure, path)
        self._clock = clock or Clock()
        self._unwritten: list[tuple[int, Outcome]] = []
        """Outcomes that could not be written; they are written with the next ones."""
        self._payments = 0
        self._reserved: dict[int, int] = {}
        """Rows that this process reserved and has not sent: the ledger's time by this boot's clock, oldest first."""
        self._is_blocked = False
        """Whether the last write found the file locked by another process."""
        why = folder_objection(path.resolve().parent) or objection(path)  # SQLite puts its log beside the file
        if why is not None:
            raise LedgerError(f"The ledger {path} is not used: {why}")
        with contextlib.ExitStack() as undo:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                is_cut = not make_file(path)
                self._lock = ProcessLock(path, self._clock.boot_name)
                undo.callback(self._lock.close)
                self._db = sqlite3.connect(path, timeout=OPENING_SECONDS, isolation_level=None)
                undo.callback(self._db.close)
                self._departures = self._lock.departures
                self._spending = Spending(self._db, self._write_departures)
                self._room = Room(self._db)
                self._prepare(is_cut=is_cut, is_tool=is_tool)
                self._disk = Disk(path, self._failure, make_sync)
            except (OSError, sqlite3.Error) as error:
                raise self._failure(error) from None
            undo.pop_all()
        self._at_exit = _closer(weakref.ref(self), os.getpid())
        atexit.register(self._at_exit)  # mitmproxy does not call `done` after a failed start

    @property
    def process(self) -> str:
        """This process's name in rows."""
        return self._lock.process

    def _prepare(self, *, is_cut: bool, is_tool: bool) -> None:
        with self._guarded():
            self._db.execute("PRAGMA journal_mode = WAL")
            # Survives the end of the process at any time, and a power cut after `durable_soon`.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        with self._transaction():
            write_again(self.path)  # an ended process may have left a log that only seems to be on the disk
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            migrate(self._db, version)
            self._anchor = start_clock(self._db, self._clock)
            still_open = [process for (process,) in self._db.execute(statements.OPEN)]
            close_ended(self._db, self.path, still_open, self._clock.boot_name)
            if missing := warning_of(self._db, self.path, self._clock, is_cut=is_cut, is_tool=is_tool):
                logger.warning("x402: %s", missing)
            record_open(self._db, self.path, self.process, self._clock)
        sweep(self.path)
        with self._guarded():
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")  # so that the main file, too, records that it is open
            self._db.execute(f"PRAGMA busy_timeout = {COLLISION_MS}")

    def watch(self, networks: Collection[Caip2]) -> None:
        """From now on free nothing on these networks before their chain has answered: this process asks it."""
        self._spending.watched = f" {' '.join(sorted(networks))} "
        self._room.forget()

    def _lapse(self, now: int) -> None:
        """Release what was reserved long ago and never sent, by this process or by one that has ended."""
        self._write_departures()
        self._db.execute(statements.LAPSE, (now, self.process))
        elsewhere = self._db.execute(statements.LAPSED_ELSEWHERE, (now, self.process)).fetchall()
        close_ended(self._db, self.path, [process for (process,) in elsewhere], self._clock.boot_name)

    def now_ms(self) -> int:
        """The ledger's own time, milliseconds."""
        return self._now()[0]

    # Changes of a row, in their order.

    def reserve(self, intent: Intent, budgets: Sequence[Budget]) -> int:
        """Check all `budgets` and write a row, atomically for all processes. Returns the row's number."""
        with self._transaction():
            now = begun = self._uptime()
            wall = int(self._clock.wall() * 1000)
            is_steady = self._spending.is_steady(now, wall)
            known = self._room.known(now, intent.micro_usd, budgets) if is_steady else None
            if known is None:
                self._spending.keep_alive(now, wall)
                now, cumulative, lapsed, due = self._now()
                if lapsed:
                    self._lapse(now)
                if due:
                    self._db.execute(statements.END, (now,))
            else:
                now, cumulative = known
            if intent.job and self._following(intent.job, intent.replaces) is not None:
                raise JobPaid
            spent = {} if known else self._spending.find_rooms(budgets, intent.micro_usd, now)
            values = (
                *(wall, now, self.process),
                *(intent.method, intent.host, intent.path, intent.model),
                *(intent.network, intent.asset, intent.pay_to, str(intent.amount), intent.micro_usd),
                *(cumulative + intent.micro_usd, intent.replaces, intent.job),
                *(intent.scheme, intent.wallet, intent.nonce, intent.client, intent.normal_path, intent.unclear),
                intent.exact_micro_usd,
            )
            row = self._db.execute(statements.INSERT, values).lastrowid
        assert row is not None
        self._room.reserved(now, cumulative, intent.micro_usd, spent, is_new=known is None)
        self._reserved[row] = begun
        if len(self._reserved) > MAX_RESERVED:
            del self._reserved[next(iter(self._reserved))]
        self._payments += 1
        if self._payments % CHECKPOINT_PAYMENTS == 0:
            self._disk.checkpoint_soon()
        return row

    def durable_soon(self) -> Syncing | None:
        """Start making everything written so far survive a power cut. Called after `reserve`."""
        try:
            return self._disk.soon()
        except RuntimeError:  # no event loop runs, so it may block
            self._disk.now()
            return None

    def prepare_sync(self) -> None:
        """Start what syncs the log (`syncing`), and lengthen it to what it will need (`durability`)."""
        self._disk.start()
        with self._transaction():  # keeps other writers out
            self._disk.fill()

    def durable_now(self) -> None:
        """Make everything written so far survive a power cut, and block until that is done."""
        self._disk.now()

    def record_sent(self, row: int, reference: str, valid_until: float, validity: Validity = UNKNOWN) -> None:
        """Make a row `sent`. Called before the header is sent; raises LedgerError: the row is no longer reserved."""
        self._catch_up()
        self._reserved.pop(row, None)
        with self._transaction():  # others leave to this process what it has reserved
            self._lapse(self._uptime())
        self._change(statements.SENT, statements.sent(row, reference, valid_until, validity, self._uptime()))

    def record_departure(self, row: int, reference: str, valid_until: float, validity: Validity = UNKNOWN) -> None:
        """Do what `record_sent` does; with an event loop and a recent row, by a note instead of a transaction."""
        now = self._uptime()
        if now - self._reserved.get(row, now - LATEST_MS) < LATEST_MS and self._departures.note(
            row, statements.sent(row, reference, valid_until, validity, now), self._catch_up
        ):
            del self._reserved[row]
            return
        self.record_sent(row, reference, valid_until, validity)

    def _catch_up(self) -> None:
        """Have the table say what has left. Called outside of a transaction."""
        if self._departures.waiting:
            rows = list(self._departures.waiting)
            with self._transaction():
                self._write_departures()
            self._departures.written(rows)

    def _write_departures(self) -> None:
        self._db.executemany(statements.SENT, self._departures.waiting.values())

    def record_resent(self, row: int, validity: Validity = UNKNOWN) -> None:
        """Count another sending of the same header, or of another signature over the same nonce. Called before it."""
        self._catch_up()
        self._room.forget()
        now = self._uptime()
        dies_in = milliseconds_at_least(validity.dies_in)
        dead_at = None if dies_in is None else now + dies_in
        self._change(statements.RESENT, (validity.valid_before, dead_at, row))

    def renew(self, row: int, lives: float, budgets: Sequence[Budget]) -> None:
        """Before a sent payment is signed again: count it for another `lives` seconds. Raises OverBudget: no room."""
        self._catch_up()
        self._room.forget()
        with self._transaction():
            now, lives_ms = self._now()[0], math.ceil(lives * 1000)
            self._spending.renew(row, (now + lives_ms, int(self._clock.wall() * 1000) + lives_ms), budgets, now)

    def release(self, row: int) -> None:
        """Release a reservation that will not be sent. Does nothing to a row that was sent."""
        self._reserved.pop(row, None)
        if row not in self._departures.waiting:
            with self._guarded():
                self._db.execute(statements.RELEASE, (row,))

    def finish(self, row: int, outcome: Outcome) -> State:
        """Record the outcome of a sent payment. Returns the row's state, which may already have been more definite."""
        return self.finish_all([(row, outcome)])[0]

    def finish_all(self, endings: Sequence[tuple[int, Outcome]]) -> list[State]:
        """Record the outcomes of several payments, as `finish` does."""
        before = self._unwritten
        every, self._unwritten = [*before, *endings], []
        if any(outcome.state != "settled" or outcome.charged_micro_usd is not None for _, outcome in every):
            self._room.forget()
        try:
            with self._transaction():
                states = [self._finish(row, outcome) for row, outcome in every]
        except LedgerError:
            self._unwritten = every
            raise
        self._departures.written(row for row, _ in every)
        return states[len(before) :]

    def _finish(self, row: int, outcome: Outcome) -> State:
        counts_for = milliseconds_at_least(outcome.counts_for)
        until = None if counts_for is None else self._now()[0] + counts_for
        values = {
            **{"row": row, "until": until, "transaction": outcome.transaction, "status": outcome.status},
            **{"code": outcome.code, "request_id": outcome.request_id, "size": outcome.size},
            **{"first_byte": milliseconds(outcome.first_byte), "total": milliseconds(outcome.total)},
            "charged": None if outcome.charged is None else str(outcome.charged),
            "charged_micro_usd": outcome.charged_micro_usd,
        }
        sent = self._departures.waiting.get(row)
        if sent is not None:
            at_once = outcome.state == "settled" and outcome.charged_micro_usd is None
            if at_once and self._db.execute(statements.SENT_AND_SETTLED, {**sent, **values}).rowcount == 1:
                return "settled"
            self._db.execute(statements.SENT, sent)
        self._db.execute(statements.FINISH[outcome.state], values)
        return self._state(row)

    def _state(self, row: int) -> State:
        state: State = self._db.execute("SELECT state FROM payment WHERE id = ?", (row,)).fetchone()[0]
        return state

    def record_chain(self, words: Sequence[ChainWord]) -> list[State]:
        """Record the chain's answers, along CHAIN_TRANSITIONS. Returns the state of each row."""
        self._catch_up()
        self._room.forget()
        with self._transaction():
            for word in words:
                values = {
                    **{"row": word.row, "transaction": word.transaction, "time": word.block_time},
                    "amount": None if word.amount is None else str(word.amount),
                    **{"micro_usd": word.micro_usd, "finding": word.finding, "sends": word.sends},
                }
                self._db.execute(statements.CHAIN[word.verdict], values)
            return [self._state(word.row) for word in words]

    def pending(self, wallet: str, network: Caip2, asset: str, without: int) -> Pending:
        """The amounts that payments of `wallet` in `asset` may still take, without the row `without`."""
        with self._transaction("BEGIN"):
            now = self._now()[0]
            found = self._db.execute(statements.PENDING, (now, wallet, network, asset, without))
            everything, permit2, rows = found.fetchone()
        return Pending(everything, permit2, frozenset(map(int, rows.split())))

    def charges(self, path: str, model: str | None) -> list[Charge]:
        """The charges under the last CHARGES ceilings for `path` and `model`, newest first."""
        with self._guarded():
            return [Charge(*found) for found in self._db.execute(statements.CHARGED, (path, model)).fetchall()]

    def record_job(self, row: int, job: str, payer: str) -> None:
        """Record that the payment `row`, signed by `payer`, started the job polled at the address `job`."""
        self._catch_up()  # another proxy may be polled
        with self._guarded():
            self._db.execute(statements.JOB, (job, payer, row))

    def find_job(self, job: str) -> Submitted | None:
        """The last payment recorded for `job`, in any state; None: there is none."""
        self._catch_up()
        with self._transaction("BEGIN"):
            found = self._db.execute(statements.SUBMITTED, (job,)).fetchone()
            if found is None:
                return None
            row, method, path, model, network, asset, pay_to, amount, state, reference, payer, at, until, scheme = found
            following = self._following(job, row)
            age = (self._now()[0] - at) / 1000
        terms = Caip2(network), asset, pay_to, AtomicUnits(int(amount))
        last, until = following or row, until or 0
        return Submitted(row, last, method, path, model, *terms, state, reference, payer, age, until, scheme)

    def _following(self, job: str, row: int | None) -> int | None:
        """The row of the payment that followed `row` for the same job, if that one counts."""
        (following,) = self._db.execute(statements.FOLLOWING, (job, row)).fetchone()
        return None if following is None else int(following)

    def _change(self, statement: str, values: tuple[Any, ...] | dict[str, Any]) -> None:
        with self._guarded():
            changed = self._db.execute(statement, values).rowcount
        if changed != 1:
            raise LedgerError("The reservation of this payment has lapsed, so it was not sent. Ask again.")

    # Budgets.

    def spent(self, budget: Budget) -> int:
        """Millionths of a dollar that count against `budget` now."""
        return self.spent_of((budget,))[0]

    def spent_of(self, budgets: Sequence[Budget]) -> list[int]:
        """`spent` for each of `budgets`."""
        with self._transaction("BEGIN"):
            now, _, _, due = self._now()
            known = [(scope, budget) for budget in budgets if (scope := self._spending.find(budget)) is not None]
            if not due and len(known) == len(budgets):
                return [self._spending.spent(scope, budget, now) for scope, budget in known]
        with self._transaction():
            now, _, _, due = self._now()
            if due:
                self._db.execute(statements.END, (now,))
            return [self._spending.spent(self._spending.use(budget, now), budget, now) for budget in budgets]

    def _uptime(self) -> int:
        """The ledger's time by this boot's clock, milliseconds; rows may be ahead of it."""
        return self._anchor + int(self._clock.uptime() * 1000)

    def _now(self) -> tuple[int, int, int, int]:
        now = self._uptime()
        return self._db.execute(statements.LAST, (now,)).fetchone() or (now, 0, 0, 0)

    @contextlib.contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
        try:
            self._db.execute(begin)
            try:
                try:
                    yield
                except Refused:  # an expected result: the sums made on the way to it are kept
                    self._db.execute("COMMIT")
                    raise
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as error:  # not by `_guarded`: each generator takes time
            raise self._failed(error) from None
        if self._is_blocked:
            self._set_blocked(False)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from None
        if self._is_blocked:
            self._set_blocked(False)

    def _failed(self, error: Exception) -> LedgerError:
        if "is locked" in str(error):
            self._set_blocked(True)
        return self._failure(error)

    def _set_blocked(self, is_blocked: bool) -> None:
        self._is_blocked = is_blocked
        self._db.execute(f"PRAGMA busy_timeout = {0 if is_blocked else COLLISION_MS}")

    def close(self) -> None:
        """Close the ledger. Rows stay."""
        atexit.unregister(self._at_exit)
        with contextlib.suppress(LedgerError):
            if self._unwritten:
                self.finish_all([])
            self._catch_up()
        self._disk.close()
        with contextlib.suppress(sqlite3.Error):
            if self._disk.is_lost and sys.version_info >= (3, 12):  # the next to open it ends the log at its hole
                self._db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
            self._db.execute("DELETE FROM opened WHERE process = ?", (self.process,))
        self._db.close()
        self._lock.close(has_open_rows=bool(self._reserved))


def _closer(ledger: weakref.ref[SqliteLedger], process: int) -> Callable[[], None]:
    """A function that closes `ledger`, if it still exists and this process opened it."""

    def close() -> None:
        found = ledger()
        if found is not None and os.getpid() == process:
            found.close()

    return close
