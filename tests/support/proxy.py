"""The real proxy: mitmdump (or mitmweb) as a user starts it, in a process of its own, on a port of its own."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from solders.keypair import Keypair

from mitmproxy_x402.settings.ledger_place import LedgerPlace, PostgresUrl

from .running import certs, warm
from .running.warm import Process
from .wire import Client

ROOT = Path(__file__).resolve().parents[2]
DOOR = ROOT / "addon" / "x402.py"
EVM_KEY = "0x" + "11" * 32
EVM_ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
SVM_SEED = bytes(range(32))


def svm_key() -> str:
    return str(Keypair.from_seed(SVM_SEED))


_FIRST = "TESTS_LOAD_FIRST"
_OWN_PROCESS = f"""
import os, pathlib, runpy, sys
if "{_FIRST}" in os.environ:
    runpy.run_path(os.environ.pop("{_FIRST}"))
from mitmproxy_x402.cli.launch import run_tool
sys.exit(run_tool(pathlib.Path(sys.argv[1]).name, sys.argv[2:]))
"""
_OWN = (*warm.CODE, _OWN_PROCESS)


class Proxy:
    """Starts on entering, ends on leaving; `log` is everything it has printed."""

    own: ClassVar[bool] = False
    """Whether the package starts the process, as `./run.sh` does, and may arrange what a user's own is left out of."""
    may_be_forked: ClassVar[bool] = True
    """Whether its process may be forked off one that has done the imports (`warm`), instead of started anew."""
    ledgers: ClassVar[Callable[[Path], PostgresUrl] | None] = None
    """Gives the database for a home, where tests are run with `--ledger postgres`."""

    def __init__(
        self,
        upstream: str,
        *arguments: str,
        home: Path,
        tool: str = "mitmdump",
        keys: Mapping[str, str] | None = None,
        expect_listen: bool = True,
        listening: str = r"listening at 127\.0\.0\.1:",
        own: bool | None = None,
    ) -> None:
        self.home = home
        self._expect_listen = expect_listen
        self._listening = listening
        environ = {
            k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
        }
        environ |= {
            "HOME": str(home),
            "PYTHONUNBUFFERED": "1",
            **({"BLOCKRUN_WALLET_KEY": EVM_KEY} if keys is None else keys),
        }
        self.ledger: LedgerPlace = home / ".local" / "state" / "mitmproxy-x402" / "ledger.sqlite3"
        """Where it is unless an option says otherwise."""
        named = "X402_LEDGER" in environ or any("x402_ledger=" in argument for argument in arguments)
        if Proxy.ledgers is not None and not named:
            database = Proxy.ledgers(home)
            self.ledger, environ["X402_LEDGER"] = database, database.url
        self.command = [
            *(_OWN if (Proxy.own if own is None else own) else ()),
            str(Path(sys.executable).with_name(tool)),
            *("-s", str(DOOR), "--mode", f"reverse:{upstream}", "--listen-port", "0"),
            *("--set", "termlog_verbosity=debug"),
            *arguments,
        ]
        self.environ = environ
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._seen: list[str] = []
        self.host, self.port = "127.0.0.1", 0

    def load_first(self, script: Path) -> None:
        """An addon before ours; where the process is the package's, `script` runs before that is imported, too."""
        self.environ[_FIRST] = str(script)
        door = self.command.index(str(DOOR)) - 1
        self.command[door:door] = ["-s", str(script)]

    def __enter__(self) -> Proxy:
        self.process = self._start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if self._expect_listen:
            try:
                self._wait_until_it_listens()
            except BaseException:
                self.__exit__()
                raise
        return self

    def _start(self) -> Process:
        if Proxy.may_be_forked and warm.is_wanted(self.command, self.environ):
            certs.give_authority(self.home)
            return warm.Warm(self.command, self.environ, self.home, ours=self._may_be_imported())
        return subprocess.Popen(
            self.command,
            env=self.environ,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def _may_be_imported(self) -> bool:
        """Whether the package may have been imported before: nothing that a test loads comes first."""
        return _FIRST not in self.environ and str(DOOR) in self.command

    def _wait_until_it_listens(self) -> None:
        self.wait_for("x402: upstream|x402: NOT paying")
        line = self.wait_for(self._listening)
        self.port = int(line.rstrip(". \n").rpartition(":")[2])

    def __exit__(self, *_: object) -> None:
        try:
            self._stop()
        except TimeoutError:
            self.process.kill()
            self.process.wait(10)
            raise
        self._reader.join(10)
        assert not self._reader.is_alive(), f"something still prints for {self.command}"

    def _stop(self) -> None:
        """In good order, but without the wait for answers that a test has left open."""
        self.process.send_signal(signal.SIGTERM)
        deadline, told_twice = time.monotonic() + 20, False
        while not _ended(self.process, 0.1):
            if time.monotonic() > deadline:
                raise TimeoutError(f"did not stop: {self.command}\n{self.log}")
            if not told_twice and "x402: stopping when" in self.log:
                self.process.send_signal(signal.SIGTERM)
                told_twice = True

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        if self.process.poll() is not None:
            self._reader.join(10)  # its last words
        while not self._lines.empty():
            self._seen.append(self._lines.get() or "")
        return "".join(self._seen)

    def wait_for(self, pattern: str, timeout: float = 30) -> str:
        """The first line, already printed or to come, in which `pattern` is found."""
        for line in self._seen:
            if re.search(pattern, line):
                return line
        latest = time.monotonic() + 4 * timeout  # also where other lines never cease
        while True:
            try:
                line = self._lines.get(timeout=timeout) if time.monotonic() < latest else None
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no line with {pattern!r} from {self.command}:\n{''.join(self._seen)}")
            self._seen.append(line)
            if re.search(pattern, line):
                return line

    def wait_for_end(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def client(self) -> Client:
        return Client(self.host, self.port)


def _ended(process: Process, seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
