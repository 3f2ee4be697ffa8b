"""The recordings in tests/recordings, one of every shape: read for what was meant, and served as they came."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from mitmproxy_x402 import llm
from mitmproxy_x402.fixtures.__main__ import main
from mitmproxy_x402.fixtures.plugin import Serve
from mitmproxy_x402.fixtures.show import comparing
from mitmproxy_x402.fixtures.show.sources import read_sources
from mitmproxy_x402.recording.format import Recording, read_recording
from mitmproxy_x402.sandbox.answers import Meaning, meaning
from support.recording.shapes import NAMES
from support.wire import Client, Message, Peer, request

RECORDINGS = Path(__file__).parents[1] / "recordings"
DIALECTS = {
    "chat": "openai-chat",
    "responses": "openai-responses",
    "messages": "anthropic-messages",
    "gemini": "gemini",
}
SHAPES = pytest.mark.parametrize("name", NAMES)


def recorded(name: str) -> Recording:
    return read_recording(RECORDINGS / name)


def read(name: str) -> llm.Reading:
    [source] = read_sources(str(RECORDINGS / name))
    reading = llm.read_answer(source.content_type, source.body)
    assert reading is not None
    return reading


def meant(recording: Recording) -> Meaning:
    model = (
        unquote(recording.request.path.rpartition("/")[2].partition(":")[0])
        if "models" in recording.request.path
        else ""
    )
    return meaning(json.loads(recording.request_body()), model)


def test_there_is_one_of_every_shape() -> None:
    """Where one is missing: python tests/record_shapes.py."""
    assert {folder.name for folder in RECORDINGS.iterdir()} >= set(NAMES)


@SHAPES
def test_it_says_what_was_meant(name: str) -> None:
    reading, said = read(name), meant(recorded(name))
    spoken = "".join(item.text for item in reading.items if isinstance(item, llm.Text))
    thought = "".join(item.text for item in reading.items if isinstance(item, llm.Reasoning))
    ended_well = not name.endswith(("-error", "-failing", "-cut"))
    assert (reading.complete, reading.error is None) == (ended_well, ended_well or name.endswith("-cut"))
    if not ended_well:
        assert said.text.startswith(spoken)
        assert bool(spoken) != name.endswith("-error")
        return
    assert reading.dialect == DIALECTS[name.partition("-")[0]]
    assert (reading.model, spoken, thought) == (said.model, said.text, said.thought)
    calls = [(call.name, call.parsed) for call in reading.tool_calls]
    assert calls == [(call.name, call.parsed()) for call in said.tool_calls]
    assert [remark for remark in reading.irregular if "no arguments at all, not even {}" not in remark] == []


@SHAPES
def test_it_is_served_as_it_came(x402_recording: Serve, name: str) -> None:
    recording = recorded(name)
    url = x402_recording(RECORDINGS / name)
    asked = recording.request
    with Client("127.0.0.1", int(url.rpartition(":")[2])) as client:
        client.send(request(asked.method, asked.path, recording.request_body()))
        got, ended = answer(client)
    response = recording.response
    assert response is not None
    assert got.start == f"HTTP/1.1 {response.status} {response.reason}".encode()
    assert [(name.decode(), value.decode()) for name, value in got.fields] == list(response.headers)
    assert got.body == recording.body()
    assert ended == recording.complete
    if got.chunks:
        assert got.chunks == [data for _, data in recording.pieces()]


def answer(peer: Peer) -> tuple[Message, bool]:
    """An answer, and whether it came to its end."""
    got = Message(peer.until(b"\r\n\r\n"))
    length = got.get(b"content-length")
    if length is not None:
        got.body = peer.exactly(int(length))
        return got, True
    try:
        while chunk := peer.chunk():
            got.chunks.append(chunk)
    except EOFError:
        return got, False
    finally:
        got.body = b"".join(got.chunks)
    return got, True


@pytest.mark.parametrize("dialect", DIALECTS)
def test_characters_are_cut_in_two(dialect: str) -> None:
    def is_cut(piece: bytes) -> bool:
        try:
            piece.decode()
        except UnicodeDecodeError:
            return True
        return False

    assert any(is_cut(piece) for _, piece in recorded(f"{dialect}-split").pieces())


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("shape", ["gzip", "split"])
def test_the_same_said_in_another_way_is_no_difference(dialect: str, shape: str) -> None:
    """But for the tokens of the request, which has this shape's name in it."""
    [one] = read_sources(str(RECORDINGS / f"{dialect}-text"))
    [other] = read_sources(str(RECORDINGS / f"{dialect}-{shape}"))
    found = comparing.differences(one, other)
    assert [line for line in found if not line.startswith(("input tokens: ", "total tokens: "))] == []


def test_fragments_of_several_calls_are_mixed() -> None:
    events = [
        json.loads(line[6:])
        for line in recorded("chat-tools-interleaved").body().split(b"\n")
        if line[:7] == b"data: {"
    ]
    deltas: list[Any] = [choice["delta"] for event in events for choice in event["choices"]]
    assert [call["index"] for delta in deltas for call in delta.get("tool_calls", [])][:6] == [0, 1, 0, 1, 0, 1]


def test_the_documentation_shows_what_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(RECORDINGS.parents[1])
    page = Path("docs/fixtures.md").read_text()
    shown = re.findall(r"```\n\$ \./run\.sh fixtures ([^\n]+)\n(.*?)```", page, re.DOTALL)
    assert [command.split()[0] for command, _ in shown] == ["show", "diff"]
    for command, printed in shown:
        main(command.split())
        assert capsys.readouterr().out == printed
