"""`fixtures show` and `fixtures diff`: whatever the answer came in, a person reads what it says."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

from mitmproxy_x402.fixtures.__main__ import main
from mitmproxy_x402.fixtures.show import sources
from support.recording.recordings import JSON, write_recording

ASKED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "What is it like in Oslo?"}]}


def chat(*deltas: Any, finish: str | None = "tool_calls") -> bytes:
    """A stream of OpenAI's chat completions."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices += [{"index": 0, "delta": {}, "finish_reason": finish}] if finish else []
    lines = [f"data: {json.dumps({**head, 'choices': [choice]}, ensure_ascii=False)}\n\n" for choice in choices]
    return "".join([*lines, "data: [DONE]\n\n" if finish else ""]).encode()


def called(*fragments: str, name: str = "weather") -> list[Any]:
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
    rest = [{"index": 0, "function": {"arguments": fragment}} for fragment in fragments]
    return [{"tool_calls": [call]} for call in (first, *rest)]


STREAM = chat({"role": "assistant", "content": "Let me "}, {"content": "see ☕."}, *called('{"ci', 'ty":"Os', 'lo"}'))
READ = """\
model  m   finished: tool_calls

text
  Let me see ☕.

tool call 1: weather  id call_1
  {
    "city": "Oslo"
  }
"""


def show(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["show", *map(str, arguments)]) == 0
    answer = capsys.readouterr()
    assert answer.err == ""
    return answer.out


def recorded(tmp_path: Path, **more: Any) -> Path:
    chunks = [(0.25, STREAM[:100]), (1.5, STREAM[100:])]
    return write_recording(tmp_path / "all" / "one", ASKED, chunks, end=1.75, **more)


