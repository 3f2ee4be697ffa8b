"""The server at the socket: what was recorded comes back as it came, chunk by chunk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.fixtures.replay import replay_of
from mitmproxy_x402.fixtures.server import FixtureServer
from mitmproxy_x402.recording.format import read_recording, read_recordings
from support.recording.recordings import SSE, write_recording
from support.wire import Client, Message, read_message, request

CHUNKS = [(0.1, b"data: {\n"), (0.2, b"\n"), (0.3, b"data: h\xc3"), (0.4, b"\xa9llo\n\ndata: [DONE]\n\n")]
BODY = b"".join(data for _, data in CHUNKS)


class Served:
    """A server in a thread, and clients of it."""

    def __init__(self, folder: Path, running: ExitStack, **options: Any) -> None:
        self.folder, self._running = folder, running
        self.server = FixtureServer(read_recordings(folder), **options)
        self.url = running.enter_context(self.server.run_in_thread())

    def client(self) -> Client:
        return self._running.enter_context(Client("127.0.0.1", int(self.url.rpartition(":")[2])))

    def ask(self, *arguments: Any) -> Message:
        return self.client().ask(request(*arguments))


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class TestBytes:
    def test_each_chunk_comes_as_one(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "r", {}, CHUNKS)
        got = Served(tmp_path, running).ask()
        assert got.chunks == [data for _, data in CHUNKS]

    def test_each_is_a_step_of_its_own_also_where_a_length_frames_it(self, tmp_path: Path) -> None:
        folder = write_recording(tmp_path / "r", {}, CHUNKS, headers=[("Content-Length", str(len(BODY)))])
        head, *steps = replay_of(read_recording(folder), method="POST").steps
        assert head.data.endswith(b"\r\n\r\n")
        assert [(step.seconds, step.data) for step in steps] == CHUNKS

    def test_status_line_and_headers_are_those_recorded(self, tmp_path: Path, running: ExitStack) -> None:
        headers = [
            ("x-ONE", "1"),
            ("Set-Cookie", "a=1"),
            ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
            ("transfer-ENCODING", "chunked"),
            ("Set-Cookie", "b=2"),
            ("X-Latin", "caf\u00e9"),
            ("Connection", "keep-alive"),
            ("Keep-Alive", "timeout=5"),
            ("Empty", ""),
        ]
        write_recording(tmp_path / "r", {}, CHUNKS, status=299, reason="Quite Fine", headers=headers)
        got = Served(tmp_path, running).ask()
        assert got.start == b"HTTP/1.1 299 Quite Fine"
        expected = [pair for pair in headers if pair[0] not in ("Connection", "Keep-Alive")]
        assert got.fields == [(name.encode(), value.encode("latin-1")) for name, value in expected]

    def test_a_length_stays_a_length(self, tmp_path: Path, running: ExitStack) -> None:
        headers = [("Content-Type", "application/json"), ("content-length", str(len(BODY))), ("X-Last", "1")]
        write_recording(tmp_path / "r", {}, CHUNKS, headers=headers)
        got = Served(tmp_path, running).ask()
        assert got.body == BODY
        assert [(name.decode(), value.decode()) for name, value in got.fields] == headers

    @pytest.mark.parametrize("headers", [[], [("Content-Length", "999")]], ids=["none", "a wrong one"])
    def test_without_a_usable_length_it_is_chunked(self, tmp_path: Path, running: ExitStack, headers: Any) -> None:
        """As after HTTP/2, which needs neither a length nor chunks nor a reason."""
        write_recording(tmp_path / "r", {}, CHUNKS, headers=headers, reason="")
        got = Served(tmp_path, running).ask()
        assert got.start == b"HTTP/1.1 200 OK"
        assert got.chunks == [data for _, data in CHUNKS]
        assert got.fields == [(b"Transfer-Encoding", b"chunked")]

    def test_trailers_come_again(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "r", {}, CHUNKS[:1], trailers=[("X-Sum", "1")])
        peer = Served(tmp_path, running).client()
        peer.send(request())
        peer.until(b"\r\n\r\n")
        assert peer.until(b"\r\n\r\n").endswith(b"\r\n0\r\nX-Sum: 1\r\n\r\n")

    def test_compressed_bytes_stay_compressed(self, tmp_path: Path, running: ExitStack) -> None:
        packed = b"\x1f\x8b\x08\x00whatever"
        write_recording(
            tmp_path / "r", {}, [(0, packed[:3]), (0, packed[3:])], headers=[*SSE, ("Content-Encoding", "gzip")]
        )
        got = Served(tmp_path, running).ask()
        assert got.chunks == [packed[:3], packed[3:]]
        assert got.get(b"content-encoding") == b"gzip"

    @pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
    def test_answers_without_a_body(self, tmp_path: Path, running: ExitStack, method: str, status: int) -> None:
        headers = [("Content-Length", "12")] if status != 204 else []
        write_recording(tmp_path / "r", b"", method=method, path="/x", status=status, headers=headers)
        peer = Served(tmp_path, running).client()
        for _ in range(2):
            peer.send(request(method, "/x", b""))
            head = peer.until(b"\r\n\r\n")
            assert head.count(b"\r\n") == 2 + len(headers)
            assert f" {status} ".encode() in head


class TestConnections:
    def test_one_serves_many_requests(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {"n": 1}, CHUNKS)
        write_recording(tmp_path / "b", {"n": 2}, CHUNKS[:1])
        client = Served(tmp_path, running).client()
        assert [client.ask(request(body=b'{"n": %d}' % n)).body for n in (1, 2, 1)] == [BODY, CHUNKS[0][1], BODY]

    def test_requests_sent_at_once_are_answered_in_turn(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {"n": 1}, CHUNKS)
        write_recording(tmp_path / "b", {"n": 2}, CHUNKS[:1])
        client = Served(tmp_path, running).client()
        client.send(request(body=b'{"n": 1}') + request(body=b'{"n": 2}') + request(body=b'{"n": 3}'))
        assert [read_message(client).status for _ in range(3)] == [200, 200, 404]

    def test_a_body_that_comes_in_pieces_and_chunks(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {"n": 1}, CHUNKS)
        client = Served(tmp_path, running).client()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in (head[:20], head[20:], b'4\r\n{"n"\r\n', b"4\r\n: 1}", b"\r\n0\r\n", b"\r\n"):
            client.send(piece)
        assert read_message(client).status == 200

    def test_a_client_that_waits_to_be_told_to_go_on(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {"n": 1}, CHUNKS)
        client = Served(tmp_path, running).client()
        head, _, body = request("POST", "/v1/chat/completions", b'{"n": 1}', "Expect: 100-continue").partition(
            b"\r\n\r\n"
        )
        client.send(head + b"\r\n\r\n")
        assert client.until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
        client.send(body)
        assert read_message(client).status == 200

    def test_an_old_client_gets_everything_until_the_end(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", b"", CHUNKS, method="GET", path="/x")
        client = Served(tmp_path, running).client()
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        head, _, body = client.rest().partition(b"\r\n\r\n")
        assert body == BODY
        assert b"Connection: close" in head
        assert b"ransfer-" not in head

    def test_it_closes_when_asked_to(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {}, CHUNKS)
        client = Served(tmp_path, running).client()
        got = client.ask(request("POST", "/v1/chat/completions", b"{}", "Connection: close"))
        assert (got.body, got.get(b"connection"), client.rest()) == (BODY, b"close", b"")

    def test_what_is_no_http_is_told_so(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {}, CHUNKS)
        client = Served(tmp_path, running).client()
        client.send(b"\x16\x03\x01\x00 hello\r\n\r\n")
        got = read_message(client)
        assert (got.status, json.loads(got.body)["error"]["code"]) == (400, "request_invalid")
        assert client.rest() == b""

    def test_a_client_that_leaves_harms_nobody(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {}, [(n / 20, b"data: x\n\n" * 5000) for n in range(20)])
        served = Served(tmp_path, running, speed=10)
        leaving = served.client()
        leaving.send(request())
        leaving.until(b"data: x")
        leaving.close(reset=True)
        assert len(served.ask().body) == 20 * 45000


class TestWhatEndsEarly:
    def test_it_is_played_up_to_where_it_ended_and_cut(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {}, CHUNKS[:3], state="incomplete")
        client = Served(tmp_path, running).client()
        client.send(request())
        client.until(b"\r\n\r\n")
        assert [client.chunk() for _ in range(3)] == [data for _, data in CHUNKS[:3]]
        assert client.rest() == b""  # and no last chunk

    def test_also_within_an_announced_length(self, tmp_path: Path, running: ExitStack) -> None:
        headers = [("Content-Length", str(len(BODY)))]
        write_recording(tmp_path / "a", {}, CHUNKS[:2], headers=headers, state="open")
        client = Served(tmp_path, running).client()
        client.send(request())
        head, _, body = client.rest().partition(b"\r\n\r\n")
        assert f"Content-Length: {len(BODY)}".encode() in head
        assert body == b"".join(data for _, data in CHUNKS[:2])

    def test_an_answer_that_never_began(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "a", {}, status=None, state="incomplete")
        client = Served(tmp_path, running).client()
        client.send(request())
        assert client.rest() == b""


class TestErrors:
    def test_no_recording_is_a_404_that_says_what_differs(self, tmp_path: Path, running: ExitStack) -> None:
        write_recording(tmp_path / "weather", {"model": "m", "n": 1}, CHUNKS)
        served = Served(tmp_path, running)
        got = served.ask("POST", "/v1/chat/completions", b'{"model": "m", "n": 2}')
        assert (got.status, got.get(b"content-type"), got.get(b"x-should-retry")) == (
            404,
            b"application/json",
            b"false",
        )
        error = json.loads(got.body)
        assert error["type"] == "error"
        assert (error["error"]["type"], error["error"]["code"]) == ("fixture_error", "recording_not_found")
        assert error["error"]["message"] == (
            "No recording matches POST /v1/chat/completions. The nearest is weather: n: asked 2, recorded 1."
        )
        assert [str(miss) for miss in served.server.missed] == [error["error"]["message"]]

    @pytest.mark.parametrize("file", ["request.json", "response.sse"])
    def test_a_recording_that_lost_a_file(self, tmp_path: Path, running: ExitStack, file: str) -> None:
        folder = write_recording(tmp_path / "a", {"n": 1}, CHUNKS)
        served = Served(tmp_path, running)
        (folder / file).unlink()
        got = served.ask("POST", "/v1/chat/completions", b'{"n":1}')
        assert (got.status, json.loads(got.body)["error"]["code"]) == (500, "recording_invalid")
        assert file in json.loads(got.body)["error"]["message"]

    @pytest.mark.parametrize("value", ["a\r\nInjected: 1", "\u20ac"])
    def test_a_header_that_would_break_out(self, tmp_path: Path, running: ExitStack, value: str) -> None:
        write_recording(tmp_path / "a", {}, CHUNKS, headers=[("X-Odd", value)])
        got = Served(tmp_path, running).ask()
        assert (got.status, got.get(b"injected")) == (500, None)
        assert b"'X-Odd'" in got.body


class TestSpeed:
    """Only lower bounds: a machine may be slow, never too fast."""

    SLOW = ((0.1, b"a"), (0.2, b"b"), (0.3, b"c"))

    @pytest.mark.parametrize(("speed", "least"), [(1, 0.3), (3, 0.1)])
    def test_it_takes_the_time_that_was_recorded(
        self, tmp_path: Path, running: ExitStack, speed: float, least: float
    ) -> None:
        write_recording(tmp_path / "a", {}, self.SLOW)
        served = Served(tmp_path, running, speed=speed)
        began = time.monotonic()
        assert served.ask().body == b"abc"
        assert time.monotonic() - began >= least

    def test_at_once(self, tmp_path: Path, running: ExitStack) -> None:
        """Were it to wait, this test would wait for years."""
        write_recording(tmp_path / "a", {}, [(1e8, b"a"), (2e8, b"b")])
        assert Served(tmp_path, running).ask().chunks == [b"a", b"b"]

    def test_it_stops_while_it_waits(self, tmp_path: Path) -> None:
        write_recording(tmp_path / "a", {}, [(0, b"a"), (1e8, b"b")])
        with ExitStack() as inner:
            peer = Served(tmp_path, inner, speed=1).client()
            peer.send(request())
            peer.until(b"a\r\n")
