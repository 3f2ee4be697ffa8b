"""The formats that others read: HAR, and mitmproxy's own flow files with the body that was streamed."""

from __future__ import annotations

import base64
import gzip
import json
import random
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_x402.recording import har as recorder_har
from mitmproxy_x402.recording.format import RecordedResponse, Recording, read_recording
from mitmproxy_x402.recording.har import HarFiles
from mitmproxy_x402.recording.names import extension
from mitmproxy_x402.recording.writing.files import Folder, OpenFiles
from mitmproxy_x402.views import comment
from support.recording.heads import head
from support.recording.recorded import recording
from support.recording.recording_formats import FlowFile, Redactor, without_body
from support.showing.console import io

SSE = b'data: {"text": "\xe2\x82\xac \\"quoted\\" </script>"}\n\n'
RUN = "20250708T091500.123Z-42"


def made(
    parent: Path, name: str, pieces: list[tuple[float, bytes]], *headers: tuple[str, str], **changes: Any
) -> Recording:
    """A recording of `pieces`, over and on the disk."""
    asked = changes.pop("request_body", b'{"a": "\\u20ac"}')
    response = RecordedResponse(200, "OK", "HTTP/1.1", headers or (("Content-Type", "text/event-stream"),))
    known = recording(Path(), **{"response": response, "notes": (), **changes})
    folder = Folder(str(parent), name, OpenFiles())
    folder.make()
    folder.write_request(extension(known.request.header("content-type")), asked)
    if known.response is not None:
        kind, coding = (known.response.header(name) for name in ("content-type", "content-encoding"))
        folder.begin_response(extension(kind), coding)
        data = [data for _, data in pieces]
        folder.add([seconds for seconds, _ in pieces], list(map(len, data)), b"".join(data))
    folder.close()
    folder.end(head(state=known.state))
    written = read_recording(folder.path)
    request = replace(
        known.request, body=written.request.body, size=written.request.size, sha256=written.request.sha256
    )
    answer = known.response
    if answer is not None and written.response is not None:
        found = written.response
        answer = replace(answer, body=found.body, decoded=found.decoded, size=found.size, sha256=found.sha256)
    return replace(known, folder=folder.path, request=request, response=answer, notes=(*known.notes, *written.notes))


def entries(file: Path) -> list[dict[str, Any]]:
    document = json.loads(file.read_bytes())
    assert (document["log"]["version"], document["log"]["creator"]["name"]) == ("1.2", "mitmproxy-x402")
    found: list[dict[str, Any]] = document["log"]["entries"]
    return found


