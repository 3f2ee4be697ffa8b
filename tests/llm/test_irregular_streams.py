"""What is odd in a stream is said in words, and the rest is read all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mitmproxy_x402.llm import ToolCall
from support.vendors import more_streams as m
from support.vendors import vendor_streams as v
from support.vendors.reading import read

ROLE, STOP, CALLS = v.ROLE, v.chunk({}, "stop"), v.chunk({}, "tool_calls")
BEGIN = v.chunk(v.call(0, "", "a", "x"))


CHAT: list[tuple[bytes, list[str]]] = [
    (
        v.chat(ROLE, BEGIN, v.chunk(v.call(0, '{"a":')), CALLS),
        ["tool call 1: its arguments are not JSON: Expecting value: line 1 column 6 (char 5)"],
    ),
    (
        v.chat(ROLE, BEGIN, CALLS),
        ["tool call 1 has no arguments at all, not even {}, which is what they are taken for"],
    ),
    (
        v.chat(ROLE, BEGIN, v.chunk(v.call(0, '{"a":1,"a":2}')), CALLS),
        ["tool call 1: in its arguments the key \"a\" is there twice"],
    ),
    (v.chat(ROLE, BEGIN, v.chunk(v.call(0, "[1]")), CALLS), ["tool call 1: its arguments are no JSON object"]),
    (
        v.chat(ROLE, BEGIN, v.chunk(v.call(0, "[" * 70 + "]" * 70)), CALLS),
        [],
    ),
    (v.chat(ROLE, v.chunk(v.call(2, "{}", "a", "x")), CALLS), ["the index of a tool call jumps to 2, after 0 calls"]),
    (v.chat(ROLE, v.chunk(v.call(0, "{}")), CALLS), ["tool call 1 has no name", "tool call 1 has no id"]),
    (
        v.chat(ROLE, v.chunk(v.call(0, "{}", "a", "x")), v.chunk(v.call(0, "{}", "b", "y")), CALLS),
        ["tool calls with different ids have one index; they are kept apart"],
    ),
    (
        v.chat(ROLE, v.chunk(v.call(0, "{", "a", "x")), v.chunk(v.call(0, "}", "a", "x")), CALLS),
        ["the name of a tool call comes again"],
    ),
    (
        v.chat(ROLE, v.chunk({"tool_calls": [{"id": "a", "function": {"name": "x", "arguments": {"b": 1}}}]}), CALLS),
        ["arguments of a tool call that are JSON, not text with JSON in it"],
    ),
    (v.chat(ROLE, STOP, STOP), []),
    (v.chat(ROLE, STOP, CALLS), [
        'a choice is finished twice, as "stop" and as "tool_calls"',
        'a choice is finished as "tool_calls", and there is no tool call in it',
    ]),
    (v.chat(ROLE, v.chunk({"content": "x"}), CALLS),
     ['a choice is finished as "tool_calls", and there is no tool call in it']),
    (v.chat(ROLE, BEGIN, v.chunk(v.call(0, "{}")), CALLS, v.chunk({"content": "x"}, "tool_calls", index=1)),
     ['a choice is finished as "tool_calls", and there is no tool call in it']),
    (v.chat(ROLE, v.chunk({"content": "x", "calls_of_a_vendor": [{"name": "f"}]}), CALLS), []),
    (v.chat(ROLE, BEGIN, v.chunk(v.call(0, '{"a":' + "9" * 5000 + "}")), CALLS),
     []),
    (v.chat(ROLE, v.chunk({"content": "x"}, "stop", usage={"n": 1})).replace(b'"n":1', b'"n":' + b"9" * 5000),
     ["[DONE] before every choice had its finish_reason"]),
    (v.chat(ROLE, v.chunk({"tool_calls": [{"index": "x", "id": "a", "function": {"name": "x", "arguments": "{}"}}]}),
            CALLS), ["a fragment of a tool call without a usable index"]),
    (v.chat(ROLE, v.chunk({"content": "x"}), STOP, v.chunk({"content": "late"})),
     ["more of a choice after its finish_reason"]),
    (v.chat(ROLE), ["[DONE] before every choice had its finish_reason"]),
    (v.chat(v.chunk({"content": ""}), STOP).replace(b'"index":0', b'"index":0,"text":"x"', 1),
     ["a choice has a text beside a delta without it, which OpenAI's SDK does not read"]),
    (v.chat(ROLE, v.chunk({"content": "x"})), ["[DONE] before every choice had its finish_reason"]),
    (v.chat(ROLE, v.chunk({"content": "x"})).replace(b',"finish_reason":null', b""), []),
    (v.chat(ROLE, BEGIN, v.chunk(v.call(0, "{}"))).replace(b',"finish_reason":null', b""), []),
    (v.chat(ROLE, v.chunk({"content": "x"}, "stop"), v.chunk({"content": "y"}, index=1)),
     ["[DONE] before every choice had its finish_reason"]),
    (v.chat(ROLE, BEGIN, v.chunk(v.call(0, "{}"))), ["[DONE] before every choice had its finish_reason"]),
    (v.events(ROLE, v.chunk({"content": "x"})) + b'error: {"error":{"message":"no room"}}\n\n',
     ["an error in a field of its own, which clients ignore"]),
    (v.chat(ROLE, STOP) + b"data: [DONE]\n\n", []),
    (v.chat(ROLE, STOP) + v.events(v.chunk(usage=None)), ["an event after [DONE]"]),
    (v.events(ROLE, STOP), []),
    (v.events(ROLE), ["the answer is not complete: there is no finish_reason, and no [DONE]"]),
    (v.chat(ROLE, STOP)[:-1], []),
    (v.chat(ROLE, STOP)[:-4], ["the stream ends in the middle of an event, which is discarded"]),
    (v.chat(ROLE, STOP).replace(b"\n\n", b"\n"), [
        "events without an empty line between them",
    ]),
    (v.chat(ROLE, v.chunk({"content": 5}), STOP), ["content that is no text: 5"]),
    (v.chat(ROLE, v.chunk({"content": "x"}, index=-1), STOP), ["a choice without a usable index, taken as 0"]),
    (v.chat(ROLE, STOP | {"model": "other"}), ["the model changes from \"gpt-5-mini\" to \"other\""]),
    (v.chat(ROLE, STOP | {"id": "other"}), ["the answer's id changes"]),
    (v.chat(ROLE, v.chunk({"content": "x"}) | {"id": "second"}, STOP | {"id": "third"}), []),
    (v.chat(ROLE, STOP, v.chunk(usage={"prompt_tokens": -4})), ["a number of tokens that is less than zero: -4"]),
    (v.chat(ROLE, 17, STOP), ["the data of event 2 is no JSON object"]),
    (v.chat(ROLE, STOP) + b"data: {'x'}\n\n", [
        "the data of event 4 is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    ]),
    (v.chat(ROLE, STOP).replace(b'"object"', b'"id":"chatcmpl-1","object"', 1),
     ['in the data of event 1 the key \"id\" is there twice']),
    (v.chat(ROLE, v.stop(0), STOP), ["an event in another dialect (anthropic-messages)"]),
    (v.chat({"hello": 1}, ROLE, STOP), []),
    (v.events({"hello": 1}), ["JSON in no known dialect"]),
    (v.chat(ROLE, STOP, v.chunk(usage={"prompt_tokens": 1.5})), ["a number of tokens that is not a whole number: 1.5"]),
    (v.chat(ROLE, STOP, v.chunk(usage={"prompt_tokens": 10**30})),
     [f"a number of tokens that is larger than any that readers of JSON agree about: 1{'0' * 30}"]),
    (v.chat(ROLE, STOP, v.chunk(usage={"prompt_tokens": 10**400})),
     [f"a number of tokens that is larger than any that readers of JSON agree about: 1{'0' * 59}…"]),
    (v.chat(ROLE, STOP, v.chunk(usage={"prompt_tokens": float("nan")})),
     ['in the data of event 3 "NaN" is not a finite number', "a number of tokens that is not a finite number: NaN"]),
    (v.chat(ROLE, STOP, v.chunk(usage={"prompt_tokens": "8"})), ['a number of tokens that is text: "8"']),
    (v.chat(ROLE, STOP, v.chunk(usage={"prompt_tokens": True})), ["a number of tokens that is not a number: true"]),
    (v.events(v.part({"text": "x"}, finish="STOP", usageMetadata={"promptTokenCount": "8"})), []),
    (b"event: delta\n" + v.chat(ROLE, STOP), []),
    (b"event: thread.x\n" + v.chat(ROLE, STOP), ["an event called \"thread.x\""]),
    (b"data: [DONE]\n\n" + v.chat(ROLE, STOP), ["a [DONE] before anything was said"]),
    (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n" + v.chat(ROLE, STOP),
     ["a byte order mark in the middle of the stream hides a field"]),
]  # fmt: skip
HELLO = v.block(0, "text", text="")
HELLOED = v.stop(0)
END = v.finish("end_turn")
MESSAGES: list[tuple[bytes, list[str]]] = [
    (v.messages(v.start(), HELLO, HELLOED, *END[:1]), ["the answer is not complete: there is no message_stop"]),
    (v.messages(v.start(), HELLO, HELLOED, END[1]), ["message_stop without a stop_reason"]),
    (v.messages(v.start(), HELLO, *END), ["message_stop while a block is open"]),
    (v.messages(v.start(), v.start(), *END), ["a second message_start"]),
    (v.messages(HELLO, HELLOED, v.start(), *END), ["an event before message_start (2 times)"]),
    (v.messages(v.start(), HELLO, HELLO, HELLOED, *END), ["a block begins twice"]),
    (v.messages(v.start(), v.block(3, "text", text="x"), v.stop(3), *END),
     ["the index of a block jumps to 3, after 0 blocks"]),
    (v.messages(v.start(), HELLOED, *END), ["a block ends that is not open"]),
    (v.messages(v.start(), v.delta(0, "text", text="x"), HELLOED, *END),
     ["a fragment for block 0, which has not begun"]),
    (v.messages(v.start(), HELLO, HELLOED, v.delta(0, "text", text="x"), *END),
     ["a fragment for block 0, which has ended"]),
    (v.messages(v.start(), HELLO, v.delta(0, "thinking", thinking="x"), HELLOED, *END),
     ["a thinking_delta in a block of another kind"]),
    (v.messages(v.start(), HELLO, v.delta(0, "smell", smell="x"), HELLOED, *END),
     []),
    (v.messages(v.start(), HELLO, {"type": "wave"}, HELLOED, {"type": "wave"}, *END),
     []),
    (v.messages(v.start(), *END, v.PING), []),
    (v.messages(v.start(), HELLO, HELLOED, *v.finish("tool_use")),
     ['a choice is finished as "tool_use", and there is no tool call in it']),
    (v.messages(v.start(), HELLO, HELLOED, {"type": "wave"}, *v.finish("tool_use")), []),
    (v.messages(v.start(), *END, END[0]), ["an event after message_stop"]),
    (v.messages(v.start(), END[0], *END), []),
    (v.messages(v.start(), *END).replace(b"event: message_delta", b"event: ping"),
     ["an event called \"ping\" whose data says \"message_delta\""]),
    (v.messages(v.start(), *END) + b"data: [DONE]\n\n", []),
    (
        v.messages(v.start(), v.block(0, "tool_use", id="t", name="n", input={}),
                   v.delta(0, "input_json", partial_json='{"a'), HELLOED, *END),
        ["tool call 1: its arguments are not JSON: Unterminated string starting at: line 1 column 2 (char 1)"],
    ),
]  # fmt: skip
SAYS = [v.CREATED, v.item(0, v.message()), v.fragment("output_text", 0, "It rains.", content_index=0)]
SAID = [v.item(0, v.message(v.RAINS), "done"), v.state("completed", [v.message(v.RAINS)])]
SNOWS = {**v.RAINS, "text": "It snows."}
RESPONSES: list[tuple[bytes, list[str]]] = [
    (v.numbered(*SAYS, *SAID[:1]), ["the answer is not complete: there is no last state of the response"]),
    (v.numbered(*SAYS, v.whole("output_text", 0, text="It snows.", content_index=0), *SAID),
     ["text: the whole is not what its fragments said, which are shown"]),
    (v.numbered(*SAYS, v.item(0, v.message(SNOWS), "done"), *SAID[1:]),
     ["text: the whole is not what its fragments said, which are shown"]),
    (v.numbered(*SAYS, SAID[0], v.state("completed", [v.message(v.RAINS), v.CALLED])),
     ["the whole response at the end has another number of items than its events"]),
    (v.numbered(v.CREATED, SAYS[2], *SAID), ["a fragment for an item that has not begun"]),
    (v.numbered(*SAYS, v.whole("output_text", 0, text="It rains.", content_index=0),
                v.fragment("output_text", 0, "", content_index=0), *SAID),
     ["a fragment for a part that has ended"]),
    (v.numbered(*SAYS, v.fragment("function_call_arguments", 0, "{}"), *SAID),
     ["item 0 changes what it is", "tool call 1 has no name", "tool call 1 has no id"]),
    (v.numbered(*SAYS, {"type": "response.steam.delta"}, *SAID), []),
    (v.numbered(*SAYS, {"type": "keepalive"}, *SAID), []),
    (v.numbered(*SAYS, *SAID, {"type": "response.in_progress", "response": {}}),
     ["an event after the response's last state"]),
    (v.events(*({**one, "sequence_number": n} for n, one in ((1, v.CREATED), (2, SAYS[1]), (5, SAID[1])))),
     ["the sequence_number jumps from 2 to 5"]),
    (v.numbered(*SAYS, *SAID) + b"data: [DONE]\n\n", []),
]  # fmt: skip
GEMINI: list[tuple[bytes, list[str]]] = [
    (v.events(v.part({"text": "x"})), ["the answer is not complete: there is no finishReason"]),
    (v.array([v.part({"text": "x"}, finish="STOP")])[:-2],
     ["the array does not end"]),
    (v.array([v.part({"text": "x"}), v.part({"text": "y"}, finish="STOP")]).replace(b"},{", b"} {").replace(
        b"},\r\n{", b"}\r\n{"), ["elements of the array without a comma between them"]),
    (v.array([v.part({"text": "x"})])[:-2],
     ["the array does not end", "the answer is not complete: there is no finishReason"]),
    (v.array([v.part({"text": "x"}, finish="STOP")]) + b"[1]", ["something follows the array"]),
    (v.array([v.part({"text": "x"}, finish="STOP"), 5]), ["element 2 is no JSON object"]),
    (v.array([v.part({"text": "x"}, finish="STOP")])[:-2] + b",]", ["an element of the array is missing"]),
    (v.events(v.part({"text": "x"}, index="one", finish="STOP")),  # type: ignore[arg-type]
     ["a candidate without a usable index, taken as 0"]),
    (v.events(v.part({"functionCall": {"name": "f", "partialArgs": [{"jsonPath": "$.a"}]}}, finish="STOP")),
     ["an argument that comes in parts does not end"]),
    (v.events(v.part({"functionCall": {"name": "f", "partialArgs": [{"jsonPath": "$..a", "numberValue": 1}]}},
                     finish="STOP")),
     ["arguments that come in parts with a path that fits nowhere, shown as they came"]),
    (v.events(v.part({"functionCall": {"name": "f", "willContinue": True}})),
     ["the answer is not complete: there is no finishReason", "the arguments of a call that come in parts do not end"]),
    (v.events(v.part({"text": "x"}, finish="STOP"), v.part({"text": "y"}, finish="SAFETY")), []),
]  # fmt: skip


@pytest.mark.parametrize(("body", "remarks"), [*CHAT, *MESSAGES, *RESPONSES, *GEMINI])
def test_what_is_odd_is_said(body: bytes, remarks: list[str]) -> None:
    assert list(read(body).irregular) == remarks


@pytest.mark.parametrize(
    ("body", "unread"),
    [
        (v.messages(v.start(), HELLO, {"type": "wave"}, HELLOED, {"type": "wave"}, *END),
         ['wave (2 times): {"type":"wave"}']),
        (v.messages(v.start(), HELLO, v.delta(0, "smell", smell="rose"), HELLOED, *END),
         ['smell_delta: {"type":"smell_delta","smell":"rose"}']),
        (v.numbered(*SAYS, {"type": "response.steam.delta", "delta": "x"}, *SAID),
         ['response.steam.delta: {"type":"response.steam.delta","delta":"x","sequence_number":3}']),
        (v.messages(v.start(), *({"type": f"t{n}"} for n in range(50)), *END),
         [f't{n}: {{"type":"t{n}"}}' for n in range(20)]),
    ],
)  # fmt: skip
def test_events_of_new_types_are_shown_and_not_odd(body: bytes, unread: list[str]) -> None:
    reading = read(body)
    assert (list(reading.unread), reading.irregular, reading.complete) == (unread, (), True)


DEEP = '{"a":' * 100 + "1" + "}" * 100


@pytest.mark.parametrize(
    ("arguments", "irregular", "unchecked"),
    [
        (DEEP, [], ["tool call 1: its arguments are nested deeper than 64 levels"]),
        (DEEP[:-1] + "]", ["tool call 1: its arguments are not JSON: Expecting ',' delimiter (char 600)"], []),
        ("[" * 100_000 + "]" * 100_000, [], ["tool call 1: its arguments are nested deeper than 64 levels"]),
        ('{"a":' + "9" * 5000 + "}", [],
         ["tool call 1: its arguments are JSON with a number of more than 4,300 digits, which is not read here"]),
        ('{"a":' + "9" * 5000 + "]", ["tool call 1: its arguments are not JSON: Expecting ',' delimiter (char 5005)"],
         []),
    ],
    ids=["deep", "deep and broken", "too deep to tell", "long number", "long number and broken"],
)  # fmt: skip
def test_what_may_be_valid_is_not_checked(arguments: str, irregular: list[str], unchecked: list[str]) -> None:
    reading = read(v.chat(ROLE, BEGIN, v.chunk(v.call(0, arguments)), CALLS))
    [call] = reading.tool_calls
    assert (list(reading.irregular), list(reading.unchecked)) == (irregular, unchecked)
    assert (call.arguments, call.broken is not None) == (arguments, bool(irregular))


TOOL = v.block(0, "tool_use", id="t", name="f", input={})
TAKEN = {"type": "step.start", "event_type": "step.start", "index": 0, "step": {"type": "function_call", "name": "f"}}


@pytest.mark.parametrize(
    ("begun", "stop"),
    [
        (v.messages(v.start(), TOOL), v.messages(v.stop(0))),
        (m.STARTED + m.event("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": {
            "toolUseId": "t", "name": "f"}}}), m.event("contentBlockStop", {"contentBlockIndex": 0})),
        (v.events(m.v2("message-start", id="c"), m.v2("tool-call-start", 0, {"tool_calls": {
            "id": "t", "function": {"name": "f", "arguments": ""}}})), v.events(m.v2("tool-call-end", 0))),
        (v.events(m.interaction("created", "in_progress"), TAKEN), v.events(m.step("stop", 0))),
        (v.events(ROLE, v.chunk(v.call(0, "", "a", "f"))), b""),
        (v.numbered(v.CREATED, v.item(0, {**v.CALLED, "arguments": ""})), b""),
    ],
    ids=["messages", "converse", "cohere", "interactions", "chat", "responses"],
)  # fmt: skip
def test_a_call_that_breaks_off_before_its_arguments_is_given_none(begun: bytes, stop: bytes) -> None:
    [call], remarks = read(begun).tool_calls, read(begun).irregular
    assert (call.arguments, call.parsed) == ("", None)
    assert "tool call 1 breaks off before its arguments" in remarks
    if stop:
        [call], remarks = read(begun + stop).tool_calls, read(begun + stop).irregular
        assert (call.arguments, call.parsed) == ("{}", {})
        assert "tool call 1 breaks off before its arguments" not in remarks


def test_an_event_that_is_not_read_is_listed() -> None:
    reading = read(v.chat(ROLE, v.chunk({"content": "x", "of_a_vendor": json.loads(DEEP)}), v.chunk({}, "stop")))
    assert (reading.irregular, reading.unchecked) == ((), ("the data of event 2 is nested deeper than 64 levels",))
    assert reading.unread[0].startswith("not read: ")


@pytest.mark.parametrize("name", v.every_stream())
def test_what_vendors_send_is_not(name: str) -> None:
    assert read(v.every_stream()[name]).irregular == ()


@pytest.mark.parametrize(
    "body", [v.events(ROLE), v.messages(v.start(), END[0]), v.numbered(*SAYS), v.events(ROLE, STOP)[:-3]]
)
def test_without_its_end_an_answer_is_not_complete(body: bytes) -> None:
    assert read(body).complete is False


def test_older_models_of_gemini_finish_in_every_response() -> None:
    reading = read(v.events(v.part({"text": "a"}, finish="STOP"), v.part({"text": "b"}, finish="STOP")))
    assert (reading.text, reading.irregular, reading.complete) == ("ab", (), True)


def test_a_blocked_prompt_is_a_complete_answer() -> None:
    reading = read(v.events(v.GEMINI_BLOCKED))
    assert (reading.stop_reason, reading.complete, reading.irregular) == ("blocked: PROHIBITED_CONTENT", True, ())


@pytest.mark.parametrize(
    ("parts", "arguments"),
    [
        ([("$.a", "x")], {"a": "x"}),
        ([("$.a.b[0]", 1), ("$.a.b[1].c", True), ("$['d e']", None)], {"a": {"b": [1, {"c": True}]}, "d e": None}),
        ([("$.a", "x", True), ("$.b", "y", True), ("$.a", "X"), ("$.b", "Y")], {"a": "xX", "b": "yY"}),
    ],
)
def test_arguments_in_parts_are_put_together(parts: list[Any], arguments: Any) -> None:
    names = {str: "stringValue", int: "numberValue", bool: "boolValue", type(None): "nullValue"}
    said = [
        {"jsonPath": path, names[type(value)]: value, **({"willContinue": True} if more else {})}
        for path, value, *more in parts
    ]
    head = v.part({"functionCall": {"name": "f", "id": "c", "willContinue": True}})
    calls = [v.part({"functionCall": {"partialArgs": [one], "willContinue": True}}) for one in said]
    reading = read(v.events(head, *calls, v.part({"functionCall": {}}, finish="STOP")))
    [call] = reading.tool_calls
    assert (call.id, call.name, call.parsed, reading.irregular) == ("c", "f", arguments, ())


@pytest.mark.parametrize(
    "path", ["", "$", "a", "$.a[-1]", "$.a[1]", "$.a[99999999]", "$.a[*]", "$..a", "$.a[?(@.b)]", "$" + ".a" * 40]
)
def test_arguments_at_paths_that_are_unclear_are_shown_as_they_came(path: str) -> None:
    call = {"name": "f", "id": "c", "partialArgs": [{"jsonPath": path, "stringValue": "x"}]}
    reading = read(v.events(v.part({"functionCall": call}, finish="STOP")))
    assert reading.items == (ToolCall("c", "f", f'[{{"jsonPath":"{path}","stringValue":"x"}}]', kind="custom"),)


def test_one_argument_said_twice_is_shown_as_it_came() -> None:
    said = [{"jsonPath": "$.a", "stringValue": "x"}, {"jsonPath": "$.a", "stringValue": "y"}]
    reading = read(v.events(v.part({"functionCall": {"name": "f", "partialArgs": said}}, finish="STOP")))
    assert [json.loads(call.arguments) for call in reading.tool_calls] == [said]


def test_a_stop_reason_that_is_no_text_is_none() -> None:
    ended = v.chunk({}, "stop")
    ended["choices"][0]["finish_reason"] = 5
    reading = read(v.chat(ROLE, v.chunk({"content": "x"}), ended))
    assert reading.stop_reason is None
    assert reading.irregular[0] == "a stop reason that is no text: 5"
