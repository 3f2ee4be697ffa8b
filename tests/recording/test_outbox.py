"""What waits on the event loop until a writer gets it: whose turn it is, how much may wait, and writers that end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.exchange import EXCHANGE, Exchange
from mitmproxy_x402.recording import outbox as outbox_module
from mitmproxy_x402.recording.format import read_recording, read_recordings
from mitmproxy_x402.recording.outbox import MOST, PAUSE, Job, Outbox
from mitmproxy_x402.recording.plan import Plan, make_plan
from mitmproxy_x402.recording.recorder import Recorder
from mitmproxy_x402.recording.redact import Redactor
from mitmproxy_x402.recording.snapshot import Snapshot
from mitmproxy_x402.recording.writing import process as process_module
from mitmproxy_x402.recording.writing.parts import Part, pack
from mitmproxy_x402.recording.writing.process import ProcessWriter
from mitmproxy_x402.settings.settings import read_settings


class Rig:
    """An outbox, and flows for it."""

    def __init__(self, folder: Path) -> None:
        plan = make_plan(read_settings({"x402_dump": str(folder)}, {}, cwd=folder.parent, home=folder.parent))
        assert plan is not None
        self.plan: Plan = plan
        self.outbox = Outbox()
        self.number = 0

    def new(self, body: bytes) -> Job:
        flow = tflow.tflow(req=http.Request.make("POST", "http://h/x", body, {"Content-Type": "application/json"}))
        self.number += 1
        return Job(self.outbox, self.plan, self.number, flow, time.monotonic())

    def begin(self, body: bytes = b"{}") -> Job:
        job = self.new(body)
        self.outbox.add(job, len(body))
        return job

    @staticmethod
    def answer(job: Job, *chunks: bytes) -> None:
        assert job.flow is not None
        job.flow.response = http.Response.make(200, b"", {"Content-Type": "text/event-stream"})
        job.has_answer = True
        for data in chunks:
            job.receive(data)

    def end(self, job: Job) -> None:
        assert job.flow is not None
        known = Snapshot(job.flow, self.plan.redactor)
        known.state, known.end = "complete", time.monotonic() - job.began
        self.outbox.end(job, known, None)

    def whole(self, *chunks: bytes) -> Job:
        job = self.begin()
        self.answer(job, *chunks)
        self.end(job)
        return job

    @property
    def process(self) -> ProcessWriter:
        assert self.outbox.process is not None
        return self.outbox.process

    async def ready(self) -> None:
        await shortly(lambda: self.outbox.process is not None and self.outbox.process.is_ready)

    def stop_process(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)


async def shortly(is_so: Callable[[], object]) -> None:
    """Wait on the event loop until something `is_so`."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def run(folder: Path, use: Callable[[Rig], Awaitable[None]], *, is_written: bool = True) -> None:
    """Calls `use` on an event loop, and closes the outbox."""

    async def inside() -> None:
        rig = Rig(folder)
        try:
            await use(rig)
            assert (rig.outbox.close(20) is None) == is_written
            assert rig.outbox.room == outbox_module.MAX_WAITING
        finally:
            if rig.outbox.process is not None:  # of a test that fails
                os.kill(rig.process.pid, signal.SIGKILL)

    asyncio.run(inside())


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[list[Part]]:
    """What the process is given, each time."""
    found: list[list[Part]] = []
    write = ProcessWriter.write

    def noting(self: ProcessWriter, parts: list[Part]) -> None:
        found.append(list(parts))
        write(self, parts)

    monkeypatch.setattr(ProcessWriter, "write", noting)
    return found