class TestHar:
    def add(self, folder: Path, one: Recording) -> dict[str, Any]:
        HarFiles(folder, RUN).add(one)
        return entries(folder / f"{RUN}-1.har")[-1]

    def test_an_entry(self, tmp_path: Path) -> None:
        entry = self.add(tmp_path, made(tmp_path, "one", [(0.5, SSE[:13]), (0.75, SSE[13:])]))
        assert entry.pop("_chunks") == [[0.5, 13], [0.75, len(SSE) - 13]]
        payment = {"state": "settled", "amount": "0.0131", "network": "base", "pay_to": "0xaa", "transaction": "0xbb"}
        assert entry.pop("_x402") == {"payment": {**payment, "refused": ""}, "legs": 2}
        assert entry.pop("_resourceType") == "fetch"
        assert entry == {
            "startedDateTime": "2025-07-08T09:15:00.123Z",
            "time": 1250.0,
            "request": {
                "method": "POST",
                "url": "https://h:443/v1/chat?alt=sse&key=[redacted]",
                "httpVersion": "HTTP/1.1",
                "cookies": [],
                "headers": [
                    {"name": "Host", "value": "h"},
                    {"name": "Authorization", "value": "[redacted]"},
                    {"name": "X-Latin", "value": "\xff\x00\x85"},
                ],
                "queryString": [{"name": "alt", "value": "sse"}, {"name": "key", "value": "[redacted]"}],
                "headersSize": -1,
                "bodySize": 15,
                "postData": {"mimeType": "", "params": [], "text": '{"a": "\\u20ac"}'},
            },
            "response": {
                "status": 200,
                "statusText": "OK",
                "httpVersion": "HTTP/1.1",
                "cookies": [],
                "headers": [{"name": "Content-Type", "value": "text/event-stream"}],
                "content": {
                    "size": len(SSE),
                    "compression": 0,
                    "mimeType": "text/event-stream",
                    "text": SSE.decode(),
                },
                "redirectURL": "",
                "headersSize": -1,
                "bodySize": len(SSE),
            },
            "cache": {},
            "timings": {"send": 0, "wait": 500.0, "receive": 750.0},
        }

    @pytest.mark.parametrize("body", [b"\xff\xfe", b"a\0b", SSE[:-4] + b"\xe2\x82", bytes(range(256)) * 1000])
    def test_what_is_no_text_is_base64(self, tmp_path: Path, body: bytes) -> None:
        content = self.add(tmp_path, made(tmp_path, "one", [(0.5, body)]))["response"]["content"]
        assert content["encoding"] == "base64"
        assert base64.b64decode(content["text"]) == body

    def test_long_text_is_copied_in_parts(self, tmp_path: Path) -> None:
        body = SSE * 5000
        content = self.add(tmp_path, made(tmp_path, "one", [(0.5, body)]))["response"]["content"]
        assert content["text"] == body.decode()

    def test_compressed(self, tmp_path: Path) -> None:
        packed = gzip.compress(SSE * 100)
        entry = self.add(tmp_path, made(tmp_path, "one", [(0.5, packed)], ("Content-Encoding", "gzip")))
        content = entry["response"]["content"]
        assert content["text"] == SSE.decode() * 100
        assert (content["size"], content["compression"]) == (len(SSE) * 100, len(SSE) * 100 - len(packed))
        assert entry["response"]["bodySize"] == len(packed)

    def test_no_answer(self, tmp_path: Path) -> None:
        one = made(
            tmp_path, "one", [], response=None, state="incomplete", error="lost \ufdd0", payment=None, request_body=b""
        )
        entry = self.add(tmp_path, one)
        assert (entry["_error"], entry["_chunks"], entry["_x402"]) == ("lost ?", [], {"payment": None, "legs": 2})
        assert entry["response"]["status"] == 0
        assert "postData" not in entry["request"]

    def test_whole_at_every_moment_and_in_order(self, tmp_path: Path) -> None:
        hars = HarFiles(tmp_path, RUN)
        for number in range(5):
            hars.add(made(tmp_path, str(number), [(0.5, b"%d" % number)]))
            found = entries(tmp_path / f"{RUN}-1.har")
            assert [entry["response"]["content"]["text"] for entry in found] == [str(n) for n in range(number + 1)]
        assert (tmp_path / f"{RUN}-1.har").stat().st_mode & 0o777 == 0o600

    def test_beyond_a_size_there_is_a_new_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder_har, "MAX_FILE", 3000)
        hars = HarFiles(tmp_path, RUN)
        for number in range(7):
            hars.add(made(tmp_path, str(number), [(0.5, b"x" * 500)]))
        files = sorted(tmp_path.glob("*.har"))
        assert sum(len(entries(file)) for file in files) == 7
        assert len(files) > 1
        assert all(file.stat().st_size < 6000 for file in files)

    def test_what_fails_leaves_the_file_as_it_was(self, tmp_path: Path) -> None:
        hars = HarFiles(tmp_path, RUN)
        hars.add(made(tmp_path, "one", [(0.5, b"1")]))
        bad = made(tmp_path, "two", [(0.5, b"2")])
        (bad.folder / "response.sse").unlink()
        with pytest.raises(FileNotFoundError):
            hars.add(bad)
        assert len(entries(tmp_path / f"{RUN}-1.har")) == 1
        assert [file.name for file in tmp_path.iterdir() if file.is_file()] == [f"{RUN}-1.har"]

    def test_mitmproxy_reads_it(self, tmp_path: Path) -> None:
        for name, body in (("one", SSE), ("two", b"\xff\0")):
            self.add(tmp_path, made(tmp_path, name, [(0.5, body)]))
        with (tmp_path / f"{RUN}-1.har").open("rb") as file:
            flows = [flow for flow in io.FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]
        assert [flow.response.content for flow in flows if flow.response] == [SSE, b"\xff\0"]
        assert [flow.request.text for flow in flows] == ['{"a": "\\u20ac"}'] * 2


