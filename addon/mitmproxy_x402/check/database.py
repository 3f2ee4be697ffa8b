"""Checks that a ledger in PostgreSQL can be written to, and how fast; test writes are rolled back."""

from __future__ import annotations

import statistics
import time
from contextlib import closing

import psycopg

from ..ledger.interface import Intent, LedgerError
from ..ledger.postgres.schema import MIGRATIONS, version_of
from ..ledger.postgres.session import Session, Unanswered, connect, failure
from ..ledger.postgres.store import reservation
from ..protocol.messages import AtomicUnits, Caip2
from ..settings.ledger_place import PostgresUrl
from .line import Line, ok, todo

FAR_MS = 5
"""Milliseconds of a round trip above which payments, and with them all streams, are delayed."""
COUNTED = 10_000
"""Payments up to which they are counted; counting more takes too long."""
_MAY_CREATE = "SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM x402_payment LIMIT %s) AS counted"
_HOLD = "INSERT INTO x402_held (route, fingerprint, sealed, sendable_until, forget_at) VALUES ('', '', '', 0, 0)"


def ledger(url: PostgresUrl) -> Line:
    """Whether payments can be recorded in the database at `url`."""
    try:
        with closing(connect(url, writable=True)) as session:
            try:
                return _look(session, url)
            except (psycopg.Error, Unanswered) as error:
                raise failure(url, error) from None
    except LedgerError as error:
        return todo("ledger", str(error))


def _look(session: Session, url: PostgresUrl) -> Line:
    distance = _round_trip_ms(session)
    secure = "TLS" if session.pgconn.ssl_in_use else "no TLS"
    about = f"PostgreSQL {session.info.server_version // 10000}, {secure}, round trip {distance:.1f} ms"
    if distance > FAR_MS:
        return todo(
            "ledger", f"{url} is far away ({about}): every payment waits for three round trips. Use one nearby."
        )
    if version_of(session, url) < len(MIGRATIONS):
        schema, may = session.execute(_MAY_CREATE).fetchone() or (None, False)
        if not may:
            return todo(
                "ledger",
                f"{url} has no tables yet, and this user may not make any in the schema {schema}: GRANT CREATE ON "
                "SCHEMA to it, or run this once as a user who may.",
            )
        return ok("ledger", f"{url} can be reached ({about}); its tables will be made when the proxy starts")
    with session.transaction(force_rollback=True):
        session.execute("SELECT x402_begin()")
        intent = Intent("CHECK", "", "", None, Caip2(""), "", "", AtomicUnits(0), 0)
        session.execute(*reservation("check", intent, ()))
        session.execute(_HOLD)
    ((count,),) = session.execute(_COUNT, (COUNTED + 1,)).fetchall()
    payments = f"more than {COUNTED}" if count > COUNTED else str(count)
    return ok("ledger", f"{url} is writable and holds {payments} payment{'' if count == 1 else 's'} ({about})")


def _round_trip_ms(session: Session) -> float:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        session.execute("SELECT 1")
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000
