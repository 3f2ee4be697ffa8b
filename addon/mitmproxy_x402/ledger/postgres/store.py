"""The ledger in a PostgreSQL database, shared by proxies on many machines.

Its rules are those of `ledger.interface`; clock and liveness differ. The clock is the database's: time never decreases
from row to row, but setting the database's clock forward frees budget that much sooner. What is valid for longer by
the clock of the proxy that signed it, or by a database's clock that was set back, counts for as long. A proxy is alive
as long as its session with the database: when the session has ended, the next session to begin releases what the proxy
had reserved, and makes what it had sent `unknown`.

A reservation does not wait for the database's disk; the change to `sent` does. A database that crashes in between loses
the reservation and may reuse its number, so `record_sent` also compares the number of the session that reserved, which
is never reused. Outcomes that arrive while the database is unreachable are written when it is back, if this process is
still running.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from ...limits.limits import Budget
from ...protocol.messages import AtomicUnits, Caip2
from ...settings.ledger_place import PostgresUrl
from ..interface import (
    CHAIN_TRANSITIONS,
    CHARGES,
    CHARGES_ROWS,
    CHARGES_SECONDS,
    LAPSE_SECONDS,
    REPLACEABLE,
    UNKNOWN,
    UNPROVEN,
    ChainWord,
    Charge,
    Intent,
    JobPaid,
    LedgerError,
    Outcome,
    OverBudget,
    Pending,
    State,
    Submitted,
    Syncing,
    Validity,
    sources,
)
from ..moments import milliseconds, milliseconds_at_least
from .schema import migrate
from .session import Link, Session

MAX_OUTCOMES = 10_000
"""Most outcomes that wait for the database; older ones are dropped, and their payments stay counted."""
MOST_TOGETHER = 200
"""Most outcomes that one statement writes."""
RECOVERED, RECOVERIES = 50, 20
"""Rows of ended sessions that are closed at a time, while nobody can reserve; and how many times at the start."""
_RESERVE = """
    SELECT row_id, row_session, full_number, spent, job_paid FROM x402_reserve(
        %s, %s, %s, %s, %s, %s, %s, %s, %s, %s::bigint, %s::bigint, %s, %s, %s, %s, %s, %s, %s, %s::bigint,
        %s::bigint, %s::bigint[], %s::bigint[], %s::text[], %s::text[])"""
_SENT = """
    UPDATE x402_payment SET state = 'sent', sends = 1, reference = %s, valid_until = %s, valid_before = %s::bigint,
        blockhash = %s::text, last_height = %s::bigint,
        dead_at = greatest(x402_time() + %s::bigint, x402_valid_until(%s::bigint) + 60000)
    WHERE id = %s AND session = %s AND state = ANY(%s)"""
_RESENT = """
    UPDATE x402_payment SET state = CASE state WHEN 'sent' THEN 'unknown' ELSE state END, sends = sends + 1,
        valid_before = greatest(valid_before, %s::bigint),
        dead_at = greatest(dead_at, x402_time() + %s::bigint, x402_valid_until(%s::bigint) + 60000)
    WHERE id = %s AND state IN ('sent', 'unknown', 'settled') RETURNING reference"""
_RENEW = """
    SELECT full_number, spent, more FROM x402_renew(
        %s, greatest(%s::bigint, x402_valid_until(%s::bigint) - x402_time()),
        %s::bigint[], %s::bigint[], %s::text[], %s::text[])"""
# Does not wait for the disk, because a crash would only leave more counted.
_RELEASE = """
    UPDATE x402_payment SET state = 'released'
    FROM (SELECT set_config('synchronous_commit', 'off', true) AS setting) AS quick
    WHERE id = %s AND session = %s AND state = ANY(%s) AND quick.setting <> ''"""
# One JSON object per row, with the columns of `_Ending`.
_FINISH = """
    UPDATE x402_payment AS its SET
        state = CASE WHEN its.state = ANY(ending.sources) THEN ending.state ELSE its.state END,
        transaction_id = COALESCE(NULLIF(ending.transaction_id, ''), its.transaction_id),
        status = ending.status, code = NULLIF(ending.code, ''), request_id = NULLIF(ending.request_id, ''),
        first_byte_ms = ending.first_byte_ms, total_ms = ending.total_ms, bytes = ending.bytes,
        charged = COALESCE(ending.charged, its.charged),
        charged_micro_usd = COALESCE(ending.charged_micro_usd, its.charged_micro_usd),
        free_at = CASE
            WHEN its.state <> ALL(ending.sources) THEN its.free_at
            WHEN ending.state IN ('rejected', 'superseded') THEN greatest(x402_time() + ending.counts_for, its.dead_at)
            WHEN ending.state <> 'settled' THEN its.free_at
            WHEN ending.charged_micro_usd IS NOT NULL AND its.chain_state IS NULL THEN its.dead_at END
    FROM json_to_recordset(%s::json) AS ending (
            id bigint, reference text, sources text[], state text, transaction_id text, status integer, code text,
            request_id text, first_byte_ms bigint, total_ms bigint, bytes bigint, counts_for bigint,
            charged text, charged_micro_usd bigint),
        (SELECT set_config('synchronous_commit', 'off', true) AS setting) AS quick
    WHERE its.id = ending.id AND its.reference = COALESCE(ending.reference, its.reference) AND its.sends > 0
        AND quick.setting <> ''
    RETURNING its.id, its.state"""
# One JSON object per row, with the columns of `_word`.
_CHAIN = """
    UPDATE x402_payment AS its SET
        state = word.state, chain_state = word.verdict, finding = NULLIF(word.finding, ''), free_at = NULL,
        chain_transaction = NULLIF(word.transaction_id, ''), chain_time = word.block_time, chain_amount = word.amount,
        uncounted = CASE word.verdict
            WHEN 'moved' THEN COALESCE(its.micro_usd - word.micro_usd, its.uncounted) ELSE its.uncounted END
    FROM json_to_recordset(%s::json) AS word (
            id bigint, sources text[], state text, verdict text, finding text, transaction_id text, block_time bigint,
            amount text, micro_usd bigint, sends integer)
    WHERE its.id = word.id AND its.state = ANY(word.sources) AND (word.verdict = 'moved'
        OR its.chain_state IS DISTINCT FROM 'moved' AND its.sends = COALESCE(word.sends, its.sends))"""
# The nonce is used, so nothing is freed by itself any more.
_USED = """
    UPDATE x402_payment SET free_at = NULL, uncounted = 0,
        state = CASE state WHEN 'expired' THEN 'rejected' ELSE state END
    WHERE id = ANY(%s::bigint[]) AND chain_state IS NULL AND state NOT IN ('reserved', 'released')
        AND (free_at IS NOT NULL OR uncounted <> 0 OR state = 'expired')"""
# Writes a row that nothing finds and the next x402_recover deletes. Its commit waits like all commits: a primary whose
# standby is gone accepts sessions, and then keeps every payment waiting.
_WRITES = "INSERT INTO x402_held (route, fingerprint, sealed, sendable_until, forget_at) VALUES ('', '', '', 0, 0)"
_STATE = "SELECT state FROM x402_payment WHERE id = %s AND COALESCE(reference = COALESCE(%s, reference), true)"
_SPENT = "SELECT spent FROM x402_spent_of(%s::bigint[], %s::bigint[], %s::text[], %s::text[])"
_RETURNS = "SELECT x402_returns(%s::bigint, %s::bigint, %s, %s)"
# In how many milliseconds signatures that outlive their period will count for no more than the given amount.
_OUTLIVED = """
    SELECT max(lives_until + period - x402_time()) FROM (
        SELECT lives_until, period, sum(counts) OVER (ORDER BY lives_until DESC) AS still
        FROM (SELECT %s::bigint AS period) AS budget, x402_outliving(x402_time() + period, period, %s, %s)
    ) AS living WHERE still > %s"""
_AWAITED = "SELECT awaited FROM x402_given_back(x402_time(), %s::bigint, %s, %s)"
_WATCH = "SELECT set_config('x402.watched', %s, false)"
_PENDING = f"""
    SELECT COALESCE(SUM(micro_usd), 0)::bigint,
        COALESCE(SUM(micro_usd) FILTER (WHERE scheme IN ('permit2', 'upto')), 0)::bigint,
        COALESCE(string_agg(id::text, ' ') FILTER (WHERE scheme IN ('permit2', 'upto')), '')
    FROM x402_payment
    WHERE (state IN ('reserved', 'sent') OR ({UNPROVEN}))
        AND state IN ('reserved', 'sent', 'unknown', 'rejected', 'superseded')
        AND (dead_at IS NULL OR dead_at > x402_time())
        AND wallet = %s AND network = %s AND asset = %s AND id <> %s AND scheme <> 'gateway'"""
_CHARGES = f"""
    SELECT micro_usd, CASE chain_state WHEN 'moved' THEN micro_usd - uncounted ELSE charged_micro_usd END
    FROM x402_payment
    WHERE id > (SELECT MAX(id) FROM x402_payment) - {CHARGES_ROWS} AND scheme = 'upto' AND path = %s
        AND counted_at > (SELECT counted_at FROM x402_payment ORDER BY id DESC LIMIT 1) - {CHARGES_SECONDS * 1000}
        AND model IS NOT DISTINCT FROM %s AND (chain_state = 'moved' OR charged_micro_usd IS NOT NULL)
    ORDER BY id DESC LIMIT {CHARGES}"""
_JOB = "UPDATE x402_payment SET job = %s, payer = %s WHERE id = %s"
_SUBMITTED = f"""
    SELECT id, method, path, model, network, asset, pay_to, amount, state, reference, payer, x402_time() - counted_at,
        valid_until, COALESCE(scheme, 'exact'),
        (SELECT MAX(id) FROM x402_payment AS next WHERE next.job = first.job AND next.replaces = first.id
            AND next.payer IS NULL AND next.state NOT IN ({", ".join(repr(state) for state in REPLACEABLE)}))
    FROM x402_payment AS first WHERE job = %s AND payer IS NOT NULL ORDER BY id DESC LIMIT 1"""

_Ending = dict[str, Any]
"""An outcome and its row, in the form that `_FINISH` takes."""


class PostgresLedger:
    """The ledger over one session with the database, which is reopened when it is lost. Raises LedgerError."""

    def __init__(self, url: PostgresUrl, wall: Callable[[], float] = time.time) -> None:
        """`wall` is the clock by which this proxy signs."""
        self.place = url
        self._wall = wall
        self.process = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(4)}"
        """This proxy's name in rows."""
        self._reserved: dict[int, int] = {}
        """Rows that may still be sent, each with the number of the session that reserved it."""
        self._references: OrderedDict[int, str] = OrderedDict()
        """References of the rows sent last: a server that has lost rows reuses their numbers."""
        self._outcomes: deque[_Ending] = deque(maxlen=MAX_OUTCOMES)
        """Outcomes that are not written yet, because the database was unreachable."""
        self._watched = ""
        """The networks on which nothing is forgiven, with a blank before and after each."""
        self.link = Link(url, self._begin)

    @property
    def name(self) -> str:
        """The ledger's name for people, with its schema: a database may hold several ledgers."""
        return f"{self.place} {self.place.parameters.get('options', '')}".rstrip()

    def _begin(self, session: Session) -> None:
        migrate(session, self.place)
        session.execute(_WRITES.encode())
        self._write_outcomes(lambda some: session.execute(_FINISH.encode(), (some,)).fetchall())
        session.execute("SELECT x402_begin()")
        session.execute(_WATCH.encode(), (self._watched,))
        # Others can reserve in between; the next session to begin closes what is left over.
        for _ in range(RECOVERIES):
            if (session.execute("SELECT x402_recover(%s)", (RECOVERED,)).fetchone() or (0,))[0] < RECOVERED:
                break

    def watch(self, networks: Collection[Caip2]) -> None:
        """From now on free nothing on these networks before their chain has answered: this process asks it."""
        if (watched := f" {' '.join(sorted(networks))} ") != self._watched:
            self._watched = watched
            self.link.ask(_WATCH, (watched,))

    # Changes of a row, in their order.

    def reserve(self, intent: Intent, budgets: Sequence[Budget]) -> int:
        """Check all `budgets` and write a row, atomically for all processes. Returns the row's number."""
        ((row, session, full, spent, job_paid),) = self.link.ask(*reservation(self.process, intent, budgets))
        if job_paid:
            raise JobPaid
        if full is not None:
            raise self._over(budgets[full - 1], spent, intent.micro_usd)
        self._reserved[row] = session
        return int(row)

    def _over(self, budget: Budget, spent: int, wanted: int) -> OverBudget:
        ((period,), (model,), (path,)) = _patterns([budget])
        ((awaited,),) = self.link.ask(_AWAITED, (period, model, path))
        if period is None or wanted > budget.micro_usd:
            return OverBudget(budget, spent, None, awaited)
        ((returns_ms,),) = self.link.ask(_RETURNS, (spent + wanted - budget.micro_usd, period, model, path))
        ((outlived_ms,),) = self.link.ask(_OUTLIVED, (period, model, path, budget.micro_usd - wanted))
        later = [ms for ms in (returns_ms, outlived_ms) if ms is not None]
        return OverBudget(budget, spent, max(later) / 1000 if later else None, awaited)

    def durable_soon(self) -> Syncing | None:
        """Return None: `record_sent` waits for the database's disk."""
        return None

    def durable_now(self) -> None:
        """Do nothing: `record_sent` waits for the database's disk."""

    def record_sent(self, row: int, reference: str, valid_until: float, validity: Validity = UNKNOWN) -> None:
        """Make a row `sent`. Called before the header is sent; raises LedgerError: the row is no longer reserved."""
        values = (
            *(_text(reference), int(valid_until), validity.valid_before, _text(validity.blockhash) or None),
            *(validity.last_height, milliseconds_at_least(validity.dies_in), validity.valid_before),
            *(row, self._reserved.get(row), list(sources("sent"))),
        )
        self._change(_SENT, values)
        self._reserved.pop(row, None)
        self._keep(row, reference)

    def record_departure(self, row: int, reference: str, valid_until: float, validity: Validity = UNKNOWN) -> None:
        """Do what `record_sent` does, because other proxies see only the database."""
        self.record_sent(row, reference, valid_until, validity)

    def record_resent(self, row: int, validity: Validity = UNKNOWN) -> None:
        """Count another sending of the same header, or of another signature over the same nonce. Called before it."""
        until = validity.valid_before
        values = until, milliseconds_at_least(validity.dies_in), until, row
        ((reference,),) = self._change(_RESENT, values)
        self._keep(row, reference)

    def renew(self, row: int, lives: float, budgets: Sequence[Budget]) -> None:
        """Before a sent payment is signed again: count it for another `lives` seconds. Raises OverBudget: no room."""
        until = math.ceil(self._wall() + lives)
        values = row, math.ceil(lives * 1000), until, [budget.micro_usd for budget in budgets], *_patterns(budgets)
        ((full, spent, more),) = self.link.ask(_RENEW, values)
        if full is not None:
            raise self._over(budgets[full - 1], spent, more)

    def release(self, row: int) -> None:
        """Release a reservation that will not be sent. Does nothing to a row that was sent."""
        self.link.ask(_RELEASE, (row, self._reserved.pop(row, None), list(sources("released"))))

    def finish(self, row: int, outcome: Outcome) -> State:
        """Record the outcome of a sent payment. Returns the row's state, which may already have been more definite."""
        return self.finish_all([(row, outcome)])[0]

    def finish_all(self, endings: Sequence[tuple[int, Outcome]]) -> list[State]:
        """Record the outcomes of several payments, in one call to the database unless a row occurs twice."""
        every = [self._ending(row, outcome) for row, outcome in endings]
        self._outcomes.extend(every)
        written = self._write_outcomes(lambda some: self.link.ask(_FINISH, (some,)))
        return [written.get(id(ending)) or self._state(ending) for ending in every]

    def _ending(self, row: int, outcome: Outcome) -> _Ending:
        return {
            "id": row,
            "reference": self._references.get(row),
            "sources": sources(outcome.state),
            "state": outcome.state,
            "transaction_id": _text(outcome.transaction),
            "status": outcome.status,
            "code": _text(outcome.code),
            "request_id": _text(outcome.request_id),
            "first_byte_ms": milliseconds(outcome.first_byte),
            "total_ms": milliseconds(outcome.total),
            "bytes": outcome.size,
            "counts_for": milliseconds_at_least(outcome.counts_for),
            "charged": None if outcome.charged is None else str(outcome.charged),
            "charged_micro_usd": outcome.charged_micro_usd,
        }

    def _state(self, ending: _Ending) -> State:
        """The state of a row to which the outcome was not written."""
        found = self.link.ask(_STATE, (ending["id"], ending["reference"]))
        if not found:
            raise LedgerError(f"The ledger {self.place} has no payment number {ending['id']}.")
        state: State = found[0][0]
        return state

    def _write_outcomes(self, write: Callable[[str], list[tuple[Any, ...]]]) -> dict[int, State]:
        """Write each waiting outcome once; may run in two threads at a time.

        `write` executes `_FINISH`. Returns the new states of rows, by the `id` of the outcome.
        """
        written: dict[int, State] = {}
        while self._outcomes:
            some = self._next_outcomes()
            states: dict[int, State] = dict(write(json.dumps(some)))
            written |= {id(ending): states[ending["id"]] for ending in some if ending["id"] in states}
            for ending in some:
                with contextlib.suppress(IndexError):
                    if self._outcomes[0] is ending:
                        self._outcomes.popleft()
        return written

    def _next_outcomes(self) -> list[_Ending]:
        """The first waiting outcomes, at most one per row."""
        some: dict[int, _Ending] = {}
        for ending in list(self._outcomes)[:MOST_TOGETHER]:
            if ending["id"] in some:
                break
            some[ending["id"]] = ending
        return list(some.values())

    def record_chain(self, words: Sequence[ChainWord]) -> list[State]:
        """Record the chain's answers, along CHAIN_TRANSITIONS. Returns the state of each row."""
        for begin in range(0, len(words), MOST_TOGETHER):
            some = words[begin : begin + MOST_TOGETHER]
            self.link.ask(_CHAIN, (json.dumps([_word(word) for word in some if word.verdict != "used"]),))
            if used := [word.row for word in some if word.verdict == "used"]:
                self.link.ask(_USED, (used,))
        return [self._state({"id": word.row, "reference": None}) for word in words]

    def pending(self, wallet: str, network: Caip2, asset: str, without: int) -> Pending:
        """The amounts that payments of `wallet` in `asset` may still take, without the row `without`."""
        ((all_of_them, permit2, rows),) = self.link.ask(_PENDING, (wallet, network, asset, without))
        return Pending(all_of_them, permit2, frozenset(map(int, rows.split())))

    def charges(self, path: str, model: str | None) -> list[Charge]:
        """The charges under the last CHARGES ceilings for `path` and `model`, newest first."""
        return [
            Charge(*found) for found in self.link.ask(_CHARGES, (_text(path), None if model is None else _text(model)))
        ]

    def record_job(self, row: int, job: str, payer: str) -> None:
        """Record that the payment `row`, signed by `payer`, started the job polled at the address `job`."""
        self.link.ask(_JOB, (_text(job), payer, row))

    def find_job(self, job: str) -> Submitted | None:
        """The last payment recorded for `job`, in any state; None: there is none."""
        found = self.link.ask(_SUBMITTED, (_text(job),))
        if not found:
            return None
        row, method, path, model, network, asset, pay_to, amount, state, reference, payer, *rest = found[0]
        age, until, scheme, last = rest
        terms = Caip2(network), asset, pay_to, AtomicUnits(int(amount))
        last, until = last or row, until or 0
        return Submitted(row, last, method, path, model, *terms, state, reference, payer, age / 1000, until, scheme)

    def _change(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        changed = self.link.ask(statement, values)
        if len(changed) != 1:
            raise LedgerError("The reservation of this payment has lapsed, so it was not sent. Ask again.")
        return changed

    def _keep(self, row: int, reference: str) -> None:
        self._references[row] = reference
        self._references.move_to_end(row)
        while len(self._references) > MAX_OUTCOMES:
            self._references.popitem(last=False)

    # Budgets.

    def spent(self, budget: Budget) -> int:
        """Millionths of a dollar that count against `budget` now."""
        return self.spent_of([budget])[0]

    def spent_of(self, budgets: Sequence[Budget]) -> list[int]:
        """`spent` for each of `budgets`, in one query."""
        values = [budget.micro_usd for budget in budgets], *_patterns(budgets)
        return [int(spent) for (spent,) in self.link.ask(_SPENT, values)]

    def close(self) -> None:
        """Close the ledger. Rows stay."""
        self.link.close()


def reservation(process: str, intent: Intent, budgets: Sequence[Budget]) -> tuple[str, tuple[Any, ...]]:
    """The statement that reserves, with its values; it returns one row."""
    model = None if intent.model is None else _text(intent.model)
    values = (
        *(process, _text(intent.method), _text(intent.host), _text(intent.path), model),
        *(_text(intent.network), _text(intent.asset), _text(intent.pay_to), str(intent.amount)),
        *(intent.micro_usd, intent.replaces, _text(intent.job)),
        *(_text(intent.scheme), _text(intent.wallet), _text(intent.nonce), _text(intent.client)),
        *(_text(intent.normal_path), intent.unclear, intent.exact_micro_usd, LAPSE_SECONDS * 1000),
        *([budget.micro_usd for budget in budgets], *_patterns(budgets)),
    )
    return _RESERVE, values


def _patterns(budgets: Sequence[Budget]) -> tuple[list[int | None], list[str], list[str]]:
    """The budgets' periods in milliseconds, and their patterns in the syntax of LIKE."""
    return (
        [None if budget.seconds is None else budget.seconds * 1000 for budget in budgets],
        [_like(budget.scope.patterns[0]) for budget in budgets],
        [_like(budget.scope.patterns[1]) for budget in budgets],
    )


def _like(pattern: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ("%", "\\%"), ("_", "\\_"), ("*", "%"), ("?", "_")):
        pattern = pattern.replace(plain, escaped)
    return pattern


def _text(text: str) -> str:
    """`text`, which a stranger may have written, in a form that a UTF-8 database can store.

    Characters are replaced one by one, so that patterns still match.
    """
    return text.replace("\0", "?").encode("utf-8", "replace").decode()


def _word(word: ChainWord) -> dict[str, Any]:
    """`word` in the form that `_CHAIN` takes."""
    state: State = "settled" if word.verdict == "moved" else "expired"
    return {
        **{"id": word.row, "sources": sources(state, CHAIN_TRANSITIONS), "state": state, "verdict": word.verdict},
        **{"finding": _text(word.finding), "transaction_id": _text(word.transaction), "block_time": word.block_time},
        **{"amount": None if word.amount is None else str(word.amount), "micro_usd": word.micro_usd},
        "sends": word.sends,
    }
