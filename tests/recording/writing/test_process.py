"""The process that writes recordings: what it has of the proxy's, how it ends, and what is done without it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from test_writers import added, begun, over, whole

from mitmproxy_x402.recording.format import read_recording, read_recordings
from mitmproxy_x402.recording.writing import process as process_module
from mitmproxy_x402.recording.writing import writer_process
from mitmproxy_x402.recording.writing.parts import Part, pack
from mitmproxy_x402.recording.writing.process import ProcessWriter
from support.patience import eventually
from support.running.states import state_of


def running(use: Callable[[ProcessWriter], Awaitable[None]], changed: Callable[[], object] = lambda: None) -> None:
    """Calls `use` with a writer that is ready."""

    async def run() -> None:
        writer = ProcessWriter(asyncio.get_running_loop(), lambda *_: None, changed)
        try:
            writer.wait_until_ready(20)
            assert writer.is_ready
            await use(writer)
        finally:
            writer.close(20)

    asyncio.run(run())


async def shortly(is_so: Callable[[], bool]) -> None:
    """Wait on the event loop until something `is_so`."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def inside(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def fds_of(pid: int) -> list[str]:
    return sorted(str(fd.readlink()).partition(":")[0] for fd in Path(f"/proc/{pid}/fd").iterdir())


class TestWhatItHas:
    def test_no_environment_and_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BLOCKRUN_WALLET_KEY", "0xsecret")
        seen = []
        with (tmp_path / "ledger").open("wb") as ledger:
            os.set_inheritable(ledger.fileno(), True)

            async def use(writer: ProcessWriter) -> None:
                seen.append((inside(writer.pid, "environ"), fds_of(writer.pid)))

            running(use)
        assert seen == [(b"", ["/dev/null", "/dev/null", "/dev/null", "socket"])]

    def test_nothing_of_mitmproxy(self) -> None:
        code = "import sys; sys.path[:] = sys.argv[1:]; import mitmproxy_x402.recording.writing.store as s, sys; "
        code += "from mitmproxy_x402.recording.writing import parts, writer_process; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code, *sys.path], capture_output=True, check=True)
        assert not {name.partition(".")[0] for name in done.stdout.decode().split()} & {"mitmproxy", "asyncio", "ssl"}


