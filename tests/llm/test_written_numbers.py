"""Numbers in what a tool is called with are shown as they were written, not as Python's floats would have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.fixtures.__main__ import main
from mitmproxy_x402.llm import answer_text, differences, read_answer

WRITTEN = ("1.10", "1e400", "-0", "1E2", "0.1000000000000000055511151231257827", "12345678901234567890123", "2.50")
NUMBERS = '{"a":[' + ",".join(WRITTEN) + "]}"
JSON = "application/json"


def chat(arguments: str) -> str:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": {"tool_calls": [call]}}]})


def told(template: dict[str, Any]) -> str:
    """`template` as JSON, with the numbers in the place of `HERE`."""
    return json.dumps(template).replace('"HERE"', NUMBERS)


ANSWERS = {
    "chat": chat(NUMBERS),
    "messages": told(
        {
            **{"type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use"},
            "content": [{"type": "tool_use", "id": "t", "name": "f", "input": "HERE"}],
        }
    ),
    "gemini": told({"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": "HERE"}}]}}]}),
    "converse": told(
        {
            "output": {"message": {"content": [{"toolUse": {"toolUseId": "t", "name": "f", "input": "HERE"}}]}},
            "stopReason": "tool_use",
        }
    ),
    "ollama": told(
        {"message": {"tool_calls": [{"function": {"name": "f", "arguments": "HERE"}}]}, "done": True, "model": "m"}
    ),
    "cohere": told(
        {
            **{"response_id": "r", "generation_id": "g", "text": "", "finish_reason": "COMPLETE"},
            "tool_calls": [{"name": "f", "parameters": "HERE"}],
        }
    ),
    "responses": told(
        {
            **{"object": "response", "status": "completed", "id": "r"},
            "output": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "HERE"}],
        }
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_numbers_are_shown_as_they_came(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = ANSWERS[name].encode()
    reading = read_answer(JSON, body)
    assert reading is not None
    (call,) = reading.tool_calls
    assert call.arguments == NUMBERS.replace(" ", "")
    for number in WRITTEN:
        assert number in answer_text(reading)
    file = tmp_path / "answer.json"
    file.write_bytes(body)
    for option in ("--json", "--html=-"):
        assert main(["show", str(file), option]) == 0
        out = capsys.readouterr().out
        for number in WRITTEN:
            assert out.count(number) >= 2, (option, number)  # as text, and as a value
        assert "Infinity" not in out


def test_json_stays_json_where_a_number_is_too_large(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "answer.json"
    file.write_text(
        '{"choices":[{"message":{"content":"a","x":1e999},"finish_reason":"stop"}],"error":{"type":"a","b":1e999}}'
    )
    assert main(["show", str(file), "--json"]) == 0

    def never(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(capsys.readouterr().out, parse_constant=never)


def test_a_stream_of_parts_by_paths_keeps_its_numbers() -> None:
    part = '{"jsonPath":"$.price","numberValue":1.10}'
    body = ANSWERS["gemini"].replace(f'"args": {NUMBERS}', f'"partialArgs": [{part}]')
    reading = read_answer("text/event-stream", f"data: {body}\n\n".encode())
    assert reading is not None
    assert reading.tool_calls[0].arguments == '{"price":1.10}'


@pytest.mark.parametrize(
    ("one", "other", "differ"),
    [("1", "1.0000000000000000001", True), ("1", "1.0", False), ("1e2", "100", False), ("1e400", "2e400", True)],
)
def test_numbers_are_compared_by_their_exact_value(one: str, other: str, differ: bool) -> None:
    readings = [read_answer(JSON, chat(f'{{"a":{number}}}').encode()) for number in (one, other)]
    assert readings[0] is not None
    assert readings[1] is not None
    found = differences(readings[0], readings[1])
    assert bool(found) is differ
    if differ:
        assert any(one in line and other in line for line in found)
