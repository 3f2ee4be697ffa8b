"""A PostgreSQL server of the tests' own: in a folder that goes away with it, on a socket and a port of loopback."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.settings.ledger_place import PostgresUrl

from ..wire import free_port

USER = "x402"
PASSWORD = "p@ss/w0rd"
PLACES = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin")
FORGETFUL = ("fsync=off", "full_page_writes=off", "autovacuum=off", "shared_buffers=16MB", "max_connections=60")
"""Settings for tests: quick, and safe as long as the machine lives."""


def programs() -> Path:
    """The folder with initdb and postgres, the newest first."""
    found = [folder for place in PLACES for folder in Path("/").glob(place.lstrip("/"))]
    found.sort(
        key=lambda folder: float("".join(c for c in folder.parent.name if c in "0123456789.") or 0), reverse=True
    )
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    for folder in found:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise RuntimeError(
        "PostgreSQL's server is not installed, and the tests start one of their own. Debian, Ubuntu: apt-get install "
        "postgresql. macOS: brew install postgresql@17. Or put the folder of initdb and postgres on PATH."
    )


class Postgres:
    """One server. Whoever is root runs it as another user, since it refuses to be root's."""

    def __init__(self, settings: Sequence[str] = FORGETFUL) -> None:
        self._programs = programs()
        self._settings = [part for setting in settings for part in ("-c", setting)]
        is_root = os.geteuid() == 0
        self.folder = Path(tempfile.mkdtemp(prefix="x402-pg-", dir="/tmp"))
        self._identity: dict[str, Any] = {}
        if is_root:
            users = {entry.pw_name: entry for entry in pwd.getpwall()}
            user = users.get("postgres") or users["nobody"]
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.port = free_port()
        self._schemas = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._empty: PostgresUrl | None = None

    def make(self) -> None:
        """A new cluster: without a password on the socket, with one on loopback."""
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)  # the folder is closed to others
        self._run(
            *("initdb", "--no-sync", "--encoding=UTF8", "--locale=C", "-D", str(self._data), "-U", USER),
            *("--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}"),
        )

    def follow(self, primary: Postgres) -> None:
        """A copy of `primary`, which must run; once started, it follows that one until it is promoted."""
        self._run(
            *("pg_basebackup", "-h", str(primary.folder), "-p", str(primary.port), "-U", USER),
            *("-D", str(self._data), "-R", "-X", "stream", "-c", "fast", "--no-sync"),
        )

    def promote(self) -> None:
        """It follows nobody any more, and can be written to."""
        self.execute("SELECT pg_promote()")

    def replicate(self, names: str) -> None:
        """Every commit waits for a standby of these `names` from now on; empty: for none."""
        self.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.execute("SELECT pg_reload_conf()")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **self._identity,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self.folder)),
                    *("-h", "127.0.0.1", "-p", str(self.port), *self._settings),
                ],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._identity,
            )
        deadline = time.monotonic() + 30
        while not self._answers():
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, (self.folder / "log").read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url().url).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: sessions are ended, what was committed is safe. SIGQUIT: as in a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def url(self, schema: str = "", *, over: str = "socket", user: str = USER, password: str = PASSWORD) -> PostgresUrl:
        """Where the tables of `schema` are found."""
        options = f"options={quote(f'-c search_path={schema}')}" if schema else ""
        if over == "socket":
            return PostgresUrl(
                f"postgresql://{user}@/postgres?host={self.folder}&port={self.port}&{options}".rstrip("&")
            )
        secret = f":{quote(password, safe='')}" if password else ""
        return PostgresUrl(f"postgresql://{user}{secret}@127.0.0.1:{self.port}/postgres?{options}".rstrip("?"))

    def empty(self) -> PostgresUrl:
        """A ledger in which nothing was ever written; the same for all who ask, one after the other."""
        if self._empty is None:
            self._empty = self.fresh()
            PostgresLedger(self._empty).close()
        self.execute("TRUNCATE x402_payment, x402_sum, x402_tally, x402_held RESTART IDENTITY", url=self._empty)
        return self._empty

    def fresh(self, **how: str) -> PostgresUrl:
        """Where no ledger has ever been."""
        schema = f"ledger_{next(self._schemas)}"
        self.execute(f"CREATE SCHEMA {schema}")
        return self.url(schema, **how)

    def execute(self, statement: str, *values: object, url: PostgresUrl | None = None) -> list[tuple[Any, ...]]:
        """One statement, as the server's owner."""
        with psycopg.connect((url or self.url()).url, autocommit=True) as db:
            cursor = db.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []
