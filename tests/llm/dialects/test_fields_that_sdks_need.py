"""A stream without a field that its vendor's SDK needs is never called regular."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import openai
import pytest

from support.vendors import vendor_streams as v
from support.vendors.reading import read
from support.vendors.vendor_server import Vendor

Event = dict[str, Any]


def _with(events: list[Event], at: int, path: str, value: Any = ...) -> list[Event]:
    """A copy of `events` with `value` at `path` of one of them; without a value, the field is missing."""
    changed: list[Event] = json.loads(json.dumps(events))
    *way, last = path.split(".")
    found = changed[at]
    for key in way:
        found = found[key]
    if value is ...:
        del found[last]
    else:
        found[last] = value
    return changed


# Anthropic's messages.

MESSAGES = [
    v.start(), v.block(0, "thinking", thinking="", signature=""), v.delta(0, "thinking", thinking="Hm."),
    v.delta(0, "signature", signature="S"), v.stop(0),
    v.block(1, "text", text=""), v.delta(1, "text", text="Hello"), v.stop(1),
    v.block(2, "tool_use", id="t", name="f", input={}), v.delta(2, "input_json", partial_json='{"x":'),
    v.delta(2, "input_json", partial_json="1}"), v.stop(2), *v.finish("tool_use"),
]  # fmt: skip
MISSING = [
    (0, "message.content", "a message_start without message.content"),
    (0, "message.usage", "a message_start without message.usage"),
    (1, "content_block.thinking", "a thinking block without thinking"),
    (2, "index", "a content_block_delta without index"),
    (2, "delta.thinking", "a thinking_delta without thinking"),
    (4, "index", "a content_block_stop without index"),
    (5, "content_block", "a content_block_start without content_block"),
    (5, "content_block.text", "a text block without text"),
    (6, "delta", "a content_block_delta without delta"),
    (6, "delta.text", "a text_delta without text"),
    (9, "delta.partial_json", "an input_json_delta without partial_json"),
    (12, "delta", "a message_delta without delta"),
    (12, "usage", "a message_delta without usage"),
]


def _messages(url: str) -> Any:
    asked: Any = {"model": "claude-opus-4-6", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        with client.messages.stream(**asked) as events:
            return events.get_final_message().to_dict()


@pytest.mark.parametrize("value", [..., None], ids=["missing", "null"])
@pytest.mark.parametrize(("at", "path", "remark"), MISSING)
def test_a_field_that_anthropics_sdk_fails_without(vendor: Vendor, at: int, path: str, remark: str, value: Any) -> None:
    vendor.body = body = v.messages(*_with(MESSAGES, at, path, value))
    with pytest.raises((AttributeError, TypeError)):
        _messages(vendor.url)
    assert f"{remark}, at which Anthropic's SDKs fail" in read(body).irregular


def test_a_field_of_another_type_is_none_for_anthropics_sdk(vendor: Vendor) -> None:
    vendor.body = body = v.messages(*_with(MESSAGES, 0, "message.content", ""))
    with pytest.raises((AttributeError, UserWarning)):
        _messages(vendor.url)
    assert read(body).irregular == (
        "a message_start whose message.content is no array, at which Anthropic's SDKs fail",
    )


@pytest.mark.parametrize("first", [" ", "\n", "\n\t"])
def test_white_space_alone_before_arguments(vendor: Vendor, first: str) -> None:
    space = v.delta(2, "input_json", partial_json=first)
    vendor.body = body = v.messages(*MESSAGES[:9], v.delta(2, "input_json", partial_json=""), space, *MESSAGES[9:])
    with pytest.raises(ValueError, match="Unable to parse"):
        _messages(vendor.url)
    assert read(body).irregular == ("white space before the arguments of a call, at which Anthropic's SDKs fail",)
    vendor.body = body = v.messages(*MESSAGES[:10], space, *MESSAGES[10:])
    assert _messages(vendor.url)["content"][2]["input"] == {"x": 1}
    assert read(body).irregular == ()


def test_half_of_a_surrogate_pair_in_arguments(vendor: Vendor) -> None:
    vendor.body = body = v.messages(*_with(MESSAGES, 10, "delta.partial_json", '"\\ud83e"}'))
    with pytest.raises(ValueError, match="Unable to parse"):
        _messages(vendor.url)
    remark = "tool call 1: in its arguments half of a surrogate pair stands alone, at which strict parsers fail"
    assert read(body).irregular == (remark,)
    vendor.body = body = v.messages(*_with(MESSAGES, 10, "delta.partial_json", '"\\uD83E\\udd80 \\\\ud83e"}'))
    assert _messages(vendor.url)["content"][2]["input"] == {"x": "🦀 \\ud83e"}
    assert read(body).irregular == ()


@pytest.mark.parametrize("usage", [{}, {"output_tokens": None}, {"input_tokens": 5}])
def test_a_last_usage_without_output(vendor: Vendor, usage: Any) -> None:
    vendor.body = body = v.messages(*_with(MESSAGES, 12, "usage", usage))
    assert _messages(vendor.url)["usage"].get("output_tokens") is None
    remark = "the usage of a message_delta without output_tokens, which Anthropic's SDKs then lose"
    assert read(body).irregular == (remark,)


def test_a_second_message_delta_takes_the_end_away(vendor: Vendor) -> None:
    late = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 9}}
    ended = _with(MESSAGES, 12, "delta.stop_sequence", "X")
    vendor.body = body = v.messages(*ended[:-1], late, ended[-1])
    answer = _messages(vendor.url)
    assert (answer.get("stop_reason"), answer.get("stop_sequence")) == (None, None)
    reading = read(body)
    assert reading.stop_reason == "tool_use"
    assert reading.irregular == tuple(
        f"a message_delta without {key} after one with it, which Anthropic's SDKs then lose"
        for key in ("stop_reason", "stop_sequence")
    )
    assert read(v.messages(*ended[:-2], late, *ended[-2:])).irregular == ()


def test_of_two_signatures_the_last_one_counts(vendor: Vendor) -> None:
    vendor.body = body = v.messages(*MESSAGES[:4], v.delta(0, "signature", signature="T"), *MESSAGES[4:])
    assert _messages(vendor.url)["content"][0]["signature"] == "T"
    assert read(body).irregular == ("a second signature_delta of a block; Anthropic's SDKs keep the last one only",)


def test_a_done_with_a_name(vendor: Vendor) -> None:
    # Only from version 2 on does the SDK in Python read events of every name.
    body = v.messages(*MESSAGES) + b"event: done\ndata: [DONE]\n\n"
    assert read(body).irregular == ('a [DONE] called "done", at which Anthropic\'s SDKs fail',)
    for name in (b"", b"event: ping\n"):
        vendor.body = body = v.messages(*MESSAGES) + name + b"data: [DONE]\n\n"
        assert _messages(vendor.url)["stop_reason"] == "tool_use"
        assert read(body).irregular == ()


# OpenAI's responses.


def _response(status: str, output: list[Any]) -> Event:
    return {"type": f"response.{status}", "response": {**v.state(status, output)["response"], "usage": None}}


ITEM: Event = {"id": "msg", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
CALL: Event = {"id": "fc", "type": "function_call", "call_id": "c", "name": "f", "arguments": "", "status": "completed"}
PART: Event = {"type": "output_text", "text": "", "annotations": []}
AT: Event = {"item_id": "msg", "output_index": 0, "content_index": 0}
WHOLE = {**ITEM, "status": "completed", "content": [{**PART, "text": "hello"}]}
RESPONSES: list[Event] = [
    {"type": "response.created", "response": v.state("in_progress")["response"]},
    {"type": "response.output_item.added", "output_index": 0, "item": ITEM},
    {"type": "response.content_part.added", **AT, "part": PART},
    {"type": "response.output_text.delta", **AT, "delta": "he", "logprobs": []},
    {"type": "response.output_text.delta", **AT, "delta": "llo", "logprobs": []},
    {"type": "response.output_text.done", **AT, "text": "hello", "logprobs": []},
    {"type": "response.output_item.done", "output_index": 0, "item": WHOLE},
    {"type": "response.output_item.added", "output_index": 1, "item": CALL},
    {"type": "response.function_call_arguments.delta", "item_id": "fc", "output_index": 1, "delta": "{}"},
    {"type": "response.output_item.done", "output_index": 1, "item": {**CALL, "arguments": "{}"}},
    _response("completed", [WHOLE, {**CALL, "arguments": "{}"}]),
]


def _responses(url: str) -> Any:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with client.responses.stream(model="gpt-5", input="?") as events:
            return events.get_final_response()


def _numbered(events: list[Event]) -> bytes:
    return v.numbered(*events)


@pytest.mark.parametrize("value", [..., None], ids=["missing", "null"])
@pytest.mark.parametrize(
    ("at", "path", "remark"),
    [
        (1, "item.content", "a begin of a message without content"),
        (2, "part.text", "a begin of an output_text without text"),
        (3, "delta", "a response.output_text.delta without delta"),
        (3, "output_index", "a response.output_text.delta without output_index"),
        (3, "content_index", "a response.output_text.delta without content_index"),
        (7, "item.arguments", "a begin of a function_call without arguments"),
        (8, "delta", "a response.function_call_arguments.delta without delta"),
        (10, "response", "a response.completed without response"),
    ],
)
def test_a_field_that_openais_sdk_fails_without(vendor: Vendor, at: int, path: str, remark: str, value: Any) -> None:
    vendor.body = body = _numbered(_with(RESPONSES, at, path, value))
    with pytest.raises((AttributeError, TypeError, RuntimeError, KeyError, IndexError)):
        _responses(vendor.url)
    assert f"{remark}, at which OpenAI's SDK fails" in read(body).irregular


def test_a_response_with_all_fields_is_regular(vendor: Vendor) -> None:
    vendor.body = body = _numbered(RESPONSES)
    assert _responses(vendor.url).output_text == read(body).text == "hello"
    assert (read(body).irregular, len(read(body).tool_calls)) == ((), 1)


def test_a_stream_without_its_first_event(vendor: Vendor) -> None:
    vendor.body = body = _numbered(RESPONSES[1:])
    with pytest.raises(RuntimeError):
        _responses(vendor.url)
    assert read(body).irregular == ("the stream does not begin with response.created, at which OpenAI's SDK fails",)


def test_an_item_that_ends_with_another_id() -> None:
    # Only newer SDKs fail at it.
    body = _numbered(_with(RESPONSES, 6, "item.id", "another"))
    remark = "the id or type of an item is another one at its end, at which OpenAI's SDK fails"
    assert remark in read(body).irregular
    assert read(body).text == "hello"


def test_a_last_event_with_no_items(vendor: Vendor) -> None:
    vendor.body = body = _numbered([*RESPONSES[:-1], _response("completed", [])])
    assert _responses(vendor.url).output_text == ""
    assert read(body).text == "hello"
    assert read(body).irregular == (
        "the whole response at the end has no items, so that OpenAI's SDK says there is no answer",
    )


def test_a_part_that_begins_with_text(vendor: Vendor) -> None:
    vendor.body = body = _numbered(_with([*RESPONSES[:3], *RESPONSES[4:]], 2, "part.text", "he"))
    assert _responses(vendor.url).output_text == "hello"
    assert (read(body).text, read(body).irregular) == ("hello", ())


@pytest.mark.parametrize("field", ["content_index", "output_index"])
def test_a_part_that_ends_under_another_index_is_shown_once(field: str) -> None:
    reading = read(_numbered(_with(RESPONSES, 5, field, 1)))
    assert reading.text == "hello"
    assert "a part ends under another index than its fragments came under" in reading.irregular


def test_an_error_in_an_event_of_any_type(vendor: Vendor) -> None:
    failed = {"type": "response.error", "error": {"code": "x", "message": "boom"}}
    vendor.body = body = _numbered([*RESPONSES[:5], failed])
    with pytest.raises(openai.APIError, match="boom"):
        _responses(vendor.url)
    assert read(body).error == "x: boom"


# Others.


def test_an_error_in_lines_of_its_own_is_read() -> None:
    error = {"error": {"code": 503, "message": "boom", "status": "UNAVAILABLE"}}
    said = v.events(v.part({"text": "he"}))
    for end in (b"", b"\n", b"\n\n"):
        reading = read(said + json.dumps(error, indent=2).encode() + end)
        assert (reading.text, reading.error, reading.complete) == ("he", "UNAVAILABLE: boom", False)
        assert "an error in lines of its own, which most clients ignore" in reading.irregular
    reading = read(said + b'{\n  "note": 1\n}\n\n' + v.events(v.part({"text": "llo"}, finish="STOP")))
    assert (reading.text, reading.error) == ("hello", None)
    assert "a line that is no field of an event, which clients ignore; the first one: {" in reading.irregular
    assert read(said + b'{\n  "error": {\n').error is None


@pytest.mark.parametrize("first", [v.part({"text": "he"}), v.chunk({"content": "he"})], ids=["gemini", "chat"])
def test_an_error_alone_in_a_list_is_read(first: Event) -> None:
    error = {"error": {"code": 503, "message": "boom", "status": "UNAVAILABLE"}}
    reading = read(v.events(first, [error]))
    assert (reading.text, reading.error, reading.complete) == ("he", "UNAVAILABLE: boom", False)


def test_gemini_in_the_case_of_python(vendor: Vendor) -> None:
    called = v.part({"function_call": {"name": "f", "args": {"a": 1}}}, finish="STOP")
    reading = read(v.events(v.part({"text": "hm", "thought": "true"}), called))
    assert [(one.name, one.arguments) for one in reading.tool_calls] == [("f", '{"a":1}')]
    assert (reading.text, reading.irregular) == ("", ())
    assert read(v.events(v.part(None, finish="STOP"))).irregular == (
        "a part that is null, at which Google's SDK fails",
    )


@pytest.mark.parametrize("kind", [..., None, "other"])
def test_a_part_of_an_assistant_without_its_type_is_read(kind: Any) -> None:
    fragments: list[Event] = [
        {"id": identity, "object": "thread.message.delta", "delta": {"content": [part]}}
        for identity, part in (
            ("m", {"index": 0, "type": "text", "text": {"value": "he"}}),
            ("m", {"index": 0, "type": kind, "text": {"value": "ll"}}),
            (None, {"index": 0, "type": "text", "text": {"value": "o"}}),
        )
    ]
    if kind is ...:
        del fragments[1]["delta"]["content"][0]["type"]
    run = {"id": "r", "object": "thread.run", "status": "completed"}
    events = [("thread.message.delta", one) for one in fragments] + [("thread.run.completed", run)]
    reading = read("".join(f"event: {name}\ndata: {json.dumps(one)}\n\n" for name, one in events).encode())
    assert (reading.text, reading.irregular) == ("hello", ("a part with text that does not say that it is text",))