class TestWhoseTurnItIs:
    def test_what_is_over_soon_is_handed_over_whole(self, tmp_path: Path, handed: list[list[Part]]) -> None:
        async def use(rig: Rig) -> None:
            rig.whole(b"data: 1\n\n", b"data: 2\n\n")
            await shortly(lambda: handed)

        run(tmp_path, use)
        ((part,),) = handed
        assert (part.is_over, part.body, list(part.data)) == (True, b"{}", [b"data: 1\n\n", b"data: 2\n\n"])
        found = read_recording(next(tmp_path.iterdir()))
        assert (found.complete, len(found.chunks()), found.in_head is None) == (True, 2, False)

    def test_what_goes_on_is_there_before_its_end(self, tmp_path: Path, handed: list[list[Part]]) -> None:
        async def use(rig: Rig) -> None:
            await begun_process(rig)
            handed.clear()
            began = time.monotonic()
            job = rig.begin()
            await shortly(lambda: len(list(tmp_path.glob("*/flow.json"))) == 2)
            assert time.monotonic() - began >= PAUSE  # it is not written at once, since it may end
            rig.answer(job, b"data: 1\n\n")
            await shortly(lambda: list(tmp_path.glob("*02-*/response.sse")))
            job.receive(b"data: 2\n\n")
            rig.end(job)

        run(tmp_path, use)
        found = read_recordings(tmp_path)[-1]
        assert [piece for _, piece in found.pieces()] == [b"data: 1\n\n", b"data: 2\n\n"]
        assert (found.complete, found.in_head) == (True, None)
        assert [part.head is not None for parts in handed for part in parts] == [True, True, True]

    def test_the_head_is_not_made_for_each_chunk(self, tmp_path: Path, handed: list[list[Part]]) -> None:
        async def use(rig: Rig) -> None:
            job = rig.begin()
            rig.answer(job, b"x")
            await shortly(lambda: handed)
            job.receive(b"y")
            await shortly(lambda: len(handed) == 2)

        run(tmp_path, use)
        assert [part.head is not None for parts in handed for part in parts] == [True, False]

    def test_many_are_handed_over_a_few_at_a_time_and_without_a_pause(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handed: list[list[Part]]
    ) -> None:
        async def use(rig: Rig) -> None:
            await begun_process(rig)
            handed.clear()
            monkeypatch.setattr(outbox_module, "PAUSE", 1000)
            monkeypatch.setattr(outbox_module, "LONGEST", 1000)
            for _ in range(3 * MOST):
                rig.whole(b"x")
            await shortly(lambda: sum(map(len, handed)) == 3 * MOST)

        run(tmp_path, use)
        assert {len(parts) for parts in handed} == {MOST}
        assert len(read_recordings(tmp_path)) == 3 * MOST + 1

    def test_long_heads_hold_nobody_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handed: list[list[Part]]
    ) -> None:
        async def use(rig: Rig) -> None:
            await begun_process(rig)
            handed.clear()
            monkeypatch.setattr(outbox_module, "LONGEST", 0)
            growing = rig.begin()
            rig.answer(growing, b"x")
            for _ in range(MOST):
                rig.whole(b"x")
            await shortly(lambda: sum(map(len, handed)) == MOST + 1)

        run(tmp_path, use)
        assert [len(parts) for parts in handed] == [1] * (MOST + 1)

    def test_what_grows_is_not_put_off_by_what_ends(self, tmp_path: Path, handed: list[list[Part]]) -> None:
        async def use(rig: Rig) -> None:
            job = rig.begin()
            rig.answer(job, b"x")
            await rig.ready()
            deadline = time.monotonic() + 20
            while not any(part.number == job.number for parts in handed for part in parts):
                assert time.monotonic() < deadline
                for _ in range(MOST):
                    rig.whole(b"y")
                await asyncio.sleep(0)

        run(tmp_path, use)

    def test_a_challenge_that_is_held_back_is_no_answer(self, tmp_path: Path) -> None:
        async def use(rig: Rig) -> None:
            job = rig.begin()
            assert job.flow is not None
            job.flow.response = http.Response.make(402, b"pay")
            await shortly(lambda: list(tmp_path.glob("*/flow.json")))
            assert read_recordings(tmp_path)[0].response is None
            rig.answer(job, b"x")
            rig.end(job)

        run(tmp_path, use)
        (found,) = read_recordings(tmp_path)
        assert found.response is not None
        assert (found.response.status, found.body()) == (200, b"x")

    def test_a_challenge_during_which_the_client_leaves_is_no_answer(self, tmp_path: Path) -> None:
        async def use(rig: Rig) -> None:
            recorder = Recorder()
            recorder.plan = rig.plan
            flow = tflow.tflow(err=True)
            vars(flow)[EXCHANGE] = Exchange()
            recorder.request(flow)
            flow.response = http.Response.make(402, b"pay")
            recorder.error(flow)
            recorder.done()

        run(tmp_path, use)
        (found,) = read_recordings(tmp_path)
        assert (found.state, found.error, found.response) == ("incomplete", "error", None)

    def test_a_flow_that_is_dropped_without_a_word(self, tmp_path: Path, handed: list[list[Part]]) -> None:
        async def use(rig: Rig) -> None:
            job = rig.begin()
            await shortly(lambda: handed)
            number = job.number
            del job
            gc.collect()
            rig.whole(b"x")
            await shortly(lambda: any(part == Part(number, is_over=True) for parts in handed for part in parts))

        run(tmp_path, use)
        assert sorted(one.complete for one in read_recordings(tmp_path)) == [False, True]


