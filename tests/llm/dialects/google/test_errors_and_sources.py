"""What Google says of steps that failed, and of where an answer's words come from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.genai import types
from google.genai.interactions import ModelOutputStep, URLContextResultStep

from mitmproxy_x402.llm import Reading, answer_text, read_answer
from mitmproxy_x402.llm.dialects.citations import citation_of
from mitmproxy_x402.llm.reading import Citation

USAGE = {"total_input_tokens": 5, "total_output_tokens": 7, "total_tokens": 12}
ERROR = {"code": 13, "message": "content blocked", "details": [{"reason": "POLICY"}]}


def read(*events: Any) -> Reading:
    found = read_answer("text/event-stream", "".join(f"data: {json.dumps(one)}\n\n" for one in events).encode())
    assert found is not None
    return found


def interaction(status: str, **more: Any) -> dict[str, Any]:
    return {"id": "i", "object": "interaction", "model": "g", "status": status, "usage": USAGE, **more}


CREATED = {"event_type": "interaction.created", "interaction": interaction("in_progress")}
STOP = {"event_type": "step.stop", "index": 0}


def start(step: Any) -> dict[str, Any]:
    return {"event_type": "step.start", "index": 0, "step": step}


def delta(said: Any) -> dict[str, Any]:
    return {"event_type": "step.delta", "index": 0, "delta": said}


def completed(status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"event_type": "interaction.completed", "interaction": interaction(status, **more)}


def whole(**more: Any) -> Reading:
    found = read_answer("application/json", json.dumps(interaction("failed", **more)).encode())
    assert found is not None
    return found


OUTPUT = {"type": "model_output", "content": [{"type": "text", "text": "half"}], "error": ERROR}
TEXT = delta({"type": "text", "text": "half"})


@pytest.mark.parametrize(
    "found",
    [
        lambda: read(CREATED, start({"type": "model_output", "error": ERROR}), TEXT, STOP, completed()),
        lambda: read(CREATED, start({"type": "model_output", "error": ERROR}), TEXT, STOP, completed("failed")),
        lambda: read(CREATED, start({"type": "model_output"}), TEXT, STOP, completed("failed", steps=[OUTPUT])),
        lambda: read(CREATED, completed("failed", steps=[OUTPUT])),
        lambda: whole(steps=[OUTPUT]),
        lambda: whole(steps=[{**OUTPUT, "error": None}], errors=[ERROR]),
        lambda: whole(steps=[{**OUTPUT, "error": None}], error=ERROR),
    ],
)
def test_the_error_of_an_interaction_or_of_its_output_is_told_with_its_details(found: Any) -> None:
    assert ModelOutputStep.model_validate(OUTPUT).error is not None
    reading = found()
    assert reading.error == "13: content blocked"
    assert [(one.name, one.value) for one in reading.details] == [("details", [{"reason": "POLICY"}])]
    assert (reading.text, reading.complete, reading.irregular) == ("half", False, ())


RESULT = {"url": "https://u", "status": "paywall"}


@pytest.mark.parametrize(
    "events",
    [
        [start({"type": "url_context_result", "call_id": "c", "result": [RESULT], "is_error": True})],
        [
            start({"type": "url_context_result", "call_id": "c"}),
            delta({"type": "url_context_result", "result": [RESULT], "is_error": True}),
        ],
    ],
)
def test_an_address_that_could_not_be_read_says_so(events: Any) -> None:
    step = {"type": "url_context_result", "call_id": "c", "result": [RESULT], "is_error": True}
    assert URLContextResultStep.model_validate(step).is_error
    text = answer_text(read(CREATED, *events, STOP, completed()))
    assert "other: url_context_result\n  is_error: true\n  https://u  status: paywall\n" in text


def test_a_result_says_all_that_is_said_of_it_but_what_is_encrypted() -> None:
    page = {"type": "web_search_result", "url": "https://u", "title": "T", "encrypted_content": "x" * 99,
            "page_age": "1 day", "snippet": "What\nit says", "places": [{"name": "N"}], "empty": None}  # fmt: skip
    content = [{"type": "web_search_tool_result", "tool_use_id": "t", "content": [page]}]
    body = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "c",
        "content": content,
        "stop_reason": "end_turn",
    }
    found = read_answer("application/json", json.dumps(body).encode())
    assert found is not None
    row = '  T  https://u  page_age: 1 day  snippet: What\\nit says  places: [{"name":"N"}]\n'
    assert f"other: web_search_tool_result\n{row}" in answer_text(found)


CHUNKS = {
    "web": ({"uri": "https://w", "title": "T", "domain": "d"}, "https://w"),
    "image": ({"sourceUri": "https://s", "imageUri": "https://i", "title": "T"}, "https://s, https://i"),
    "retrievedContext": ({"uri": "gs://r", "title": "T"}, "gs://r"),
    "retrieved_context": ({"document_name": "corpora/d", "title": "T"}, "corpora/d"),
    "maps": (
        {
            "uri": "https://m",
            "title": "T",
            "placeId": "p",
            "placeAnswerSources": {"reviewSnippets": [{"review": "R", "googleMapsUri": "https://r"}] * 2},
        },
        "https://m, https://r",
    ),
}


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("more", [{}, dict.fromkeys(("web", "image", "maps"))])
def test_the_addresses_of_every_kind_of_source(kind: str, more: Any) -> None:
    chunk, source = CHUNKS[kind]
    assert types.GroundingChunk.model_validate({kind: chunk})
    candidate = {
        "content": {"role": "model", "parts": [{"text": "x"}]},
        "finishReason": "STOP",
        "groundingMetadata": {"groundingChunks": [{**more, kind: chunk}]},
    }
    reading = read({"candidates": [candidate], "modelVersion": "g"})
    assert [one for one in reading.items if isinstance(one, Citation)] == [Citation(kind, "T", source)]


@pytest.mark.parametrize(
    ("annotation", "title", "source"),
    [
        ({"type": "url_citation", "url": "https://u", "title": "T"}, "T", "https://u"),
        ({"type": "file_citation", "document_uri": "gs://d", "file_name": "F"}, "F", "gs://d"),
        (
            {"type": "place_citation", "name": "P", "url": "https://p", "review_snippets": [{"url": "https://r"}]},
            "P",
            "https://p, https://r",
        ),
        ({"type": "place_citation", "name": "P", "place_id": "pl"}, "P", "pl"),
    ],
)
def test_the_citations_of_interactions(annotation: Any, title: str, source: str) -> None:
    cited = delta({"type": "text_annotation_delta", "annotations": [annotation]})
    reading = read(CREATED, start({"type": "model_output"}), TEXT, cited, STOP, completed())
    assert Citation(annotation["type"], title, source) in reading.items


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ({"title": "T", "location": {"web": {"url": "https://w", "domain": "w"}}}, "https://w"),  # Bedrock's
        ({"title": "T", "location": {"documentPage": {"documentIndex": 0}}}, ""),
        (
            {"sources": [{"type": "document", "id": "d", "document": {"title": "T", "url": "https://d"}}]},  # Cohere's
            "d, https://d",
        ),
        (
            {"title": "T", "sources": [{"type": "tool", "id": "t", "tool_output": {"url": "https://t"}}]},
            "t, https://t",
        ),
    ],
)
def test_addresses_within_a_source(said: Any, source: str) -> None:
    assert citation_of(said, "citation") == Citation("citation", "T", source)
