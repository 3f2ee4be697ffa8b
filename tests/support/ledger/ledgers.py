"""Both kinds of ledger behind one face, with clocks that tests set."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg

from mitmproxy_x402.ledger.clock import Clock
from mitmproxy_x402.ledger.interface import Ledger
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl

KINDS = ("sqlite", "postgres")
EPOCH = 1_700_000_000


class Times(Protocol):
    """The clocks of a ledger."""

    def pass_by(self, seconds: float) -> None: ...


class MachineTimes:
    """Both clocks of one machine, to be set at will."""

    def __init__(self, wall: float = EPOCH, uptime: float = 1000, boot: str = "first") -> None:
        self.wall, self.uptime, self.boot = wall, uptime, boot

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.uptime, self.boot)


def put_empty_ledger(path: Path, clock: tuple[float, float, str]) -> None:
    """Write a ledger without payments to `path`, as one that opens it at `clock` would; sooner, where many are made."""
    path.write_bytes(_empty_ledger(*clock))
    path.chmod(0o600)


@functools.cache
def _empty_ledger(wall: float, uptime: float, boot: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        SqliteLedger(path, Clock(lambda: wall, lambda: uptime, boot)).close()
        assert list(Path(folder).iterdir()) == [path]
        return path.read_bytes()


class DatabaseTimes:
    """The clock of a database, which stands still but for what tests let pass."""

    def __init__(self, url: PostgresUrl, wall: float = EPOCH) -> None:
        self._db = psycopg.connect(url.url, autocommit=True)
        ((self._real,),) = self._db.execute("SELECT pg_get_functiondef('x402_now'::regproc)").fetchall()
        self._db.execute("CREATE TABLE test_clock (now bigint NOT NULL)")
        self._db.execute("INSERT INTO test_clock VALUES (0)")
        self._db.execute(
            "CREATE OR REPLACE FUNCTION x402_now() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT now FROM test_clock'"
        )
        self.wall = wall

    @property
    def wall(self) -> float:
        return self._wall

    @wall.setter
    def wall(self, seconds: float) -> None:
        self._wall = seconds
        self._db.execute("UPDATE test_clock SET now = %s", (round(seconds * 1000),))

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """One statement, beside the ledger's own session."""
        return self._db.execute(statement.encode()).fetchall()

    def close(self) -> None:
        """Set the real clock in again."""
        self._db.execute(self._real)
        self._db.execute("DROP TABLE test_clock")
        self._db.close()


def open_with(place: LedgerPlace, times: Times | None = None) -> Ledger:
    """The ledger at `place`; in a file it goes by `times`, a database has them in itself."""
    if isinstance(place, PostgresUrl):
        return PostgresLedger(place)
    return SqliteLedger(place, times.clock if isinstance(times, MachineTimes) else None)


def query(place: LedgerPlace, columns: str, rest: str = "") -> list[tuple[Any, ...]]:
    """Columns of the ledger's payments, in their order, as they are at rest."""
    if isinstance(place, PostgresUrl):
        with psycopg.connect(place.url) as db:
            return db.execute(f"SELECT {columns} FROM x402_payment {rest} ORDER BY id".encode()).fetchall()
    with closing(sqlite3.connect(place)) as file:
        return file.execute(f"SELECT {columns} FROM payment {rest} ORDER BY id").fetchall()


@contextmanager
def locked(place: LedgerPlace) -> Iterator[None]:
    """Nobody else can write into it for the length of the block."""
    if isinstance(place, PostgresUrl):
        with psycopg.connect(place.url) as db:
            db.execute("LOCK TABLE x402_payment IN EXCLUSIVE MODE")
            yield
    else:
        with closing(sqlite3.connect(place, isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
            file.execute("ROLLBACK")


def age(place: LedgerPlace, seconds: int) -> None:
    """Let all signatures be so much older."""
    if isinstance(place, PostgresUrl):
        with psycopg.connect(place.url) as db:
            db.execute("UPDATE x402_payment SET valid_until = valid_until - %s", (seconds,))
    else:
        with closing(sqlite3.connect(place)) as file, file:
            file.execute("UPDATE payment SET valid_until = valid_until - ?", (seconds,))


def state_of(place: LedgerPlace, row: int) -> Any:
    return query(place, "state", f"WHERE id = {row}")[0][0]


def place_of(kind: str, folder: Path, request: Any) -> LedgerPlace:
    """Where a ledger of `kind` will be; for fixtures."""
    url: LedgerPlace
    if kind == "postgres":
        url = request.getfixturevalue("postgres").empty()
        return url
    return folder / "state" / "ledger.sqlite3"