async def begun_process(rig: Rig) -> None:
    rig.whole(b"first")
    await rig.ready()
    await shortly(lambda: not rig.outbox.size)


def test_no_secret_is_handed_over(tmp_path: Path, handed: list[list[Part]]) -> None:
    """Not even to the process that writes: whatever becomes of its memory, nothing is in it."""

    async def use(rig: Rig) -> None:
        rig.plan = replace(rig.plan, redactor=Redactor("client-token"))
        secrets = {
            "Authorization": "Bearer sk-0123",
            "Content-Type": "text/client-token",
            "X-Api-Key": "0123-key",
            "Cookie": "a=0123-cookie",
            "Content-Encoding": "client-token",
        }
        for at_once in (True, False):
            job = rig.begin(b"ask")
            assert job.flow is not None
            job.flow.request = http.Request.make("POST", "http://h/client-token/x?key=0123-key", b"ask", secrets)
            if not at_once:
                await shortly(lambda: handed)
            rig.answer(job, b"told")
            assert job.flow.response is not None
            job.flow.response.headers = http.Headers(
                [(name.encode(), value.encode()) for name, value in secrets.items()]
            )
            job.flow.response.trailers = http.Headers(set_cookie="0123-cookie")
            if not at_once:
                await shortly(lambda: any(part.answer for parts in handed for part in parts))
            known = Snapshot(job.flow, rig.plan.redactor)
            known.state, known.error = "incomplete", "no client-token"
            rig.outbox.end(job, known, None)

    run(tmp_path, use)
    whole = b"".join(buffer for parts in handed for buffer in pack(parts))
    assert whole.count(b"told") == whole.count(b"ask") == 2
    assert whole.count(b"[redacted]") > 10
    assert b"0123" not in whole
    assert b"client-token" not in whole


class TestHowMuchMayWait:
    def test_a_process_that_takes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(outbox_module, "MAX_WAITING", 3 << 20)
        block = b"x" * (1 << 16)

        async def use(rig: Rig) -> None:
            await begun_process(rig)
            rig.stop_process()
            job = rig.begin()
            rig.answer(job)
            for _ in range(80):
                job.receive(block)
                await asyncio.sleep(0)
            assert job.lost
            assert rig.outbox.room < 1 << 20
            os.kill(rig.process.pid, signal.SIGCONT)
            rig.end(job)

        run(tmp_path, use)
        found = read_recordings(tmp_path)[-1]
        assert 2 << 20 < len(found.body()) <= 4 << 20
        assert set(found.body()) == {ord("x")}
        (line,) = caplog.messages
        assert (
            f"cannot record into {tmp_path}: more came than the disk has taken so far: 64 MB were waiting for it"
            in line
        )

    def test_of_what_finds_no_room_the_heads_up_to_a_bound(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox_module, "MAX_WAITING", 0)
        monkeypatch.setattr(outbox_module, "FOR_HEADS", 1 << 14)

        async def use(rig: Rig) -> None:
            jobs = [rig.new(b"y" * 5000) for _ in range(400)]
            kept = [job for job in jobs if job.take_body(job.asked)]
            assert -1 << 14 <= rig.outbox.room < 0
            assert 10 < len(kept) < 100
            for job in kept:
                rig.end(job)

        run(tmp_path, use)
        assert {(one.request.size, len(one.notes)) for one in read_recordings(tmp_path)} == {(0, 1)}

    def test_much_is_handed_over_without_a_pause(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handed: list[list[Part]]
    ) -> None:
        async def use(rig: Rig) -> None:
            await begun_process(rig)
            monkeypatch.setattr(outbox_module, "PAUSE", 1000)
            handed.clear()
            job = rig.begin()
            rig.answer(job, *[b"x" * (1 << 16)] * 17)
            await shortly(lambda: handed)
            assert rig.outbox.size == 0

        run(tmp_path, use)


