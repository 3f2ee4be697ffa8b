"""`show` beyond one answer: its events, a page, a list of many, one that still grows; and requests compared."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.fixtures.__main__ import main
from mitmproxy_x402.fixtures.show.colour import Paint
from mitmproxy_x402.fixtures.show.following import follow
from mitmproxy_x402.recording.format import RecordingError
from support.patience import eventually

RECORDINGS = Path(__file__).parents[1] / "recordings"


def show(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["show", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_each_event_says_when_it_came_and_what_it_added(capsys: pytest.CaptureFixture[str]) -> None:
    out = show(capsys, RECORDINGS / "chat-tool", "--events")
    lines = out.partition("events:\n")[2].splitlines()
    (document,) = map(json.loads, show(capsys, RECORDINGS / "chat-tool", "--events", "--json").splitlines())
    assert len(lines) >= len(document["events"]) == document["answer"]["events"]
    chunks = (RECORDINGS / "chat-tool" / "chunks.jsonl").read_text().splitlines()
    times = {json.loads(line)[0] for line in chunks}
    assert {event["seconds"] for event in document["events"]} <= times
    fragments = [
        added["text"] for event in document["events"] for added in event["added"] if added["what"] == "arguments"
    ]
    assert "".join(fragments) == document["answer"]["items"][0]["arguments"]
    assert fragments[1] in out


def test_a_compressed_answer_has_times_too(capsys: pytest.CaptureFixture[str]) -> None:
    (document,) = map(json.loads, show(capsys, RECORDINGS / "messages-gzip", "--events", "--json").splitlines())
    seconds = [event["seconds"] for event in document["events"]]
    assert None not in seconds
    assert seconds == sorted(seconds)
    assert len(set(seconds)) > 3


def test_speed_and_price(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = shutil.copytree(RECORDINGS / "chat-tool", tmp_path / "one")
    head = json.loads((folder / "flow.json").read_text())
    head["payment"] = {
        "state": "settled",
        "amount": "0.0141",
        "network": "",
        "pay_to": "",
        "transaction": "",
        "refused": "",
    }
    (folder / "flow.json").write_text(json.dumps(head))
    (document,) = map(json.loads, show(capsys, folder, "--json").splitlines())
    measures = document["measures"]
    assert measures["first_token"] > document["first_byte"]
    assert measures["tokens_per_second"] > 0
    assert measures["longest_pause"] > 0
    assert measures["dollars_per_thousand"] == "0.1"  # 141 tokens
    assert "0.100000 USD per thousand tokens" in show(capsys, folder)


def test_a_body_alone_has_no_times(capsys: pytest.CaptureFixture[str]) -> None:
    out = show(capsys, RECORDINGS / "chat-tool" / "response.sse", "--events")
    assert " s " not in out.partition("events:\n")[2]
    assert "first token" not in out


class Page(HTMLParser):
    """What a browser would fetch, and what is open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_needs_nothing_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    show(capsys, RECORDINGS / "chat-tool-without-arguments", "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.fetched == []
    assert "script" not in page.tags
    assert {"details", "svg", "rect"} <= set(page.tags)
    assert "url(" not in text
    assert "get_weather at /city: is missing" in page.text
    assert "prefers-color-scheme: dark" in text


def test_broken_arguments_are_marked_in_the_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ['{"city": ', '"Bern", ', "unit}"]
    chunks = [call(text, n) for n, text in enumerate(arguments)]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, finish()]) + "data: [DONE]\n\n"
    (tmp_path / "broken.sse").write_text(body)
    page = Page(show(capsys, tmp_path / "broken.sse", "--html", "-"))
    assert "mark" in page.tags
    assert "in event 3" in page.text


def test_what_does_not_fit_is_marked_where_it_stands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"a/b": {"items": {"type": "integer"}}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]
    folder = shutil.copytree(RECORDINGS / "chat-text", tmp_path / "one")
    (folder / "request.json").write_text(json.dumps({"model": "m", "messages": [], "tools": tools}))
    body = "".join(f"data: {json.dumps(one)}\n\n" for one in (call('{"a/b": [1, "two"]}', 0), finish()))
    (folder / "response.sse").write_text(body + "data: [DONE]\n\n")
    (folder / "chunks.jsonl").write_text(f"[0.1, {len(body) + 14}]\n")
    page = Page(show(capsys, folder, "--html", "-"))
    assert '1: "two" ← is "two" (text), and must be integer' in page.text
    assert "/city is missing" in page.text


