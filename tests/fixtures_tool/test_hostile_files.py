"""`show` and `diff` of strangers' files: nothing steers the terminal or the page, fails, or leads elsewhere."""

from __future__ import annotations

import io as memory
import json
import os
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow, tutils

from mitmproxy_x402.fixtures.__main__ import main
from support.showing.console import io

EVIL = "\x1b]0;x\x07\x9b2J\u202e</pre></style><script>alert(1)</script>\"'<img src=x onerror=alert(1)>"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
RECORDINGS = Path(__file__).parents[1] / "recordings"
GOOD = b'data: {"choices":[{"index":0,"delta":{"content":"alpha"},"finish_reason":"stop"}]}\n\n'
Printed = pytest.CaptureFixture[str]


def events(*values: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


ANSWER = b"event: " + EVIL.encode() + b"\n" + events(
    {"model": EVIL, "id": EVIL, "choices": [{"index": 0, "delta": {"role": EVIL, "content": EVIL, "reasoning": EVIL}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [
        {"index": 0, "id": EVIL, "function": {"name": EVIL, "arguments": json.dumps({EVIL: EVIL})[:-1] + EVIL}}]}}]},
    {"choices": [{"index": 0, "finish_reason": EVIL, "delta": {
        "annotations": [{"type": EVIL, "url": "javascript:alert(1)" + EVIL, "title": EVIL}],
        "images": [{"type": EVIL, "image_url": {"url": f"data:image/png{EVIL};base64,AAAA"}}]}}]},
    {"type": EVIL, "object": EVIL},
    {"error": {"type": EVIL, "message": EVIL, "metadata": {EVIL: {EVIL: EVIL}}}},
)  # fmt: skip
ASKED = {
    "model": EVIL,
    "messages": [{"role": EVIL, "content": EVIL}],
    "tools": [{"type": "function", "function": {
        "name": EVIL, "description": EVIL, "parameters": {"type": "object", "properties": {EVIL: {"type": EVIL}}}}}],
}  # fmt: skip


def entry(**more: Any) -> dict[str, Any]:
    return {
        "time": 100,
        "timings": {"wait": 5},
        "request": {
            "method": EVIL,
            "url": "http://a/v1/chat/completions" + EVIL,
            "postData": {"mimeType": "application/json", "text": json.dumps(ASKED)},
        },
        "response": {"status": 200, "content": {"mimeType": "text/event-stream", "text": ANSWER.decode()}},
        "_error": EVIL,
        "_x402": {"payment": {"amount": EVIL, "network": EVIL, "state": EVIL, "transaction": EVIL}},
        **more,
    }


def har(place: Path, *entries: Any) -> Path:
    place.write_text(json.dumps({"log": {"entries": entries}}))
    return place


WAYS = (
    ["show", "--request", "--chunks", "--events"],
    ["show", "--json", "--events", "--request"],
    ["show", "--html", "-"],
    ["show", "--filter", "failed"],
)