class TestShow:
    def test_a_stream_in_a_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.sse").write_bytes(STREAM)
        assert show(capsys, tmp_path / "a.sse") == READ

    def test_a_compressed_one_that_breaks_off(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.sse").write_bytes(gzip.compress(STREAM))
        assert show(capsys, tmp_path / "a.sse") == READ
        (tmp_path / "a.sse").write_bytes(gzip.compress(STREAM)[:-60])
        assert "not finished" in show(capsys, tmp_path / "a.sse")

    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(STREAM)))
        assert show(capsys, "-") == READ

    def test_standard_input_without_an_end(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        endless = io.BytesIO(STREAM + b": nothing\n\n" * 1000)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(endless))
        monkeypatch.setattr(sources, "MAX_INPUT", len(STREAM))
        assert f"only its first {len(STREAM):,} bytes are read" in show(capsys, "-")
        assert endless.tell() < len(STREAM) + 10

    def test_a_recording_with_all_that_is_known_of_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = recorded(tmp_path)
        heading = (
            "POST /v1/chat/completions  status 200\nfirst byte 0.25 s   end 1.75 s   2 chunks\n"
            "first token 1.50 s   longest pause 0.00 s, before event 6\n"
        )
        for name in (folder, folder.parent, folder / "flow.json", f"{folder.parent}#1"):
            assert show(capsys, name) == heading + READ
        full = show(capsys, folder, "--request", "--chunks")
        assert "-- request\nmodel  m   openai-chat   streamed" in full
        assert "  What is it like in Oslo?\n" in full
        assert "-- answer\n" in full
        assert READ in full
        assert full.endswith(
            "chunks:\n"
            "      1      0.250 s  +0.250      100 B\n"
            f"      2      1.500 s  +1.250  {len(STREAM) - 100:>7,} B\n"
        )

    def test_one_that_is_still_being_written(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        chunks = [(0.25, STREAM[: STREAM.index(b"see") + 20])]
        folder = write_recording(tmp_path / "one", ASKED, chunks, state="open")
        text = show(capsys, folder)
        assert "incomplete  cut\n" in text
        assert "\nmodel  m   not finished\n\ntext\n  Let me \n" in text

    def test_an_answer_that_never_began(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = write_recording(tmp_path / "one", ASKED, status=None, state="incomplete")
        assert show(capsys, folder).startswith("POST /v1/chat/completions  no answer\nincomplete  cut\n")

    def test_several_have_headings(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = recorded(tmp_path)
        write_recording(tmp_path / "all" / "two", {}, [(0, b'{"ok": true}')], headers=JSON, status=404)
        text = show(capsys, f"{folder.parent}#1", f"{folder.parent}#2")
        assert f"== {folder}\nPOST" in text
        assert f"\n\n== {tmp_path / 'all' / 'two'}\nPOST /v1/chat/completions  status 404\n" in text
        assert text.endswith('no answer of a language model\napplication/json, 12 bytes\n  {\n    "ok": true\n  }\n')

    def test_a_request_alone(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = recorded(tmp_path)
        text = show(capsys, folder / "request.json")
        assert text.startswith("a request, no answer\nmodel  m   openai-chat   streamed")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "type unknown, 0 bytes\n"),
            (b"\x00\xff\x01", f"type unknown, 3 bytes\n  000000  {'00 ff 01':<47}  ...\n"),
            (b"plain \x1b[31mtext", "type unknown, 15 bytes\n  plain \\u001b[31mtext\n"),
            (b"x" * 9000, "x…\n"),
        ],
    )
    def test_what_is_no_model_s_answer(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str
    ) -> None:
        (tmp_path / "a").write_bytes(content)
        text = show(capsys, tmp_path / "a")
        assert text.startswith("no answer of a language model\n")
        assert text.endswith(said)
        assert len(text) < 4200

    def test_for_programs(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = recorded(tmp_path)
        document = json.loads(show(capsys, folder, "--json", "--request", "--chunks"))
        assert document["source"] == str(folder)
        assert (document["method"], document["status"], document["state"]) == ("POST", 200, "complete")
        assert (document["first_byte"], document["end"]) == (0.25, 1.75)
        assert document["chunks"] == [[0.25, 100], [1.5, len(STREAM) - 100]]
        answer, request = document["answer"], document["request"]
        assert (answer["dialect"], answer["model"], answer["complete"]) == ("openai-chat", "m", True)
        text, call = answer["items"]
        assert (text["type"], text["text"]) == ("text", "Let me see ☕.")
        assert (call["type"], call["name"], call["parsed"]) == ("tool_call", "weather", {"city": "Oslo"})
        assert request["messages"][0]["parts"][0]["text"] == "What is it like in Oslo?"
        (tmp_path / "a").write_bytes(b"nothing")
        assert json.loads(show(capsys, tmp_path / "a", "--json"))["answer"] is None

    def test_a_terminal_that_lacks_a_character(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.sse").write_bytes(STREAM)
        out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["show", str(tmp_path / "a.sse")]) == 0
        out.seek(0)
        assert "Let me see \\u2615." in out.read()


class TestHar:
    def har(self, tmp_path: Path, *contents: Any) -> Path:
        request = {"method": "POST", "url": "https://a.example/v1/chat/completions?x=1", "headers": []}
        posted = {"mimeType": "application/json", "text": json.dumps(ASKED)}
        entries = [
            {
                "time": 1750,
                "request": {**request, "postData": posted},
                "response": {"status": 200, "content": {"mimeType": "text/event-stream", **content}},
                "timings": {"wait": 250, "receive": 1500},
            }
            for content in contents
        ]
        entries[-1] |= {"_chunks": [[0.25, 7]], "_x402": {"payment": {"amount": "0.01", "state": "settled"}}}
        file = tmp_path / "capture.har"
        file.write_text(json.dumps({"log": {"entries": entries}}))
        return file

    def test_each_entry(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        coded = {"text": base64.b64encode(STREAM).decode(), "encoding": "base64"}
        file = self.har(tmp_path, {"text": STREAM.decode()}, coded, {"text": STREAM.decode()})
        heading = "POST /v1/chat/completions?x=1  status 200\nfirst byte 0.25 s   end 1.75 s\n"
        assert show(capsys, f"{file}#1") == show(capsys, f"{file}#2") == heading + READ
        assert "   1 chunk\npayment  paid 0.01 USDC\n" in show(capsys, f"{file}#3")
        assert show(capsys, file).count(READ) == 3
        assert "What is it like in Oslo?" in show(capsys, f"{file}#2", "--request")

    def test_an_entry_without_an_answer(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "a.har"
        request, response = {"method": "GET", "url": "https://a.example/"}, {"status": 0}
        file.write_text(json.dumps({"log": {"entries": [{"request": request, "response": response, "time": -1}]}}))
        assert show(capsys, file).startswith("GET /  no answer\n")


class TestDiff:
    OTHERS = (
        (chat({"content": "Let me see ☕."}, *called('{"city": "Oslo"}')), []),
        (chat({"content": "Let me see"}, *called('{"city": "Oslo"}')), ["text: "]),
        (chat({"content": "Let me see ☕."}, *called('{"city": "Bergen"}')), ["tool call 1: arguments.city: "]),
        (chat({"content": "Let me see ☕."}, *called('{"city": "Oslo"}', name="rain")), ["tool call 1: name: "]),
        (STREAM[:-16], []),
        (b'{"ok": true}', ["only the first is an answer of a language model"]),
    )

    @pytest.mark.parametrize(("other", "expected"), OTHERS)
    def test_streams(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: bytes, expected: list[str]
    ) -> None:
        (tmp_path / "a.sse").write_bytes(STREAM)
        (tmp_path / "b.sse").write_bytes(other)
        names = [str(tmp_path / "a.sse"), str(tmp_path / "b.sse")]
        assert main(["diff", *names]) == bool(expected)
        lines = capsys.readouterr().out.splitlines()
        assert [line.startswith(part) for line, part in zip(lines, expected, strict=True)] == [True] * len(expected)
        assert main(["diff", *names, "--json"]) == bool(expected)
        assert json.loads(capsys.readouterr().out) == lines

    @pytest.mark.parametrize(
        ("one", "other", "said"),
        [
            (b'{"a": 1, "b": [1, 2]}', b'{"b": [1, 2], "a": 1}', ""),
            (b'{"a": 1, "b": [1, 2]}', b'{"b": [1, 3], "a": 1}', "b[1]: 2 / 3\n"),
            (b"abc", b"abd", "the bytes: from byte 3 on, 3 bytes / 3 bytes\n"),
            (b"abc", b"abcd", "the bytes: from byte 4 on, 3 bytes / 4 bytes\n"),
            (b"", b"", ""),
        ],
    )
    def test_other_bodies(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], one: bytes, other: bytes, said: str
    ) -> None:
        (tmp_path / "a").write_bytes(one)
        (tmp_path / "b").write_bytes(other)
        assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == bool(said)
        assert capsys.readouterr().out == said

    def test_recordings_and_their_status(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        recorded(tmp_path)
        other = write_recording(tmp_path / "two", ASKED, [(9, STREAM)], status=206)
        assert main(["diff", str(tmp_path / "all" / "one"), str(other)]) == 1
        assert capsys.readouterr().out == "status: 200 / 206\n"


MISTAKES = [
    (["show"], 2, "show: the following arguments are required: FILE"),
    (["show", "x", "--pretty"], 2, "show: unrecognized arguments: --pretty"),
    (["show", "nowhere"], 1, "nowhere: cannot be read: No such file or directory"),
    (["show", "nowhere#1"], 1, "nowhere: cannot be read: No such file or directory"),
    (["show", "empty"], 1, "empty: no recordings here"),
    (["show", "bad.har"], 1, "bad.har: is not a HAR file: expected JSON with log.entries"),
    (["show", "odd.har"], 1, "odd.har: is not a HAR file"),
    (["show", "none.har"], 1, "none.har: holds no entries"),
    (["show", "a.sse#2"], 1, "a.sse: has 1 of them, there is no #2"),
    (["diff", "a.sse"], 2, "diff: the following arguments are required: FILE"),
    (["diff", "a.sse", "nowhere"], 2, "nowhere: cannot be read"),
    (["diff", "a.sse", "two.har"], 2, "two.har: holds 2 answers; say which one, as in two.har#2"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), MISTAKES, ids=lambda value: str(value)[:30])
def test_mistakes_are_one_line(  # noqa: PLR0917  (fixtures and parameters)
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    entry = {"request": {"method": "GET", "url": "https://a/"}, "response": {"status": 200}}
    hars: dict[str, Any] = {"odd": {"log": {"entries": [1]}}, "none": {"log": {"entries": []}}}
    for name, content in {**hars, "two": {"log": {"entries": [entry, entry]}}}.items():
        Path(f"{name}.har").write_text(json.dumps(content))
    Path("bad.har").write_text("[")
    Path("a.sse").write_bytes(STREAM)
    Path("empty").mkdir()
    assert main(arguments) == code
    answer = capsys.readouterr()
    assert said in answer.err
    assert (len(answer.err.splitlines()), answer.out) == (1, "")


def test_a_reader_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `fixtures show FILE | head -1`."""
    (tmp_path / "a.sse").write_bytes(STREAM)
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["show", str(tmp_path / "a.sse")]) == 1
        monkeypatch.undo()


@pytest.mark.parametrize("option", [(), ("--json",), ("--html=-",), ("--request",)])
def test_keys_in_the_queries_of_foreign_files_are_not_shown(
    option: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/v1beta/models/m:streamGenerateContent?alt=sse&key=AIzaSECRET"
    body = b'data: {"candidates":[{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}]}\n\n'
    entry = {
        "request": {"method": "POST", "url": f"https://me:SECRET@h{path}", "postData": {"text": "{}"}},
        "response": {"status": 200, "content": {"mimeType": "text/event-stream", "text": body.decode()}},
    }
    har, flows = tmp_path / "a.har", tmp_path / "a.mitm"
    har.write_text(json.dumps({"log": {"entries": [entry]}}))
    flow = tflow.tflow(resp=True)
    flow.request.path = path
    assert flow.response is not None
    flow.response.content, flow.response.headers["content-type"] = body, "text/event-stream"
    with flows.open("wb") as file:
        FlowWriter(file).add(flow)
    for one in (har, flows):
        assert main(["show", str(one), *option]) == 0
        out = capsys.readouterr().out
        assert "alt=sse" in out
        assert "[redacted]" in out
        assert "SECRET" not in out


@pytest.mark.parametrize(
    ("payment", "said"),
    [
        ({"state": "unknown", "network": "base"}, "sent 0.02 USDC base, not confirmed yet"),
        ({"state": "settled", "network": "base", "transaction": "0xab"}, "paid 0.02 USDC base 0xab"),
        ({"state": "settled", "network": "base", "chain": "moved"}, "confirmed 0.02 USDC base"),
        ({"state": "refused", "refused": "over_request_limit"}, "refused 0.02 USDC over_request_limit"),
        ({"state": "rejected", "refused": "over_budget"}, "rejected 0.02 USDC, then refused over_budget"),
    ],
)
def test_what_became_of_the_money(
    payment: dict[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In flow files and HAR files, in the words of mitmweb's list."""
    flow = tflow.tflow(resp=True)
    flow.metadata |= {f"x402.{key}": value for key, value in {**payment, "amount": "0.02"}.items()}
    with (tmp_path / "a.mitm").open("wb") as file:
        FlowWriter(file).add(flow)
    entry: dict[str, Any] = {"request": {"method": "GET", "url": "https://a/"}, "response": {"status": 200}}
    entry["_x402"] = {"payment": {**payment, "amount": "0.02"}}
    (tmp_path / "a.har").write_text(json.dumps({"log": {"entries": [entry]}}))
    for name in ("a.mitm", "a.har"):
        [source] = sources.read_sources(str(tmp_path / name))
        assert (source.paid, source.amount) == (said, "" if payment.get("refused") else "0.02")
        assert f"payment  {said}\n" in show(capsys, str(tmp_path / name))