def call(text: str, number: int) -> dict[str, Any]:
    function = {"arguments": text, **({"name": "weather"} if number == 0 else {})}
    part = {"index": 0, "function": function, **({"id": "call_1", "type": "function"} if number == 0 else {})}
    return chunk({"tool_calls": [part]})


def finish() -> dict[str, Any]:
    return chunk({}, "tool_calls")


def chunk(delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def test_nothing_of_strangers_is_markup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202e"
    body = f"data: {json.dumps(chunk({'content': evil}))}\n\ndata: {json.dumps(chunk({}, 'stop'))}\n\ndata: [DONE]\n\n"
    (tmp_path / "evil.sse").write_text(body)
    text = show(capsys, tmp_path / "evil.sse", "--html", "-")
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "\u202e" not in text


def talk(folder: Path, name: str, messages: list[dict[str, str]], model: str = "sandbox-1") -> None:
    """A recording whose request has these messages."""
    copy = shutil.copytree(RECORDINGS / "chat-text", folder / name)
    request = {"model": model, "messages": messages, "stream": True}
    (copy / "request.json").write_text(json.dumps(request))


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    first, second = {"role": "user", "content": "One?"}, {"role": "user", "content": "Other?"}
    answer, more = {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "Sure?"}
    talk(tmp_path, "1", [first])
    talk(tmp_path, "2", [second])
    talk(tmp_path, "3", [first, answer, more])
    talk(tmp_path, "4", [first, answer, more, answer, first])
    return tmp_path


def test_a_folder_is_a_list_with_its_conversations_together(capsys: pytest.CaptureFixture[str], talks: Path) -> None:
    lines = show(capsys, talks).splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [["1", "1.1"], ["3", "1.2"], ["4", "1.3"], ["2", "2.1"]]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("tool:get_*", {"get_weather"}),
        ("model:sandbox-parallel", {"sandbox-parallel"}),
        ("irregular tool:search", {"sandbox-parallel"}),
    ],
)
def test_a_filter(capsys: pytest.CaptureFixture[str], words: str, names: set[str]) -> None:
    lines = show(capsys, RECORDINGS, "--filter", words).splitlines()[1:]
    assert 0 < len(lines) < len(list(RECORDINGS.iterdir()))
    assert all(any(name in line for name in names) for line in lines)


def test_a_filter_that_means_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(RECORDINGS), "--filter", "colour:red"]) == 1
    assert "expected some of model:NAME tool:NAME" in capsys.readouterr().err


def test_what_was_asked_differently(capsys: pytest.CaptureFixture[str], talks: Path) -> None:
    assert main(["diff", str(talks / "1"), str(talks / "2"), "--request"]) == 1
    assert re.search(r"messages\[0\]\.content: .*One\?.* / .*Other\?", capsys.readouterr().out)
    assert main(["diff", str(talks / "1"), str(talks / "1"), "--request"]) == 0


