"""The process that syncs the ledger's log: what it has of the proxy's, how it ends, and what is done without it."""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mitmproxy_x402.ledger.interface import LedgerBusy, LedgerError
from mitmproxy_x402.ledger.opening import make_ready
from mitmproxy_x402.ledger.reading import read_entries
from mitmproxy_x402.ledger.sqlite import durability, sync_process, syncing
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sqlite.syncing import ProcessSync, Sync, ThreadSync, sync_of
from mitmproxy_x402.settings.settings import read_settings
from support.ledger.payments import intent
from support.patience import BusyLoop, eventually
from support.running.states import state_of

HERE = Path(__file__).parent


def children() -> set[int]:
    """Those of this process that have not ended."""
    shown = subprocess.run(["ps", "-ewwo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    lines = (line.split(None, 2) for line in shown.splitlines())
    return {int(pid) for pid, parent, what in lines if int(parent) == os.getpid() and "sync_process" in what}


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    with (tmp_path / "file").open("wb") as opened:
        yield opened.fileno()


@pytest.fixture
def made() -> list[ProcessSync]:
    return []


@pytest.fixture
def ledger(path: Path, made: list[ProcessSync]) -> Iterator[SqliteLedger]:
    def make(file: int) -> Sync:
        made.append(ProcessSync(file))
        return made[-1]

    with closing(SqliteLedger(path, make_sync=make)) as one:
        yield one


async def reserved(ledger: SqliteLedger) -> int:
    """A payer, too, tries again while a thread that writes the log again holds the lock."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return ledger.reserve(intent(), [])
        except LedgerBusy:  # noqa: PERF203 - seldom more than one round
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)


async def pay(ledger: SqliteLedger) -> None:
    row = await reserved(ledger)
    wait = ledger.durable_soon()
    assert wait is not None
    await wait
    ledger.record_sent(row, "0xnonce", 0)


class TestWhatItHas:
    def test_no_environment(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BLOCKRUN_WALLET_KEY", "0xsecret")
        with closing(ProcessSync(file)) as sync:
            assert Path(f"/proc/{sync.pid}/environ").read_bytes() == b""

    def test_no_file_but_the_log_to_read(self, ledger: SqliteLedger, made: list[ProcessSync], path: Path) -> None:
        asyncio.run(pay(ledger))
        fds = Path(f"/proc/{made[0].pid}/fd")
        files = [fd for fd in fds.iterdir() if stat.S_ISREG(fd.stat().st_mode)]
        assert [fd.readlink() for fd in files] == [path.with_name("ledger.sqlite3-wal")]
        assert stat.S_IMODE(files[0].lstat().st_mode) & 0o700 == 0o500  # opened to read alone
        others = {str(fd.readlink()).partition(":")[0] for fd in fds.iterdir() if fd not in files}
        assert others == {"/dev/null", "pipe"}

    def test_it_is_not_started_by_those_who_do_not_pay(self, path: Path, tmp_path: Path) -> None:
        for options in ({}, {"x402_ledger_sync": "false"}):
            with closing(SqliteLedger(path)) as ledger:
                make_ready(ledger, read_settings(options, {}, cwd=tmp_path, home=tmp_path))
                assert len(children()) == (not options)
                make_ready(ledger, read_settings(options, {}, cwd=tmp_path, home=tmp_path))
                assert len(children()) == (not options)
            assert not children()
        with closing(SqliteLedger(path)) as ledger:
            asyncio.run(pay(ledger))
            read_entries(path)
            assert not children()


class TestItsEnd:
    def test_it_ends_with_the_ledger(self, ledger: SqliteLedger, made: list[ProcessSync]) -> None:
        asyncio.run(pay(ledger))
        assert children() == {made[0].pid}
        ledger.close()
        assert not state_of(made[0].pid)

    def test_it_ends_with_a_proxy_that_is_killed(self, path: Path) -> None:
        with proxy(path) as (process, pid):
            assert state_of(pid)
            process.kill()
            eventually(lambda: state_of(pid) in ("", "Z"))

    def test_what_ends_a_whole_group_or_service_leaves_it_to_the_proxy(self, path: Path) -> None:
        """Ctrl-C in a terminal, or systemd's SIGTERM to everybody: the proxy finishes what is under way."""
        with proxy(path) as (process, pid):
            os.killpg(process.pid, signal.SIGINT)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
            assert process.stdin is not None
            assert process.stdout is not None
            print("pay", file=process.stdin, flush=True)
            assert process.stdout.readline() == "paid\n"
            assert state_of(pid) not in ("", "Z")
            print("close", file=process.stdin, flush=True)
            assert process.stdout.read() == ""
        eventually(lambda: state_of(pid) in ("", "Z"))
        assert [entry.state for entry in read_entries(path)] == ["sent"]

    def test_one_that_does_not_end_holds_nobody_up(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(syncing, "END_SECONDS", 0.1)
        sync = ProcessSync(file)
        os.kill(sync.pid, signal.SIGSTOP)
        sync.begin()
        sync.close()
        assert not state_of(sync.pid)


PROXY = """if True:
    import asyncio, signal, sys
    from pathlib import Path
    from test_syncing import SqliteLedger, children, pay
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # mitmproxy, too, finishes what is under way
    ledger = SqliteLedger(Path(sys.argv[1]))
    ledger.prepare_sync()
    print(*children(), flush=True)
    while input() == "pay":
        asyncio.run(pay(ledger))
        print("paid", flush=True)
    ledger.close()
"""


@contextmanager
def proxy(path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that pays when it is told to, in a process group of its own, and the process that syncs for it."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROXY, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(
        command, env=environ, cwd=Path(__file__).parent, text=True, start_new_session=True, **pipes
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


class TestWithoutIt:
    def test_a_sync_that_it_may_not_have_done_is_done_by_a_thread(
        self,
        ledger: SqliteLedger,
        made: list[ProcessSync],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        by_threads: list[int] = []
        monkeypatch.setattr(durability, "GROUP_SECONDS", 0)

        def sync_now(file: int) -> None:
            by_threads.append(file)
            sync_process.sync_now(file)

        monkeypatch.setattr(syncing, "sync_now", sync_now)

        async def pay_several() -> None:
            await pay(ledger)
            os.kill(made[0].pid, signal.SIGSTOP)
            paying = [asyncio.ensure_future(pay(ledger)) for _ in range(3)]
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in paying)
            assert not by_threads
            os.kill(made[0].pid, signal.SIGKILL)
            await asyncio.gather(*paying)
            assert len(by_threads) == 1  # for those that came later; for the first the whole log was written again
            await pay(ledger)
            assert len(by_threads) == 2

        asyncio.run(pay_several())
        assert not state_of(made[0].pid)
        assert caplog.text.count("the process that syncs") == 1

    def test_one_that_ends_while_nobody_pays_takes_no_time(
        self, ledger: SqliteLedger, made: list[ProcessSync], caplog: pytest.LogCaptureFixture
    ) -> None:
        selector = CountingSelector()

        async def pay_before_and_after() -> None:
            await pay(ledger)
            os.kill(made[0].pid, signal.SIGKILL)
            await asyncio.get_running_loop().run_in_executor(None, eventually, lambda: not state_of(made[0].pid))
            before = selector.turns
            await asyncio.sleep(0.1)
            assert selector.turns < before + 10
            await pay(ledger)

        with closing(asyncio.SelectorEventLoop(selector)) as loop:
            loop.run_until_complete(pay_before_and_after())
            loop.run_until_complete(loop.shutdown_default_executor())
        assert "has ended" in caplog.text

    def test_one_that_ends_while_the_next_sync_waits_for_an_idle_loop(
        self, ledger: SqliteLedger, made: list[ProcessSync], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(durability, "GROUP_SECONDS", 60)

        async def pay_while_it_ends() -> None:
            await pay(ledger)
            busy = BusyLoop()
            paying = asyncio.ensure_future(pay(ledger))
            await busy.wait(3)
            os.kill(made[0].pid, signal.SIGKILL)
            eventually(lambda: not state_of(made[0].pid) or state_of(made[0].pid) == "Z")
            await busy.wait(3)  # in which the loop hears of it
            assert not paying.done()
            busy.stop()
            await paying

        asyncio.run(pay_while_it_ends())

    def test_one_that_ends_before_the_first_payment(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        async def start_and_pay(ledger: SqliteLedger) -> None:
            ledger.prepare_sync()
            (pid,) = children()
            os.kill(pid, signal.SIGKILL)
            await asyncio.get_running_loop().run_in_executor(None, eventually, lambda: not state_of(pid))
            assert "has ended" in caplog.text
            await pay(ledger)

        with closing(SqliteLedger(path)) as ledger:
            asyncio.run(start_and_pay(ledger))
        assert len(read_entries(path)) == 1

    def test_one_that_ends_between_two_event_loops(self, ledger: SqliteLedger, made: list[ProcessSync]) -> None:
        asyncio.run(pay(ledger))
        os.kill(made[0].pid, signal.SIGKILL)
        eventually(lambda: state_of(made[0].pid) == "Z")
        asyncio.run(pay(ledger))
        assert len(read_entries(ledger.path)) == 2

    def test_where_there_is_no_file_for_another_way_nothing_leaves(
        self, ledger: SqliteLedger, made: list[ProcessSync], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_pipe() -> tuple[int, int]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        async def pay_in_vain() -> None:
            await pay(ledger)
            os.kill(made[0].pid, signal.SIGSTOP)
            paying = [asyncio.ensure_future(pay(ledger)) for _ in range(2)]
            await asyncio.sleep(0)
            with monkeypatch.context() as patch:
                patch.setattr(os, "pipe", no_pipe)
                os.kill(made[0].pid, signal.SIGKILL)
                for task in paying:
                    with pytest.raises(LedgerError, match="Too many open files"):
                        await task
                with pytest.raises(LedgerError, match="Too many open files"):
                    await pay(ledger)
            await pay(ledger)

        asyncio.run(pay_in_vain())
        assert [entry.state for entry in read_entries(ledger.path)].count("sent") == 2

    @pytest.mark.parametrize("program", ["", "/nowhere/python", "/bin/false", "/bin/true"])
    def test_where_no_process_can_be_made(self, program: str, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", program)
        with closing(sync_of(file)) as sync:
            assert isinstance(sync, ThreadSync)

    def test_in_a_program_that_holds_python_in_itself(self, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        with closing(sync_of(file)) as sync:
            assert isinstance(sync, ThreadSync)

    def test_a_program_that_is_no_python(self, file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        program = tmp_path / "program"
        program.write_text("#!/bin/sh\nread line\n")
        program.chmod(0o700)
        silent = tmp_path / "silent"
        silent.write_text("#!/bin/sh\nexec sleep 600\n")
        silent.chmod(0o700)
        monkeypatch.setattr(syncing, "START_SECONDS", 0.2)
        for one in (program, silent):
            monkeypatch.setattr(sys, "executable", str(one))
            with closing(sync_of(file)) as sync:
                assert isinstance(sync, ThreadSync)

    def test_where_neither_a_process_nor_a_thread_can_be_made(self, path: Path) -> None:
        """Then each sync blocks."""
        limited = """if True:
            import asyncio, os, resource, sys
            from contextlib import suppress
            from pathlib import Path
            from test_syncing import LedgerError, SqliteLedger, children, pay
            ledger = SqliteLedger(Path(sys.argv[1]))
            if os.getuid() == 0:  # whom that limit does not concern
                os.setgroups([])
                os.setresuid(54321, 54321, 54321)
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            with suppress(LedgerError):  # a log that may not be lengthened
                ledger.prepare_sync()
            for _ in range(3):
                asyncio.run(pay(ledger))
            print("paid")
        """
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", limited, str(path)]
        done = subprocess.run(command, env=environ, cwd=HERE, capture_output=True, text=True, check=False)
        assert done.stdout == "paid\n", done.stderr
        assert len(read_entries(path)) == 3


class CountingSelector(selectors.DefaultSelector):
    """Counts the turns of an event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        return super().select(timeout)


def test_errors_come_back_with_their_number() -> None:
    """A pipe cannot be synced."""
    file, far = os.pipe()
    asked, ask = os.pipe()
    tell, answer = os.pipe()
    os.write(ask, b"!")
    os.close(ask)
    sync_process.serve(file, asked, answer)
    assert os.read(tell, 10) == bytes([errno.EINVAL])
    for fd in (file, far, asked, tell, answer):
        os.close(fd)
