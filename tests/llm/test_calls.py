"""Tool calls that a limit of tokens cuts, which is said where their text ends, and calls without arguments."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from mitmproxy_x402.llm import answer_text, read_answer
from support.vendors import vendor_streams as v
from support.vendors.reading import read
from support.vendors.vendor_server import Vendor

SAID = "the answer hit its token limit in the middle of the arguments"
VALUE = '{"a": [1, -2.5e+10, "x\\u00e9\\n\\"ü", true, false, null, {"b": {}}], "c": 0.5, "d":1E5}'


def chat(arguments: str, reason: str = "length") -> bytes:
    return v.chat(v.chunk(v.call(0, arguments, "c", "f")), v.chunk({}, reason))


def messages(arguments: str, reason: str = "max_tokens") -> bytes:
    fragments = [v.delta(0, "input_json", partial_json=arguments)] if arguments else []
    return v.messages(v.start(), v.block(0, "tool_use", id="c", name="f", input={}), *fragments, v.stop(0),
                      *v.finish(reason))  # fmt: skip


def responses(arguments: str) -> bytes:
    begun = {**v.CALLED, "arguments": ""}
    cut = {**v.CALLED, "arguments": arguments, "status": "incomplete"}
    end = v.state("incomplete", [cut], incomplete_details={"reason": "max_output_tokens"})
    said = v.fragment("function_call_arguments", 0, arguments)
    whole = v.whole("function_call_arguments", 0, arguments=arguments)
    return v.numbered(v.CREATED, v.item(0, begun), said, whole, v.item(0, cut, "done"), end)


CUT: list[tuple[Any, str]] = [(chat, "length"), (messages, "max_tokens"), (responses, "max_output_tokens")]


@pytest.mark.parametrize(("stream", "reason"), CUT)
def test_arguments_that_a_limit_of_tokens_cuts(stream: Any, reason: str) -> None:
    reading = read(stream('{"city":"Zür'))
    (call,) = reading.tool_calls
    assert (call.arguments, call.parsed, reading.stop_reason) == ('{"city":"Zür', None, reason)
    assert call.broken is not None
    assert (call.broken.problem, call.broken.position) == (SAID, 12)
    assert reading.irregular == (
        f"tool call 1: its arguments are not JSON: the answer hit its token limit ({reason}) in the middle of them",
    )
    lines = answer_text(reading).split("\n")
    at = lines.index('  {"city":"Zür')
    assert lines[at + 1].startswith(" " * 14 + f"^ {SAID}  (they end here, after event ")


@pytest.mark.parametrize("length", range(1, len(VALUE)))
def test_wherever_it_cuts_them(length: int) -> None:
    json.loads(VALUE)
    (call,) = read(chat(VALUE[:length])).tool_calls
    assert call.broken is not None
    assert (call.broken.problem, call.broken.position) == (SAID, length)


@pytest.mark.parametrize(
    ("arguments", "problem", "position"),
    [
        ('{"city" "Bern", "x":', "Expecting ':' delimiter", 8),
        ('{"a": x', "Expecting value", 6),
        ('{"a": .', "Expecting value", 6),
        ('{"a": nl', "Expecting value", 6),
        ('{"a": "\\u0x', "Invalid \\uXXXX escape", 8),
        ('{"a": true e', "Expecting ',' delimiter", 11),
        ('{"a": 1}}', "Extra data", 8),
    ],
)
def test_arguments_that_broke_before_the_limit(arguments: str, problem: str, position: int) -> None:
    reading = read(chat(arguments))
    (call,) = reading.tool_calls
    assert call.broken is not None
    assert (call.broken.problem, call.broken.position) == (problem, position)
    assert "token limit" not in "".join(reading.irregular)


def test_arguments_that_end_without_a_limit_are_not_said_to_have_hit_one() -> None:
    reading = read(chat('{"city":"Zür', "tool_calls"))
    assert "token limit" not in answer_text(reading)
    assert "token limit" not in answer_text(read(v.events(v.chunk(v.call(0, '{"city":"Zür', "c", "f")))))


@pytest.mark.parametrize(
    "reason", ["length", "max_tokens", "MAX_TOKENS", "LENGTH", "model_length", "model_context_window_exceeded"]
)
def test_a_limit_by_any_vendor_s_name(reason: str) -> None:
    (call,) = read(chat('{"a"', reason)).tool_calls
    assert call.broken is not None
    assert call.broken.problem == SAID


@pytest.mark.parametrize(("stream", "reason"), CUT)
def test_a_limit_before_the_arguments_of_the_last_call(stream: Any, reason: str) -> None:
    reading = read(stream(""))
    assert reading.irregular == (f"tool call 1: the answer hit its token limit ({reason}) before its arguments",)
    assert [(call.arguments, call.parsed, call.broken) for call in reading.tool_calls] == [("", None, None)]


def test_whole_arguments_before_the_limit_are_whole() -> None:
    first, second = v.chunk(v.call(0, '{"a":1}', "c", "f")), v.chunk(v.call(1, '{"a":', "d", "f"))
    reading = read(v.chat(first, second, v.chunk({}, "length")))
    assert [call.parsed for call in reading.tool_calls] == [{"a": 1}, None]
    assert reading.irregular == (
        "tool call 2: its arguments are not JSON: the answer hit its token limit (length) in the middle of them",
    )


def test_arguments_by_paths_that_the_limit_cuts() -> None:
    begun = [{"jsonPath": "$.a", "stringValue": "Zü", "willContinue": True}]
    call = {"name": "f", "partialArgs": begun, "willContinue": True}
    reading = read(v.events(v.part({"functionCall": call}), v.part({"text": ""}, finish="MAX_TOKENS")))
    assert reading.tool_calls[0].parsed == {"a": "Zü"}
    assert "the answer hit its token limit (MAX_TOKENS) in the middle of the arguments of a call" in reading.irregular


def test_anthropic_s_sdk_has_no_arguments_either(vendor: Vendor) -> None:
    vendor.body = messages("")
    with anthropic.Anthropic(base_url=vendor.url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "claude-opus-4-6", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
        with client.messages.stream(**asked) as events:
            message: Any = events.get_final_message()
    assert (message.stop_reason, message.content[0].input) == ("max_tokens", {})


def without(*fragments: str, **given: Any) -> bytes:
    deltas = [v.delta(0, "input_json", partial_json=one) for one in fragments]
    return v.messages(v.start(), v.block(0, "tool_use", id="c", name="f", **given), *deltas, v.stop(0),
                      *v.finish("tool_use"))  # fmt: skip


@pytest.mark.parametrize("fragments", [[], [""], ["", ""], ["{}"], ["{", "}"]])
@pytest.mark.parametrize("given", [{}, {"input": {}}, {"input": None}, {"input": ""}])
def test_a_call_of_a_tool_without_parameters(fragments: list[str], given: Any) -> None:
    reading = read(without(*fragments, **given))
    (call,) = reading.tool_calls
    assert (call.id, call.name, call.arguments, call.parsed) == ("c", "f", "{}", {})
    assert (reading.complete, reading.irregular) == (True, ())


@pytest.mark.parametrize("given", [{}, {"input": None}, {"input": ""}])
def test_arguments_of_a_call_that_begins_without_an_input(given: Any) -> None:
    reading = read(without('{"a":', "1}", **given))
    assert (reading.tool_calls[0].parsed, reading.irregular) == ({"a": 1}, ())


def test_anthropic_s_sdk_reads_a_call_without_an_input(vendor: Vendor) -> None:
    vendor.body = without()
    with anthropic.Anthropic(base_url=vendor.url, api_key="none", max_retries=0) as client:
        asked: Any = {"model": "claude-opus-4-6", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
        with client.messages.stream(**asked) as events:
            message: Any = events.get_final_message()
    (call,) = read(vendor.body).tool_calls
    assert (message.stop_reason, message.content[0].id, message.content[0].name) == ("tool_use", call.id, call.name)
    assert not getattr(message.content[0], "input", None)
    whole = read_answer("application/json", json.dumps(message.to_dict()).encode())
    assert whole is not None
    assert (whole.tool_calls, whole.irregular) == ((call,), ())


@pytest.mark.parametrize("arguments", ["null", "", "{}", None])
def test_cohere_s_calls_of_a_tool_without_parameters(arguments: str | None) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    answer = {"id": "a", "message": {"role": "assistant", "tool_calls": [call]}, "finish_reason": "TOOL_CALL",
              "usage": {"tokens": {"input_tokens": 1, "output_tokens": 2}}}  # fmt: skip
    reading = read_answer("application/json", json.dumps(answer).encode())
    assert reading is not None
    assert (reading.dialect, reading.irregular) == ("cohere-v2", ())
    assert [(one.arguments, one.parsed) for one in reading.tool_calls] == [("{}", {})]