def test_a_recording_that_grows_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(RECORDINGS / "chat-text", tmp_path / "growing")
    whole, head = (folder / "response.sse").read_bytes(), json.loads((folder / "flow.json").read_text())
    half = whole.index(b"\n\n", len(whole) // 2) + 2

    def write(state: str, body: bytes) -> None:
        (folder / "response.sse").write_bytes(body)
        (folder / "flow.json").write_text(json.dumps({**head, "state": state}))

    write("open", whole[:half])
    follower = threading.Thread(target=main, args=(["show", str(folder), "--follow"],))
    follower.start()
    seen = [""]

    def shown() -> bool:
        seen[0] += capsys.readouterr().out
        return seen[0].count("\n") >= whole[:half].count(b"data: {")

    eventually(shown)
    assert follower.is_alive()
    write("complete", whole)
    follower.join(30)
    assert not follower.is_alive()
    seen[0] += capsys.readouterr().out
    assert seen[0].count("chat.completion.chunk") == whole.count(b"data: {")


def test_a_compressed_recording_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While it comes in, it is on the disk as it was sent only."""
    folder = shutil.copytree(RECORDINGS / "chat-gzip", tmp_path / "growing")
    decoded, sent = (folder / "response.decoded.sse").read_bytes(), (folder / "response.sse").read_bytes()
    text = (folder / "flow.json").read_text()
    open_head = json.loads(text)
    open_head["state"], open_head["response"]["decoded"] = "open", None
    (folder / "flow.json").write_text(json.dumps(open_head))
    (folder / "response.sse").write_bytes(sent[: len(sent) // 2])
    follower = threading.Thread(target=main, args=(["show", str(folder), "--follow"],))
    follower.start()
    seen = [""]

    def shown() -> int:
        seen[0] += capsys.readouterr().out
        return seen[0].count("chat.completion.chunk")

    eventually(lambda: shown() > 1)
    assert shown() < decoded.count(b"data: {")
    (folder / "response.sse").write_bytes(sent)
    (folder / "flow.json").write_text(text)
    follower.join(30)
    assert not follower.is_alive()
    assert shown() == decoded.count(b"data: {")


def test_no_colour_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\x1b" not in show(capsys, RECORDINGS / "chat-tool", "--events")


def test_what_can_be_followed_in_a_folder_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("2026-01-01-a", "2026-01-02-b"):
        shutil.copytree(RECORDINGS / "chat-gzip", tmp_path / name)
    assert main(["show", str(tmp_path), "--follow"]) == 1
    assert f"such as the newest in it, {tmp_path / '2026-01-02-b'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "said"),
    [("[]", "the whole: expected a JSON object"), ('{"form', "not valid JSON"), (None, "no such file or directory")],
)
def test_a_damaged_recording_is_not_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str | None, said: str
) -> None:
    """Also one that goes away meanwhile, which is what the first line that is printed does here."""
    folder = shutil.copytree(RECORDINGS / "chat-text", tmp_path / "one")
    whole = json.loads((folder / "flow.json").read_text())
    (folder / "flow.json").write_text(json.dumps({**whole, "state": "open"}) if head is None else head)
    with pytest.raises(RecordingError, match=re.compile(said, re.IGNORECASE)):
        follow(folder, lambda _: shutil.rmtree(folder, ignore_errors=True), Paint())


def test_a_recording_to_which_nothing_comes_says_so_once(tmp_path: Path) -> None:
    folder = shutil.copytree(RECORDINGS / "chat-text", tmp_path / "killed")
    head = folder / "flow.json"
    text = head.read_text()
    head.write_text(json.dumps({**json.loads(text), "state": "open"}))
    for file in folder.iterdir():
        os.utime(file, (1_700_000_000, 1_700_000_000))
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "nothing has come" in line:
            head.write_text(text)

    follow(folder, say, Paint())
    quiet = "  nothing has come since 2023-11-14 22:13:20 UTC; if the proxy was killed, nothing will: Ctrl-C ends\n"
    assert said.count(quiet) == 1
    assert len(said) > 2


def test_a_body_that_is_no_text_is_shown_as_bytes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "answer.bin"
    file.write_bytes(b"\xff\x00AZ~\x7f\x1b[2J" + b"\xfe" * 5000)
    text = show(capsys, file)
    assert "  000000  ff 00 41 5a 7e 7f 1b 5b 32 4a fe fe fe fe fe fe  ..AZ~..[2J......\n" in text
    assert text.endswith("  … and 2,962 bytes more\n")
    assert "\x1b" not in text


def test_times_of_chunks_may_be_written_without_spaces(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spaced, tight = (shutil.copytree(RECORDINGS / "chat-tool", tmp_path / name / "chat-tool") for name in "ab")
    file = tight / "chunks.jsonl"
    file.write_text(file.read_text().replace(", ", ","))
    assert show(capsys, tight, "--chunks") == show(capsys, spaced, "--chunks")