class Page(HTMLParser):
    """Every tag and attribute that a browser sees."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def recording(place: Path, **response: Any) -> Path:
    shutil.copytree(RECORDINGS / "chat-tool", place)
    head = json.loads((place / "flow.json").read_text())
    head["response"] |= response
    (place / "flow.json").write_text(json.dumps(head))
    return place


@pytest.fixture
def evil(tmp_path: Path) -> list[Path]:
    """Files with it at every place, and under such a name."""
    body = tmp_path / "evil.sse"
    body.write_bytes(ANSWER)
    named = recording(tmp_path / "recording")
    head = json.loads((named / "flow.json").read_text())
    head |= {"state": EVIL, "error": EVIL, "notes": [EVIL, 1, None]}
    head["request"] |= {"method": EVIL, "path": EVIL}
    head["payment"] = {"state": EVIL, "amount": EVIL, "network": EVIL, "pay_to": EVIL, "transaction": EVIL}
    (named / "flow.json").write_text(json.dumps(head))
    other = tmp_path / "na\x1b]0;x\x07me.sse"
    other.write_bytes(GOOD)
    broken = tmp_path / "br\x1b[2Joken.har"
    broken.write_bytes(b"{")
    return [body, har(tmp_path / "evil.har", entry(), entry()), named, other, broken, tmp_path / "no\x1b[2Jne"]


def test_nothing_steers_the_terminal_or_the_page(evil: list[Path], capsys: Printed) -> None:
    for path in evil:
        for verb, *options in WAYS:
            assert main([verb, str(path), *options]) in (0, 1)
            printed = capsys.readouterr()
            assert not UNSAFE.search(printed.out + printed.err)
            if "--html" in options:
                page = Page()
                page.feed(printed.out)
                assert not page.tags & {"script", "img", "a", "iframe", "link"}
                assert not any(name.startswith("on") for name in page.attributes)
            if "--json" in options:
                documents = [json.loads(line) for line in printed.out.splitlines()]
                assert all("events" in document for document in documents)
        for other in evil:
            for options in ([], ["--request"], ["--request", "--json"]):
                assert main(["diff", str(path), str(other), *options]) in (0, 1, 2)
                printed = capsys.readouterr()
                assert not UNSAFE.search(printed.out + printed.err)


def test_a_page_may_load_and_run_nothing(evil: list[Path], capsys: Printed) -> None:
    assert main(["show", str(evil[0]), "--html", "-"]) == 0
    assert "default-src 'none'; style-src 'unsafe-inline'" in capsys.readouterr().out


@pytest.mark.parametrize(
    "value", [None, 0, -1, [], {}, "x", True, 1e308, float("inf"), float("nan"), "1e999999", 10**400]
)
def test_any_value_at_any_place_of_a_har_file(tmp_path: Path, capsys: Printed, value: Any) -> None:
    def at(*way: str) -> dict[str, Any]:
        made = place = entry()
        for step in way[:-1]:
            place = place[step]
        place[way[-1]] = value
        return made

    files = [
        *(at(key) for key in ("time", "timings", "request", "response", "_chunks", "_error", "_x402")),
        *(at("request", key) for key in ("method", "url", "postData")),
        *(at("response", key) for key in ("status", "content")),
        *(at("request", "postData", key) for key in ("mimeType", "text")),
        *(at("response", "content", key) for key in ("mimeType", "text", "encoding")),
        at("timings", "wait"),
        at("_x402", "payment"),
        at("_x402", "payment", "amount"),
        entry(_chunks=[[value, value]]),
        entry(_chunks=[[0.1, 5], [value, 5]]),
        value,
    ]
    for number, one in enumerate(files):
        path = har(tmp_path / f"{number}.har", one)
        for verb, *options in WAYS:
            assert main([verb, str(path), *options]) in (0, 1)
            assert not UNSAFE.search("".join(capsys.readouterr()))


def test_a_price_that_nobody_pays_has_no_dollars_per_token(tmp_path: Path, capsys: Printed) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    content = {"mimeType": "text/event-stream", "text": (GOOD + events(usage)).decode()}
    for amount, known in (("0.07", True), ("1e999999", False), ("NaN", False), ("Infinity", False), ("-1", False)):
        made = entry(response={"status": 200, "content": content}, _x402={"payment": {"amount": amount}}, _error=None)
        assert main(["show", str(har(tmp_path / "one.har", made))]) == 0
        assert ("10.000000 USD per thousand tokens" in capsys.readouterr().out) == known


def flows() -> bytes:
    file = memory.BytesIO()
    for _ in range(2):
        kind = http.Headers(content_type="text/event-stream")
        io.FlowWriter(file).add(tflow.tflow(req=tutils.treq(), resp=tutils.tresp(content=GOOD, headers=kind)))
    return file.getvalue()


def test_damaged_flow_files(tmp_path: Path, capsys: Printed) -> None:
    rng, good, path = random.Random(7), flows(), tmp_path / "flows.mitm"
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(rng.choice((1, 2, 3))):
            spots = [at for at, byte in enumerate(damaged) if byte in b",;#^!~]}"]
            damaged[rng.choice(spots)] = rng.choice(b",;#^!~]}9")
            if rng.random() < 0.2:
                del damaged[rng.randrange(len(damaged)) :]
                damaged += b"}"
        path.write_bytes(damaged)
        for verb, *options in WAYS:
            assert main([verb, str(path), *options]) in (0, 1)
            assert not UNSAFE.search("".join(capsys.readouterr()))


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "a/b", "\0", "C:\\x"])
def test_the_body_of_a_recording_is_in_its_folder(tmp_path: Path, capsys: Printed, name: str) -> None:
    assert main(["show", str(recording(tmp_path / "one", body=name))]) == 1
    assert "expected the name of a file in this folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_the_body_of_a_recording_is_a_file(tmp_path: Path, capsys: Printed, kind: str) -> None:
    elsewhere = tmp_path / "secret"
    elsewhere.write_text("secret words")
    body = recording(tmp_path / "one") / "response.sse"
    body.unlink()
    {"link": lambda: body.symlink_to(elsewhere), "pipe": lambda: os.mkfifo(body), "folder": body.mkdir}[kind]()
    assert main(["show", str(body.parent)]) == 1
    printed = capsys.readouterr()
    assert "expected a file, and no link to one elsewhere" in printed.err
    assert "secret words" not in printed.out


def test_a_damaged_recording_hides_no_other(tmp_path: Path, capsys: Printed) -> None:
    recording(tmp_path / "a")
    recording(tmp_path / "b", status="x")
    recording(tmp_path / "c")
    assert main(["show", str(tmp_path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4
    assert ["damaged" in row for row in rows] == [False, False, True, False]
    assert "damaged: b/flow.json: response.status: expected" in rows[2]
    assert main(["show", f"{tmp_path}#2"]) == 0
    assert "response.status" in capsys.readouterr().out


def test_a_damaged_entry_hides_no_other(tmp_path: Path, capsys: Printed) -> None:
    file = har(tmp_path / "some.har", entry(), 1, {"request": {}}, entry(response={"status": "x"}), entry())
    assert main(["show", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("the entry cannot be read: expected a request and a response") == 3
    assert printed.count("\ntool call 1: ") == 2


def test_base64_that_is_none_is_shown_as_it_stands(tmp_path: Path, capsys: Printed) -> None:
    content = {"mimeType": "text/event-stream", "text": GOOD.decode(), "encoding": "base64"}
    assert main(["show", str(har(tmp_path / "one.har", entry(response={"status": 200, "content": content})))]) == 0
    assert "alpha" in capsys.readouterr().out


@pytest.mark.parametrize("coding", ["zstd", "gzip", "nonsense", "gzip, gzip"])
def test_a_body_in_another_coding_than_its_header_says_is_shown_as_it_came(
    tmp_path: Path, capsys: Printed, coding: str
) -> None:
    response = tutils.tresp(headers=http.Headers(content_type="text/event-stream"))
    response.raw_content = GOOD
    response.headers["content-encoding"] = coding
    file = memory.BytesIO()
    io.FlowWriter(file).add(tflow.tflow(req=tutils.treq(), resp=response))
    (tmp_path / "flows.mitm").write_bytes(file.getvalue())
    assert main(["show", str(tmp_path / "flows.mitm")]) == 0
    printed = capsys.readouterr().out
    assert "alpha" in printed
    assert "the body is as it came: the coding " in printed
