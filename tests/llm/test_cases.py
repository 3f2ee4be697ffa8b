"""Answers and requests in shapes that vendors were seen to send, each with what it says (`cases/*/expected.json`).

Every value was compared with what the vendor's own SDK makes of the same bytes, or, where there is none that puts the
answer together, with an independent assembly. A case stands for its kind; `about` says which.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import http, io
from mitmproxy.test import tflow

from mitmproxy_x402.fixtures.__main__ import main
from mitmproxy_x402.fixtures.show.showing import plain
from mitmproxy_x402.llm import StreamReader, answer_text, read_answer, read_request, read_steps, request_text
from mitmproxy_x402.views import contentview

CASES = Path(__file__).parent / "cases"
STREAMS = sorted(folder.name for folder in (CASES / "streams").iterdir())
REQUESTS = sorted(folder.name for folder in (CASES / "requests").iterdir())
COMPARED = ("model", "text", "texts", "reasoning", "refusal", "stop_reason", "complete", "irregular", "others")


def case(name: str) -> tuple[dict[str, Any], bytes]:
    folder = CASES / "streams" / name
    [body] = folder.glob("response.*")
    return json.loads((folder / "expected.json").read_text()), body.read_bytes()


def joined(items: list[dict[str, Any]], kind: str, choice: int = 0) -> str:
    return "".join(item["text"] for item in items if item["type"] == kind and item["choice"] == choice)


def said(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer of `show --json` in the words of expected.json."""
    items = answer["items"]
    return {
        **{key: answer[key] for key in ("model", "stop_reason", "complete")},
        **{kind: joined(items, kind) for kind in ("text", "reasoning", "refusal")},
        "texts": [joined(items, "text", choice) for choice in sorted({item["choice"] for item in items})],
        "irregular": bool(answer["irregular"]),
        "others": [item["kind"] for item in items if item["type"] == "other"],
    }


def check(expected: dict[str, Any], answer: dict[str, Any] | None) -> None:
    if expected.get("answer", "") is None:
        assert answer is None
        return
    assert answer is not None
    got = said(answer)
    for key in COMPARED:
        if key in expected:
            wanted = expected[key]
            allowed = wanted["any"] if isinstance(wanted, dict) else [wanted]
            assert got[key] in allowed, (key, answer["irregular"])
    if "dialect" in expected:
        assert answer["dialect"] == expected["dialect"]
    if "tool_calls" in expected:
        calls = [item for item in answer["items"] if item["type"] == "tool_call"]
        assert len(calls) == len(expected["tool_calls"])
        for call, wanted in zip(calls, expected["tool_calls"], strict=True):
            given = {"name": call["name"], "arguments": call["parsed"], "id": call["id"]}
            assert {key: given[key] for key in wanted} == wanted
    usage = expected.get("usage", {})
    assert {key: answer["usage"][key] for key in usage} == usage
    if expected.get("error", "") is None:
        assert answer["error"] is None
    elif "error" in expected:
        assert expected["error"] in answer["error"]


def flat(text: str) -> str:
    return re.sub(r"(?<=\d),(?=\d{3})", "", re.sub(r"\s+", " ", text))


def check_text(expected: dict[str, Any], text: str) -> None:
    for words in expected.get("shown", []):
        assert flat(words) in flat(text) or flat(json.dumps(words, ensure_ascii=False)[1:-1]) in flat(text)
    for words in expected.get("not_shown", []):
        assert flat(words) not in flat(text)


@pytest.mark.parametrize("name", STREAMS)
def test_an_answer_is_read(name: str) -> None:
    expected, body = case(name)
    for kind in ("", expected["content_type"]):
        reading = read_answer(kind, body)
        check(expected, plain(reading))
        if reading is not None:
            check_text(expected, answer_text(reading))


@pytest.mark.parametrize("name", STREAMS)
def test_it_is_read_in_any_pieces(name: str) -> None:
    _, body = case(name)
    readings = []
    for size in (1, 7, 64, len(body)):
        reader = StreamReader()
        for at in range(0, len(body), size):
            reader.feed(body[at : at + size])
            reader.reading()
        reader.end()
        readings.append(reader.reading())
    assert all(reading == readings[-1] for reading in readings)


