"""Filters that are decided at the end of a flow, above all those that search bodies."""

from __future__ import annotations

import gzip
import logging
import re
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.test import tflow

from mitmproxy_x402.recording.format import RecordedRequest, RecordedResponse, Recording, read_recordings
from mitmproxy_x402.recording.writing import search
from mitmproxy_x402.recording.writing.search import Body, CannotTell, Searcher
from support.changer import set_options
from support.patience import eventually
from support.recording.recorders import Recorded, answering
from support.recording.recording_formats import Filter
from support.wire import request

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what mitmproxy's filters call

LIMIT = 1 << 20
SLOW = rb"(a|aa)+$"
"""Takes twice as long for each further letter that it is tried on."""


def bomb(size: int, *, before: bytes = b"", after: bytes = b"") -> bytes:
    return gzip.compress(before + bytes(size) + after)


def recorded(folder: Path, asked: bytes = b"content", body: bytes = b"a needle", coding: str = "") -> Recording:
    headers = (("Content-Encoding", coding),) if coding else ()
    (folder / "request.json").write_bytes(asked)
    (folder / "response.sse").write_bytes(body)
    return Recording(
        folder,
        *("id", "2026-01-01T00:00:00.000Z", "complete", None),
        RecordedRequest("POST", "/path", "HTTP/1.1", headers, body="request.json"),
        RecordedResponse(200, "OK", "HTTP/1.1", (), body="response.sse"),
    )


def state() -> dict[str, Any]:
    flow: Any = tflow.tflow(resp=True)
    flow.comment = "0.0131 USDC"
    flow.metadata["x402.state"] = "unknown"
    return dict(flow.get_state())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("~bs message & ~u /path", False),
        ("~bs needle", True),
        ("~bs NEEDLE | ~u /path", True),
        ("! ~bs needle", False),
        ("~b needle", True),
        ("~b content", True),
        ("~bs content", False),
        ("~bq content", True),
        ("~bq needle", False),
        ("~comment USDC", True),
        ("! ~comment USDC", False),
        ('~meta "x402.state: unknown"', True),
        ('~meta "x402.state: settled"', False),
    ],
)
def test_what_a_filter_says_at_the_end(tmp_path: Path, text: str, wanted: bool) -> None:
    assert Filter(text).wants(state(), recorded(tmp_path)) is wanted


def test_a_request_is_searched_decoded_and_an_answer_as_it_was_decoded(tmp_path: Path) -> None:
    one = recorded(tmp_path, gzip.compress(b"content"), gzip.compress(b"a needle"), "gzip")
    assert Filter("~bq ^content$").wants(state(), one)
    assert not Filter("~bs needle").wants(state(), one)
    assert one.response is not None
    (tmp_path / "response.decoded.sse").write_bytes(b"a needle")
    assert Filter("~bs needle").wants(
        state(), replace(one, response=replace(one.response, decoded="response.decoded.sse"))
    )
    assert not Filter("~b needle").wants(state(), replace(one, response=None))


