"""Keeps one session with a PostgreSQL database: every statement has a time limit, a lost session is reopened.

The ledger's calls are synchronous and block mitmproxy's event loop. So the server ends a statement after
STATEMENT_SECONDS, and we stop waiting after ANSWER_SECONDS even if the server is unreachable. A thread reopens a lost
session; until then every call fails at once. A session that was lost between two calls, for example because the server
was restarted, is reopened at once, because such a server answers quickly.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, errors

from ...settings.ledger_place import PostgresUrl
from ..interface import LedgerError

LOCK_SECONDS = 0.5
"""Seconds that a statement waits for another proxy's, which normally takes a fraction of a millisecond."""
STATEMENT_SECONDS = 1.0
ANSWER_SECONDS = 1.5
"""Seconds that we wait for the answer to a statement; then the session counts as lost."""
CONNECT_SECONDS = 3
"""Seconds to connect, per host of the URL, unless the URL sets them; libpq's least is 2."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two attempts to reopen a session; each pause is twice as long as the one before."""
_DEFAULTS = {
    "fallback_application_name": "mitmproxy-x402",
    "client_encoding": "utf8",
    "connect_timeout": str(CONNECT_SECONDS),
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "gssencmode": "disable",
}
"""Connection parameters of libpq; those of the URL win."""
# Isolation: a transaction that has waited for the ledger's lock must see what the one before it wrote.
_SESSION = """
    SET default_transaction_isolation = 'read committed'; SET jit = off; SET enable_seqscan = off;
    SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""
RV = TypeVar("RV")
logger = logging.getLogger(__name__)


class Unanswered(Exception):
    """The server did not answer in time."""


class Session(psycopg.Connection[Any]):
    """A connection all of whose waits have a time limit."""

    patience = ANSWER_SECONDS

    def wait(self, gen: Generator[Any, Any, RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait like psycopg's `wait`, but with a time limit; `timeout` can only shorten it."""
        return super().wait(_bounded(gen, min(self.patience, timeout or self.patience)), interval)


def _bounded(steps: Generator[Any, Any, RV], patience: float) -> Generator[Any, Any, RV]:
    deadline = time.monotonic() + patience
    wanted = next(steps)
    while True:
        ready = yield wanted
        if not ready and time.monotonic() > deadline:
            raise Unanswered
        try:
            wanted = steps.send(ready)
        except StopIteration as end:
            value: RV = end.value
            return value


def connect(url: PostgresUrl, *, writable: bool) -> Session:
    """Open a session in autocommit mode. Raises LedgerError, without the secrets of `url`."""
    attributes = {"target_session_attrs": "read-write"} if writable else {}
    try:
        given = {**_DEFAULTS, **attributes, **conninfo.conninfo_to_dict(url.url)}
        session: Session = Session.connect(**given, autocommit=True)  # type: ignore[arg-type]
    except psycopg.Error as error:
        raise failure(url, error) from None
    try:
        if session.info.parameter_status("server_encoding") != "UTF8":
            raise LedgerError(f"The ledger {url} cannot be used: its database must have the encoding UTF8.")
        session.execute(_SESSION.encode())
        limit(session)
    except BaseException as error:
        session.close()
        if isinstance(error, psycopg.Error | Unanswered):
            raise failure(url, error) from None
        raise
    return session


def limit(
    session: Session,
    lock: float = LOCK_SECONDS,
    statement: float = STATEMENT_SECONDS,
    answer: float = ANSWER_SECONDS,
) -> None:
    """Set the seconds to wait for another session's lock, for a statement, and for its answer."""
    session.patience = answer
    session.execute(f"SET lock_timeout = '{lock}s'; SET statement_timeout = '{statement}s'".encode())