@pytest.mark.parametrize("name", STREAMS)
def test_every_event_says_what_it_added(name: str) -> None:
    expected, body = case(name)
    found = read_steps(expected["content_type"], body)
    if found is None:
        assert expected["answer"] is None
        return
    reading, steps = found
    assert reading == read_answer(expected["content_type"], body)
    assert [step.number for step in steps] == list(range(1, reading.events + 1))
    assert [step.begin for step in steps] == sorted(step.begin for step in steps)
    assert all(0 <= step.begin < step.end <= len(body) for step in steps)
    told = "".join(one.text for step in steps for one in step.added if one.what == "text")
    assert told == "".join(item["text"] for item in plain(reading)["items"] if item["type"] == "text") or (
        "resumed" in name
    )


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("form", ["file", "har"])
def test_show_says_so(name: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected, body = case(name)
    [source] = (CASES / "streams" / name).glob("response.*")
    if form == "har":
        source = tmp_path / "capture.har"
        source.write_text(json.dumps(har(expected, body)))
    assert main(["show", "--json", str(source)]) == 0
    check(expected, json.loads(capsys.readouterr().out)["answer"])
    assert main(["show", str(source)]) == 0
    check_text(expected, capsys.readouterr().out)


def har(expected: dict[str, Any], body: bytes) -> dict[str, Any]:
    kind = expected["content_type"]
    content = {"mimeType": kind, "size": len(body), "text": base64.b64encode(body).decode(), "encoding": "base64"}
    request = {"method": "POST", "url": f"http://127.0.0.1{expected['path']}", "headers": []}
    headers = [{"name": "content-type", "value": kind}]
    response = {"status": expected.get("status", 200), "headers": headers, "content": content}
    return {"log": {"version": "1.2", "entries": [{"request": request, "response": response, "time": 20}]}}


def flow(body: bytes, kind: str, path: str) -> http.HTTPFlow:
    request = http.Request.make("POST", f"http://127.0.0.1{path}", b"{}", {"content-type": "application/json"})
    return tflow.tflow(req=request, resp=http.Response.make(200, body, {"content-type": kind}))


def test_the_flows_of_a_flow_file_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "flows.mitm"
    with file.open("wb") as stream:
        writer = io.FlowWriter(stream)
        for text in ("alpha beta", "gamma"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            body = json.dumps({"object": "chat.completion", "model": "test-model", "choices": [choice]})
            writer.add(flow(body.encode(), "application/json", "/v1/chat/completions"))
    assert main(["show", "--json", str(file)]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [joined(one["answer"]["items"], "text") for one in shown] == ["alpha beta", "gamma"]
    assert [one["source"] for one in shown] == [f"{file}#1", f"{file}#2"]
    assert [(one["method"], one["path"], one["status"]) for one in shown] == [("POST", "/v1/chat/completions", 200)] * 2
    cut = tmp_path / "cut.mitm"
    cut.write_bytes(file.read_bytes()[:-20])
    assert main(["show", str(cut)]) == 0
    text = capsys.readouterr().out
    assert "alpha beta" in text
    assert "cannot be read to its end" in text
    cut.write_bytes(file.read_bytes()[:100])
    assert main(["show", str(cut)]) == 1
    assert "cannot be read to its end" in capsys.readouterr().err


def test_the_view_says_what_show_says() -> None:
    expected, body = case("view-forgets-the-end")
    reading = read_answer(expected["content_type"], body)
    assert reading is not None
    assert reading.irregular
    of = flow(body, expected["content_type"], expected["path"])
    view = contentview.LlmView()
    shown = contentview.Shown(body, expected["content_type"], of.response, of)
    for number in range(expected.get("after", 0)):
        other = body.replace(b"id-1", b"id-%d" % number)
        view.text(dataclasses.replace(shown, data=other))
    text = " ".join(view.text(shown).split())
    assert all(remark in text for remark in reading.irregular)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_read(name: str) -> None:
    folder = CASES / "requests" / name
    expected = json.loads((folder / "expected.json").read_text())
    [body] = folder.glob("request.*")
    asked = read_request(expected["path"], "application/json", body.read_bytes())
    assert asked is not None
    wanted = expected.get("view", {})
    got = {"dialect": asked.dialect, "model": asked.model, "messages": len(asked.messages)}
    assert {key: got[key] for key in wanted} == wanted
    check_text(expected, request_text(asked))