class TestWritersThatEnd:
    def test_one_that_is_killed(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """What it had begun stays as it is; what it had not been given, and all that follows, is written by threads."""

        async def use(rig: Rig) -> None:
            await begun_process(rig)
            begun = rig.begin()
            rig.answer(begun, b"abc")
            await shortly(lambda: list(tmp_path.glob("*02-*/response.sse")))
            waiting = rig.begin()
            os.kill(rig.process.pid, signal.SIGKILL)
            await shortly(lambda: rig.outbox.process is None)
            begun.receive(b"def")
            rig.end(begun)
            rig.answer(waiting, b"ghi")
            rig.end(waiting)
            rig.whole(b"jkl")
            await shortly(lambda: rig.outbox.thread is not None)

        run(tmp_path, use)
        assert [one.body() for one in read_recordings(tmp_path)] == [b"first", b"abc", b"ghi", b"jkl"]
        assert [one.complete for one in read_recordings(tmp_path)] == [True, False, True, True]
        (line,) = caplog.messages
        assert "the process that writes recordings has ended (signal 9)" in line

    @pytest.mark.parametrize("program", ["raise SystemExit(3)", "import time; time.sleep(100)"])
    def test_one_that_does_not_start_loses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, program: str
    ) -> None:
        (tmp_path / "writer_process.py").write_text(program)
        monkeypatch.setattr(process_module.writer_process, "__file__", str(tmp_path / "writer_process.py"))
        monkeypatch.setattr(process_module, "START_SECONDS", 0.2)

        async def use(rig: Rig) -> None:
            rig.whole(b"abc")
            await shortly(lambda: rig.outbox.thread is not None)

        run(tmp_path / "rec", use)
        assert [one.body() for one in read_recordings(tmp_path / "rec")] == [b"abc"]
        assert not caplog.messages

    @pytest.mark.parametrize("program", ["", "raise SystemExit(3)"])
    def test_the_end_may_come_before_the_process_is_ready(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
    ) -> None:
        if program:
            (tmp_path / "writer_process.py").write_text(program)
            monkeypatch.setattr(process_module.writer_process, "__file__", str(tmp_path / "writer_process.py"))

        async def use(rig: Rig) -> None:
            rig.whole(b"abc")
            await asyncio.sleep(0)

        run(tmp_path / "rec", use)
        assert [one.body() for one in read_recordings(tmp_path / "rec")] == [b"abc"]

    def test_the_end_may_come_before_the_process(self, tmp_path: Path) -> None:
        async def inside() -> None:
            rig = Rig(tmp_path)
            rig.whole(b"abc")
            assert rig.outbox.close(20) is None
            await asyncio.sleep(0.01)
            assert rig.outbox.process is None

        asyncio.run(inside())
        assert [one.body() for one in read_recordings(tmp_path)] == [b"abc"]

    def test_the_end_may_come_before_anything(self, tmp_path: Path) -> None:
        async def use(rig: Rig) -> None:
            pass

        run(tmp_path, use)

    def test_one_that_is_stuck_at_the_end(self, tmp_path: Path) -> None:
        async def inside() -> None:
            rig = Rig(tmp_path)
            await begun_process(rig)
            job = rig.begin()
            await shortly(lambda: len(list(tmp_path.glob("*/flow.json"))) == 2)
            for folder in os.listdir(tmp_path):  # noqa: PTH208
                os.mkfifo(tmp_path / folder / ".flow.json.new")  # whose other end nobody opens
            rig.answer(job, b"abc")
            rig.end(job)
            assert rig.outbox.close(0.1) == 1

        asyncio.run(inside())