def failure(url: PostgresUrl, error: Exception) -> LedgerError:
    """A LedgerError that explains `error` to the user, without any text that could hold a secret."""
    if isinstance(error, Unanswered):
        reason = f"the database did not answer within {ANSWER_SECONDS:g} s"
    elif isinstance(error, errors.LockNotAvailable):
        reason = f"another one held its lock for more than {LOCK_SECONDS:g} s"
    elif isinstance(error, errors.QueryCanceled):
        reason = f"the database took more than {STATEMENT_SECONDS:g} s"
    else:
        reason = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    for secret in url.secrets:
        reason = reason.replace(secret, "[redacted]")
    lines = [" ".join(line.split()) for line in reason.splitlines()]
    reason = " ".join(line for line in lines if line and not line.startswith("Is the server running")).rstrip(".")
    return LedgerError(
        f"The ledger {url} cannot be used: {reason:.400}. Without it nothing is paid. See that the database runs, can "
        "be reached, and lets this user read and write the ledger's tables; it is tried again by itself. The option "
        "x402_ledger (or X402_LEDGER) names another one."
    )


class Link:
    """Keeps a session open. `begin` prepares each new one, in any thread."""

    def __init__(self, url: PostgresUrl, begin: Callable[[Session], None]) -> None:
        self._url, self._begin = url, begin
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._failure = LedgerError(f"The ledger {url} is closed.")
        self._session: Session | None = self._begun()

    def ask(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Execute one statement as a transaction of its own and return its rows.

        Raises LedgerError; if the session was lost, the statement may have been executed.
        """
        with self._lock:
            session = self._usable()
            try:
                cursor = session.execute(statement.encode(), values)
                return cursor.fetchall() if cursor.description else [()] * cursor.rowcount
            except (psycopg.Error, Unanswered) as error:
                found = failure(self._url, error)
                # A server that became a standby keeps its sessions, but they cannot write.
                if session.broken or isinstance(error, (Unanswered, errors.ReadOnlySqlTransaction)):
                    self._lose(found)
                raise found from None

    def _usable(self) -> Session:
        if self._session is not None and _is_gone(self._session):
            self._session.close()
            self._session = None
            try:
                self._session = self._begun()
            except LedgerError as error:
                self._lose(error)
        if self._session is None:
            raise LedgerError(str(self._failure))
        return self._session

    def _begun(self) -> Session:
        session = connect(self._url, writable=True)
        try:
            self._begin(session)
        except BaseException as error:
            session.close()
            if isinstance(error, psycopg.Error | Unanswered):
                raise failure(self._url, error) from None
            raise
        return session

    def _lose(self, why: LedgerError) -> None:
        """Drop the session, and start a thread that opens a new one."""
        logger.warning("x402: %s", why)
        self._failure = why
        if self._session is not None:
            self._session.close()
            self._session = None
        threading.Thread(target=self._find_again, name="x402 ledger", daemon=True).start()

    def _find_again(self) -> None:
        pause = FIRST_PAUSE
        while not self._closing.wait(pause):
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                session = self._begun()
            except LedgerError as error:
                self._failure = error
                continue
            except Exception as error:  # giving up would leave the proxy without a ledger for good
                self._failure = LedgerError(f"The ledger {self._url} cannot be used ({type(error).__name__}).")
                continue
            with self._lock:
                if self._closing.is_set():
                    session.close()
                else:
                    self._session = session
            logger.info("x402: the ledger %s can be used again", self._url)
            return

    def close(self) -> None:
        """End the session; a thread that is reopening it ends by itself."""
        self._closing.set()
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None
            self._failure = LedgerError(f"The ledger {self._url} is closed.")


def _is_gone(session: Session) -> bool:
    """Whether the server has ended an idle session. Takes microseconds."""
    poll = select.poll()
    poll.register(session.pgconn.socket, select.POLLIN)
    for _ in range(3):  # data on an idle session is a notice or its end
        if not poll.poll(0):
            break
        try:
            session.pgconn.consume_input()
        except psycopg.OperationalError:
            break
    return session.pgconn.status != psycopg.pq.ConnStatus.OK
