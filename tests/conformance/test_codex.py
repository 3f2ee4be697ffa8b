"""A turn of the real Codex CLI, recorded: its requests are paid once, its answers mean the same, whatever fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from mitmproxy_x402.fixtures.matching import Match
from mitmproxy_x402.fixtures.server import FixtureServer
from mitmproxy_x402.llm import ToolCall, differences, read_answer
from mitmproxy_x402.recording.format import Recording, read_recordings
from support.place import place

FOLDER = Path(__file__).parent / "codex"
TURN = read_recordings(FOLDER)
UNSENT = {"host", "content-length"}


def send(url: str, recording: Recording, **more: str) -> httpx.Response:
    headers = [(name, value) for name, value in recording.request.headers if name not in UNSENT] + list(more.items())
    return httpx.post(url + recording.request.path, content=recording.request_body(), headers=headers, timeout=20)


def reordered(body: bytes) -> bytes:
    """As Codex writes its second-level retries: the same JSON with its keys in another order."""

    def turn(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turn(value[key]) for key in reversed(value)}
        return [turn(each) for each in value] if isinstance(value, list) else value

    return json.dumps(turn(json.loads(body))).encode()


def test_the_turn_has_a_tool_call_and_its_result() -> None:
    first, second = (read_answer("text/event-stream", each.body()) for each in TURN)
    assert first is not None
    assert second is not None
    (call,) = [item for item in first.items if isinstance(item, ToolCall)]
    assert call.parsed == {"cmd": "echo sandbox"}
    output = json.loads(TURN[1].request_body())["input"][-1]
    assert (output["type"], output["call_id"]) == ("function_call_output", call.id)
    assert "sandbox\n" in output["output"]
    assert not [item for item in second.items if isinstance(item, ToolCall)]
    assert second.complete


def test_each_request_is_paid_once_and_answered_as_recorded(home: Path) -> None:
    with place(home) as shop:
        for number, recording in enumerate(TURN, 1):
            answer = send(shop.proxy.url, recording)
            was = read_answer("text/event-stream", recording.body())
            now = read_answer(answer.headers["content-type"], answer.content)
            assert was is not None
            assert now is not None
            assert differences(was, now) == []
            assert len(shop.sandbox.settled) == number
        shop.expect(0, [("unknown", 1)] * len(TURN))


def test_thirty_tries_against_a_gateway_that_takes_the_money_and_fails(home: Path) -> None:
    """Codex asks as often by default, with its keys in two orders. It is paid for once, and once more at most."""
    with place(home) as shop:
        for number in range(30):
            body = TURN[0].request_body()
            headers = {"content-type": "application/json", "x-sandbox-fault": "error;n=999;settle=yes"}
            content = reordered(body) if number % 2 else body
            answer = httpx.post(shop.proxy.url + "/v1/responses", content=content, headers=headers, timeout=20)
            assert answer.status_code in (400, 402, 500)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "over_repurchase_limit"
        assert len(shop.sandbox.settled) <= 2


@pytest.mark.parametrize("match", get_args(Match))
def test_served_again_it_is_the_same_bytes(match: Match) -> None:
    with FixtureServer(TURN, match=match).run_in_thread() as url:
        for recording in TURN:
            assert send(url, recording).content == recording.body()