@pytest.mark.parametrize("body", ["a body that is gone", "a search that takes too long"])
def test_what_cannot_be_told_is_recorded(
    tmp_path: Path, body: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(search, "PATIENCE", 1)
    one, chosen = recorded(tmp_path, body=b"a" * 100 + b"b"), Filter(f"~bs '{SLOW.decode()}'")
    if body == "a body that is gone":
        (tmp_path / "response.sse").unlink()
    with caplog.at_level(logging.WARNING):
        assert chosen.wants(state(), one)
        assert chosen.wants(state(), one)
    (said,) = [record.getMessage() for record in caplog.records if "x402_dump_filter" in record.getMessage()]
    assert "what it could not tell is recorded" in said


class TestSearching:
    @pytest.fixture
    def searcher(self) -> Any:
        searcher = Searcher()
        yield searcher
        searcher.close()

    def holds(self, searcher: Searcher, folder: Path, content: bytes, coding: str = "gzip") -> bool:
        (folder / "body").write_bytes(content)
        return searcher.holds(re.compile(b"needle"), [Body(str(folder / "body"), coding)], LIMIT)

    def test_up_to_its_limit(self, searcher: Searcher, tmp_path: Path) -> None:
        for at, expected in ((LIMIT - 6, True), (LIMIT, False)):
            content = bytes(at) + b"needle"
            assert self.holds(searcher, tmp_path, content, "") is expected
            assert self.holds(searcher, tmp_path, gzip.compress(content)) is expected

    def test_what_unfolds_too_far(self, searcher: Searcher, tmp_path: Path) -> None:
        for before, expected in ((b"needle", True), (b"", False)):
            assert self.holds(searcher, tmp_path, bomb(50_000_000, before=before, after=b"needle")) is expected

    def test_what_cannot_be_decoded_is_searched_as_it_is(self, searcher: Searcher, tmp_path: Path) -> None:
        for coding in ("gzip", "br, gzip", "nonsense"):
            assert self.holds(searcher, tmp_path, b"a needle", coding)
        assert self.holds(searcher, tmp_path, gzip.compress(b"a needle" * 1000)[:-9])
        assert not self.holds(searcher, tmp_path, b"", "gzip")

    def test_no_thread_waits_for_a_search(self, tmp_path: Path) -> None:
        searcher, found = Searcher(patience=600), []

        def run() -> None:
            try:
                searcher.holds(re.compile(SLOW), [Body(str(tmp_path / "body"))], LIMIT)
            except CannotTell as error:
                found.append(error)

        (tmp_path / "body").write_bytes(b"a" * 100 + b"b")
        thread = threading.Thread(target=run)
        thread.start()
        eventually(lambda: searcher.process is not None)
        assert searcher.process is not None
        searcher.process.kill()
        thread.join(60)
        assert len(found) == 1
        assert self.holds(searcher, tmp_path, b"a needle", "")
        searcher.close()

    def test_where_no_process_can_be_started(
        self, searcher: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.executable", "")
        assert self.holds(searcher, tmp_path, gzip.compress(b"a needle"))
        assert searcher.process is None

    def test_the_process_ends_with_its_owner(self, tmp_path: Path) -> None:
        searcher = Searcher()
        assert self.holds(searcher, tmp_path, b"a needle", "")
        process = searcher.process
        assert process is not None
        del searcher
        assert process.poll() is not None


def memory(rig: Recorded) -> int:
    """The most memory that the proxy has had, in bytes."""
    status = Path(f"/proc/{rig.proxy.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def test_a_proxy_unfolds_no_body_to_search_it(rig: Recorded) -> None:
    """A body of some KB, in answer or request, that unfolds to 60 MB, below the bound of a thousandfold."""
    noise = zlib.compressobj(9, zlib.DEFLATED, 31)
    seed = b"".join(bytes([n * 7 % 251, n * 13 % 241]) for n in range(30))
    parts = [noise.compress(b"a" * 499_000 + bytes(byte ^ n & 255 for byte in seed) * 4) for n in range(120)]
    content = b"".join(parts) + noise.flush()
    rig.fresh(answering(content, b"Content-Type: text/plain", b"Content-Encoding: gzip"))
    with rig.client() as client:
        assert client.ask(request("POST", "/before", b"{}")).status == 200
    rig.catch_up()
    before = memory(rig)
    for text in ("~bs zzz", "~bq zzz"):
        assert set_options(rig.proxy, f"x402_dump_filter={text}") == "taken"
        with rig.client() as client:
            answer = client.ask(request("POST", "/bomb", content, "Content-Encoding: gzip"))
            assert answer.status == 200
        assert set_options(rig.proxy, "x402_dump_filter=") == "taken"
        rig.catch_up_with_all()
    assert "/bomb" not in [one.request.path for one in read_recordings(rig.folder)]
    assert memory(rig) - before < 40 << 20