class TestItsEnd:
    def test_it_ends_with_a_proxy_that_is_killed_and_has_written_what_it_was_given(self, tmp_path: Path) -> None:
        code = """if True:
            import asyncio, os, signal, sys
            from pathlib import Path
            from test_process import ProcessWriter, begun, added, whole
            async def run():
                writer = ProcessWriter(asyncio.get_running_loop(), lambda *_: None, lambda: None)
                writer.wait_until_ready(20)
                os.kill(writer.pid, signal.SIGSTOP)
                writer.write([added(begun(Path(sys.argv[1])), [(0.1, b"abc")])])
                writer.write([whole(Path(sys.argv[1]), [(0.1, b"def")], number=2, name="two")])
                print(writer.pid, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            asyncio.run(run())
        """
        here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env={**os.environ, "PYTHONPATH": here},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        os.kill(int(done.stdout), signal.SIGCONT)
        eventually(lambda: state_of(int(done.stdout)) in ("", "Z"))
        one, two = read_recordings(tmp_path)
        assert (one.error, one.body()) == ("the recording was interrupted", b"abc")
        assert (two.complete, two.body()) == (True, b"def")

    def test_half_a_frame_is_not_written(self, tmp_path: Path) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-I", "-S", writer_process.__file__, str(theirs.fileno()), *sys.path]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
            theirs.close()
            frame = b"".join(pack([whole(tmp_path, [(0.1, b"abc")])]))
            ours.sendall(frame + frame[:-1])
            ours.shutdown(socket.SHUT_WR)
            assert process.wait(20) == 0
        (found,) = read_recordings(tmp_path)
        assert found.body() == b"abc"

    def test_what_ends_a_whole_group_or_service_leaves_it_to_the_proxy(self, tmp_path: Path) -> None:
        async def use(writer: ProcessWriter) -> None:
            assert os.getsid(writer.pid) == writer.pid  # no terminal's Ctrl-C
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(writer.pid, number)
            writer.write([whole(tmp_path, [(0.1, b"abc")])])

        running(use)
        assert read_recording(tmp_path / "one").complete

    def test_it_is_reaped(self) -> None:
        pids = []

        async def use(writer: ProcessWriter) -> None:
            pids.append(writer.pid)

        running(use)
        assert state_of(pids[0]) == ""

    def test_one_that_is_killed_is_noticed(self) -> None:
        changes = []

        async def use(writer: ProcessWriter) -> None:
            os.kill(writer.pid, signal.SIGKILL)
            await shortly(lambda: writer.is_gone)
            assert (len(changes), writer.waiting, writer.how_it_ended) == (2, 0, "signal 9")
            assert state_of(writer.pid) == ""
            assert writer.close(20) is None

        running(use, lambda: changes.append(1))

    def test_one_that_does_not_take_anything_holds_nobody_up(self, tmp_path: Path) -> None:
        async def use(writer: ProcessWriter) -> None:
            os.kill(writer.pid, signal.SIGSTOP)
            block = b"x" * 100_000
            writer.write([begun(tmp_path)])
            for _ in range(20):
                writer.write([added(Part(1), [(0.1, block)])])  # returns at once
            assert 1_000_000 < writer.waiting < 2_100_000
            os.kill(writer.pid, signal.SIGCONT)
            await shortly(lambda: writer.waiting == 0)
            writer.write([over()])

        running(use)
        assert read_recording(tmp_path / "one").body() == b"x" * 2_000_000

    def test_one_that_is_stopped_goes_on_at_the_end(self, tmp_path: Path) -> None:
        async def use(writer: ProcessWriter) -> None:
            os.kill(writer.pid, signal.SIGSTOP)
            writer.write([begun(tmp_path), over()])
            assert writer.close(20) is None

        running(use)
        assert read_recording(tmp_path / "one").complete

    def test_one_that_is_stuck_at_the_end_is_killed(self, tmp_path: Path) -> None:
        async def use(writer: ProcessWriter) -> None:
            writer.write([begun(tmp_path)])
            await shortly((tmp_path / "one" / "flow.json").exists)
            os.mkfifo(tmp_path / "one" / ".flow.json.new")  # whose other end nobody opens
            writer.write([over()])
            assert writer.close(0.05) == 1
            assert state_of(writer.pid) == ""

        running(use)
        assert read_recording(tmp_path / "one").state == "incomplete"

    def test_how_much_is_lost_at_the_end_is_said(self, tmp_path: Path) -> None:
        async def use(writer: ProcessWriter) -> None:
            writer.write([begun(tmp_path)])
            await shortly((tmp_path / "one" / "flow.json").exists)
            os.mkfifo(tmp_path / "one" / ".flow.json.new")
            writer.write([over()])
            writer.write([Part(7, data=[b"x" * 3_000_000], sizes=(3_000_000,), times=(0.1,))])
            lost = writer.close(0.2)
            assert lost is not None
            assert 2_000_000 < lost < 3_100_000

        running(use)


class TestItsStart:
    def test_one_that_cannot_start_is_gone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "writer_process.py").write_text("raise SystemExit(3)")
        monkeypatch.setattr(process_module.writer_process, "__file__", str(tmp_path / "writer_process.py"))

        async def run() -> None:
            changes: list[int] = []
            writer = ProcessWriter(asyncio.get_running_loop(), lambda *_: None, lambda: changes.append(1))
            await shortly(lambda: writer.is_gone)
            assert (changes, writer.has_been_ready) == ([1], False)

        asyncio.run(run())

    def test_one_that_does_not_get_ready_is_gone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "writer_process.py").write_text("import time; time.sleep(100)")
        monkeypatch.setattr(process_module.writer_process, "__file__", str(tmp_path / "writer_process.py"))
        monkeypatch.setattr(process_module, "START_SECONDS", 0.05)

        async def run() -> None:
            writer = ProcessWriter(asyncio.get_running_loop(), lambda *_: None, lambda: None)
            await shortly(lambda: writer.is_gone)
            assert state_of(writer.pid) == ""

        asyncio.run(run())

    def test_without_an_interpreter_there_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "frozen", True, raising=False)

        async def run() -> None:
            with pytest.raises(OSError, match="no Python interpreter"):
                ProcessWriter(asyncio.get_running_loop(), lambda *_: None, lambda: None)

        asyncio.run(run())
