"""The recordings in dialects that the sandbox does not speak: read, served again, and taken apart by vendors' SDKs.

Where one is missing: python tests/record_shapes.py.
"""

from __future__ import annotations

import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from mitmproxy_x402.fixtures.server import FixtureServer
from mitmproxy_x402.fixtures.show.showing import reading_of
from mitmproxy_x402.fixtures.show.sources import read_sources
from mitmproxy_x402.llm import Citation, Reading, Text, read_answer
from mitmproxy_x402.recording.format import read_recording
from support.recording.further import further
from support.vendors.more_streams import SEEN, every_stream

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # google-genai's own, while it is imported
    from google import genai
    from google.genai import types

RECORDINGS = Path(__file__).parents[2] / "recordings"
EXCHANGES = further(every_stream())


def read(name: str) -> Reading:
    [source] = read_sources(str(RECORDINGS / name))
    reading = reading_of(source)
    assert reading is not None
    return reading


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL at which the recording of the test's `name` is served, to whatever is asked at its path."""
    name = request.getfixturevalue("name")
    with FixtureServer([read_recording(RECORDINGS / name)], match="path").run_in_thread() as url:
        yield url


@pytest.mark.parametrize("name", EXCHANGES)
def test_it_is_read_as_it_was_sent(name: str) -> None:
    exchange = EXCHANGES[name]
    body = b"".join(exchange.pieces)
    recording = read_recording(RECORDINGS / name)
    assert recording.body() == body
    assert len(recording.chunks()) == len(exchange.pieces)
    reading = read(name)
    assert reading == read_answer(exchange.kind, body)
    assert (reading.complete, reading.irregular, reading.unread) == (True, (), ())


@pytest.mark.parametrize("name", EXCHANGES)
def test_it_is_served_as_it_came(name: str, served: str) -> None:
    exchange = EXCHANGES[name]
    asked = urllib.request.Request(served + exchange.path, b"{}", {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.headers["content-type"] == exchange.kind
        assert answer.read() == b"".join(exchange.pieces)


@pytest.fixture
def chatgpt(served: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("name", ["assistants-text", "assistants-tool"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_sdk_is_served_an_assistant_s_run(name: str, chatgpt: openai.OpenAI) -> None:
    stream: Any = chatgpt.beta.threads.runs.create(thread_id="th-1", assistant_id="as-1", stream=True)
    events = list(stream)
    text = "".join(event.data.delta.content[0].text.value for event in events if event.event == "thread.message.delta")
    last = [event.data for event in events if event.event in ("thread.run.completed", "thread.run.requires_action")][-1]
    reading = read(name)
    assert (reading.text, reading.model, reading.stop_reason) == (text, last.model, last.status)
    calls = last.required_action.submit_tool_outputs.tool_calls if last.required_action else []
    assert [(one.name, one.arguments) for one in reading.tool_calls] == [
        (one.function.name, one.function.arguments) for one in calls
    ]


@pytest.mark.parametrize("name", ["transcription-text"])
def test_an_sdk_is_served_a_transcription(name: str, chatgpt: openai.OpenAI) -> None:
    stream = chatgpt.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", b"RIFF"), stream=True)
    *_, last = list(stream)
    done: Any = last
    assert read(name).items == (Text(done.text),)


@pytest.mark.parametrize("name", ["more-responses-code", "more-responses-shell"])
def test_an_sdk_is_served_a_response(name: str, chatgpt: openai.OpenAI) -> None:
    *_, last = list(chatgpt.responses.create(model="gpt-5", input="?", stream=True))
    done: Any = last
    items: list[Any] = list(read(name).items)
    assert [item.value for item in items] == [item.to_dict() for item in done.response.output]


@pytest.mark.parametrize("name", ["interactions-text", "interactions-tool"])
@pytest.mark.filterwarnings("ignore")  # the SDK says that this part of it is experimental
def test_an_sdk_is_served_an_interaction(name: str, served: str) -> None:
    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=served, api_version="v1beta"))
    events: list[Any] = list(client.interactions.create(model="gemini-3-pro", input="?", stream=True))
    client.close()
    deltas = [event.delta for event in events if event.event_type == "step.delta"]
    reading = read(name)
    assert reading.text == "".join(one.text for one in deltas if one.type == "text")
    assert reading.stop_reason == events[-1].interaction.status


def seen(dialect: str) -> list[str]:
    return [f"seen-{dialect}-{name}" for name in SEEN[dialect]]


@pytest.mark.parametrize("name", seen("chat"))
def test_an_sdk_is_served_what_other_vendors_send_as_chat(name: str, chatgpt: openai.OpenAI) -> None:
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "?"}], "stream": True}
    chunks: list[Any] = list(chatgpt.chat.completions.create(**asked))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    reading = read(name)
    assert reading.text == "".join(delta.content or "" for delta in deltas)
    functions = [call.function for delta in deltas for call in delta.tool_calls or []]
    assert [call.name for call in reading.tool_calls] == [one.name for one in functions if one.name]
    assert "".join(call.arguments for call in reading.tool_calls) == "".join(one.arguments for one in functions)
    ends = {choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason}
    assert {reading.stop_reason} == ends


@pytest.mark.parametrize("name", seen("messages"))
def test_an_sdk_is_served_a_message(name: str, served: str) -> None:
    asked: Any = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
    with (
        anthropic.Anthropic(base_url=served, api_key="none", max_retries=0) as client,
        client.messages.stream(**asked) as events,
    ):
        message: Any = events.get_final_message()
    reading = read(name)
    blocks = message.content
    assert reading.text == "".join(block.text for block in blocks if block.type == "text")
    cited = [one.cited_text for block in blocks if block.type == "text" for one in block.citations or []]
    assert [item.quote for item in reading.items if isinstance(item, Citation)] == cited
    assert len([item for item in reading.items if not isinstance(item, Citation)]) == len(blocks)
    assert (reading.stop_reason, reading.usage.output) == (message.stop_reason, message.usage.output_tokens)


@pytest.mark.parametrize("name", seen("gemini"))
def test_an_sdk_is_served_candidates(name: str, served: str) -> None:
    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=served, api_version="v1beta"))
    answers = list(client.models.generate_content_stream(model="m", contents="?"))
    client.close()
    candidates = [one for answer in answers for one in answer.candidates or []]
    parts = [part for one in candidates for part in (one.content and one.content.parts) or []]
    reading = read(name)
    assert reading.text == "".join(part.text or "" for part in parts)
    called = [part.function_call.name for part in parts if part.function_call and part.function_call.name]
    assert [call.name for call in reading.tool_calls] == called
    ends = [one.finish_reason.value for one in candidates if one.finish_reason]
    assert reading.stop_reason == ends[-1]


@pytest.mark.parametrize("name", seen("responses"))
def test_an_sdk_is_served_the_text_of_a_response(name: str, chatgpt: openai.OpenAI) -> None:
    states: list[Any] = list(chatgpt.responses.create(model="m", input="?", stream=True))
    done = next(one.response for one in reversed(states) if hasattr(one, "response"))
    reading = read(name)
    assert reading.text == done.output_text
    assert (reading.stop_reason, reading.id) == (done.status, done.id)