class TestMitm:
    def flow(self, *, answered: bool = True) -> http.HTTPFlow:
        flow = tflow.tflow(resp=answered, err=not answered)
        flow.request.headers["authorization"] = "Bearer sk-secret"
        flow.request.path = "/v1/x?key=sk-secret"
        flow.comment = "0.0131 USDC"
        challenge = {
            "status": 402,
            "headers": [["Set-Cookie", "a=sk-secret"], ["PAYMENT-REQUIRED", "e30="]],
            "body": b"{}",
        }
        flow.metadata |= {"x402.state": "settled", "x402.cut": "cut at 4 MB", "x402.challenge": challenge}
        if flow.response is not None:
            flow.response.headers["set-cookie"] = "a=sk-secret"
            flow.response.headers["content-encoding"] = "gzip"
            flow.response.raw_content = b"only the first of it"
        if flow.error is not None:
            flow.error.msg = "lost the-client-token"
        flow.backup()
        return flow

    def file(self, folder: Path) -> FlowFile:
        return FlowFile(folder, RUN, Redactor("the-client-token"))

    def read(self, folder: Path) -> list[http.HTTPFlow]:
        content = (folder / f"{RUN}.mitm").read_bytes()
        assert b"sk-secret" not in content
        assert b"the-client-token" not in content
        found = list(io.FlowReader(BytesIO(content)).stream())
        assert all(isinstance(flow, http.HTTPFlow) for flow in found)
        return [flow for flow in found if isinstance(flow, http.HTTPFlow)]

    @pytest.mark.parametrize("size", [0, 1, 9, 10, 1_000_000])
    def test_a_flow_with_its_body(self, tmp_path: Path, size: int) -> None:
        body = gzip.compress(random.Random(1).randbytes(size)) if size else b""
        flow = self.flow()
        state = dict(flow.get_state())
        one = made(tmp_path, "one", [(0.5, body)] if body else [(0.5, b"")])
        self.file(tmp_path).add(state, one)
        (found,) = self.read(tmp_path)
        assert found.response is not None
        assert found.response.raw_content == body
        assert found.id == flow.id
        assert found.comment == "0.0131 USDC"
        assert found.request.headers["authorization"] == found.response.headers["set-cookie"] == "[redacted]"
        assert found.request.path == "/v1/x?key=[redacted]"
        assert found.request.content == flow.request.content
        assert found.metadata["x402.state"] == "settled"
        assert found.metadata["x402.challenge"]["headers"] == [
            ["Set-Cookie", "[redacted]"],
            ["PAYMENT-REQUIRED", "e30="],
        ]
        assert "x402.cut" not in found.metadata
        assert not found.modified()
        if size:
            assert len(found.response.content or b"") == size

    @pytest.mark.parametrize("own", ["", "mine"])
    def test_comment_and_mark_are_those_of_the_list(self, tmp_path: Path, own: str) -> None:
        flow = self.flow()
        flow.metadata |= {"x402.amount": "0.013081", "x402.network": "base", "x402.transaction": "0x5d1ae3aa"}
        flow.comment, flow.marked = own, own and ":cat:"
        assert flow.response is not None
        del flow.response.headers["content-encoding"]
        flow.response.headers["content-type"] = "text/event-stream"
        flow.request.timestamp_start, flow.response.timestamp_start = 1.0, 1.5
        end = b'"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":"stop"}],"usage":{"total_tokens":812}'
        body = b'data: {"object":"chat.completion.chunk",' + end + b"}\n\ndata: [DONE]\n\n"
        self.file(tmp_path).add(dict(flow.get_state()), made(tmp_path, "one", [(0.5, body)]))
        (found,) = self.read(tmp_path)
        line = "paid 0.0131 USDC base 0x5d1ae3… · 812 tok · first byte 0.5 s"
        assert (found.comment, found.marked) == (("mine", ":cat:") if own else (line, ":green_circle:"))

    def test_what_the_list_has_already_is_read_on(self, tmp_path: Path) -> None:
        flow = self.flow()
        assert flow.response is not None
        flow.response.headers = http.Headers(content_type="text/event-stream")
        flow.comment = comment.of(flow)
        assert "body cut" in flow.comment
        body = b'data: {"choices":[],"object":"chat.completion.chunk","usage":{"total_tokens":812}}\n\n'
        self.file(tmp_path).add(dict(flow.get_state()), made(tmp_path, "one", [(0.5, body)]))
        (found,) = self.read(tmp_path)
        assert " · 812 tok · " in found.comment
        assert "body cut" not in found.comment

    def test_the_state_that_was_given_stays_as_it_is(self, tmp_path: Path) -> None:
        state = dict(self.flow().get_state())
        before = repr(state)
        self.file(tmp_path).add(state, made(tmp_path, "one", [(0.5, b"x")]))
        assert repr(state) == before

    def test_one_after_the_other_with_and_without_an_answer(self, tmp_path: Path) -> None:
        file = self.file(tmp_path)
        for number in range(4):
            answered = number % 2 == 0
            response = RecordedResponse(200, "OK", "HTTP/1.1", ()) if answered else None
            one = made(tmp_path, str(number), [(0.5, b"%d" % number)], response=response)
            file.add(dict(self.flow(answered=answered).get_state()), one)
        found = self.read(tmp_path)
        assert [None if flow.response is None else flow.response.raw_content for flow in found] == [
            b"0",
            None,
            b"2",
            None,
        ]
        assert [flow.error and flow.error.msg for flow in found][1] == "lost [redacted]"
        assert (tmp_path / f"{RUN}.mitm").stat().st_mode & 0o777 == 0o600

    def test_what_fails_adds_nothing(self, tmp_path: Path) -> None:
        file = self.file(tmp_path)
        state = dict(self.flow().get_state())
        file.add(state, made(tmp_path, "one", [(0.5, b"1")]))
        bad = made(tmp_path, "two", [(0.5, b"2")])
        (bad.folder / "response.sse").unlink()
        with pytest.raises(FileNotFoundError):
            file.add(state, bad)
        file.add(state, replace(bad, response=None))
        assert len(self.read(tmp_path)) == 2

    def test_a_flow_to_be_filtered(self, tmp_path: Path) -> None:
        flow = without_body(dict(self.flow().get_state()), made(tmp_path, "one", [(0.5, b"a needle")]))
        assert flow.response is not None
        assert (flow.request.raw_content, flow.response.raw_content) == (None, None)
