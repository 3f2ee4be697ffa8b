"""Streams in the shapes that vendors send, written by hand after their references: what the sandbox does not say."""

from __future__ import annotations

import json
from typing import Any


def dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def events(*values: Any, named: bool = False, done: bool = False) -> bytes:
    """Server-sent events with these values as their data."""
    texts = [(f"event: {value['type']}\n" if named else "") + f"data: {dump(value)}\n\n" for value in values]
    return "".join([*texts, "data: [DONE]\n\n" if done else ""]).encode()


# OpenAI chat completions.


def chunk(delta: Any = None, finish: str | None = None, *, index: int = 0, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5-mini"}
    return {**head, "choices": choices, **more}


def call(index: int, arguments: str, identity: str | None = None, name: str | None = None) -> dict[str, Any]:
    """A delta with one fragment of a call."""
    if identity is None:
        return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": identity, "type": "function", "function": function}]}


def chat(*values: Any) -> bytes:
    return events(*values, done=True)


CHAT_USAGE = {
    "prompt_tokens": 700,
    "completion_tokens": 112,
    "total_tokens": 812,
    "prompt_tokens_details": {"cached_tokens": 640, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 64},
}
ROLE = chunk({"role": "assistant", "content": ""})
CHAT = {
    "text": chat(
        ROLE,
        chunk({"content": "Grüße"}),
        chunk({"content": ", 🦀"}),
        chunk({}, "stop"),
        chunk(usage=CHAT_USAGE),
    ),
    "filtered": chat(
        chunk(prompt_filter_results=[{"prompt_index": 0}]) | {"id": "", "model": ""},
        ROLE,
        chunk({"content": "cut o"}),
        chunk({}, "content_filter"),
    ),
    "interleaved": chat(
        chunk({"role": "assistant", "content": None}),
        chunk(call(0, "", "call_a", "weather")),
        chunk(call(1, "", "call_b", "time")),
        chunk(call(0, '{"ci')),
        chunk(call(1, '{"zone":"C')),
        chunk(call(0, 'ty":"Zürich"}')),
        chunk(call(1, 'ET"}')),
        chunk({}, "tool_calls"),
    ),
    "both in one delta": chat(
        chunk({"role": "assistant", "content": "Two at once."}),
        chunk({"tool_calls": call(0, "{}", "call_a", "a")["tool_calls"] + call(1, '{"y', "call_b", "b")["tool_calls"]}),
        chunk({"tool_calls": call(1, '":2}')["tool_calls"] + call(2, '{"x":1}', "call_c", "c")["tool_calls"]}),
        chunk({}, "tool_calls"),
    ),
    "no arguments": chat(chunk(call(0, "{}", "call_a", "now")), chunk({}, "tool_calls")),
    "refusal": chat(ROLE, chunk({"refusal": "I can't "}), chunk({"refusal": "help."}), chunk({}, "stop")),
    "two choices": chat(
        chunk({"role": "assistant", "content": "Ye"}),
        chunk({"role": "assistant", "content": "N"}, index=1),
        chunk({"content": "s"}),
        chunk({"content": "o"}, index=1),
        chunk({}, "length", index=1),
        chunk({}, "stop"),
    ),
    "function_call": chat(
        chunk({"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": ""}}),
        chunk({"function_call": {"arguments": '{"city":'}}),
        chunk({"function_call": {"arguments": '"Bern"}'}}),
        chunk({}, "function_call"),
    ),
    "reasoning_content": chat(
        chunk({"role": "assistant", "content": None, "reasoning_content": "Let me "}),
        chunk({"content": None, "reasoning_content": "see."}),
        chunk({"content": "42", "reasoning_content": None}),
        chunk({"content": ""}, "stop"),
    ),
}
CHAT_ERROR = events(ROLE, chunk({"content": "so f"}), {"error": {"message": "Überlast", "type": "server_error"}})


# OpenAI responses.


def numbered(*values: dict[str, Any]) -> bytes:
    return events(*({**value, "sequence_number": n} for n, value in enumerate(values)), named=True)


def state(kind: str, output: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    response = {
        **{"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5", "status": kind, "error": None},
        **{"incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True},
        **{"temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0, "output": output or [], "usage": None},
        **more,
    }
    return {"type": f"response.{kind}", "response": response}


CREATED = state("created", status="in_progress")


def item(index: int, value: dict[str, Any], step: str = "added") -> dict[str, Any]:
    return {"type": f"response.output_item.{step}", "output_index": index, "item": value}


def fragment(what: str, index: int, delta: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{what}.delta", "item_id": "x", "output_index": index, "delta": delta, **more}


def whole(what: str, index: int, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{what}.done", "item_id": "x", "output_index": index, **more}


def content(index: int, value: dict[str, Any], step: str = "added") -> dict[str, Any]:
    place = {"item_id": "x", "output_index": index, "content_index": 0}
    return {"type": f"response.content_part.{step}", **place, "part": value}


def summary(place: int) -> dict[str, Any]:
    where = {"item_id": "x", "output_index": 0, "summary_index": place}
    return {"type": "response.reasoning_summary_part.added", **where, "part": {"type": "summary_text", "text": ""}}


RESPONSES_USAGE = {
    "input_tokens": 700,
    "input_tokens_details": {"cached_tokens": 640},
    "output_tokens": 112,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 812,
}
_SUMMARY = [{"type": "summary_text", "text": "First,"}, {"type": "summary_text", "text": "then."}]
_THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": _SUMMARY, "encrypted_content": "gAAAA"}
CALLED = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city":"Bern"}'}
_PATCHED = {"id": "ct_1", "type": "custom_tool_call", "call_id": "call_2", "name": "apply", "input": "*** Begin\n+x"}
_SEARCHED = {
    **{"id": "ws_1", "type": "web_search_call", "status": "completed"},
    "action": {"type": "search", "query": "Bern", "sources": None},
}
_MCP = {
    **{"id": "mcp_1", "type": "mcp_call", "server_label": "docs", "name": "find", "arguments": '{"q":"x"}'},
    **{"output": "found", "error": None, "approval_request_id": None},
}


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": list(parts)}


RAINS = {"type": "output_text", "text": "It rains.", "annotations": [], "logprobs": []}
_NO = {"type": "refusal", "refusal": "I can't help."}
RESPONSES = {
    "reasoning and calls": numbered(
        CREATED,
        state("in_progress"),
        item(0, {**_THOUGHT, "summary": [], "encrypted_content": "gA"}),
        summary(0),
        fragment("reasoning_summary_text", 0, "Fir", summary_index=0),
        fragment("reasoning_summary_text", 0, "st,", summary_index=0),
        whole("reasoning_summary_text", 0, text="First,", summary_index=0),
        summary(1),
        fragment("reasoning_summary_text", 0, "then.", summary_index=1),
        whole("reasoning_summary_text", 0, text="then.", summary_index=1),
        item(0, _THOUGHT, "done"),
        item(1, {**CALLED, "arguments": ""}),
        fragment("function_call_arguments", 1, '{"city":'),
        item(2, {**_PATCHED, "input": ""}),
        fragment("custom_tool_call_input", 2, "*** Begin\n"),
        fragment("function_call_arguments", 1, '"Bern"}'),
        whole("function_call_arguments", 1, arguments=CALLED["arguments"], name="weather"),
        item(1, CALLED, "done"),
        fragment("custom_tool_call_input", 2, "+x"),
        whole("custom_tool_call_input", 2, input=_PATCHED["input"]),
        item(2, _PATCHED, "done"),
        state("completed", [_THOUGHT, CALLED, _PATCHED], usage=RESPONSES_USAGE),
    ),
    "search and text": numbered(
        CREATED,
        item(0, {**_SEARCHED, "status": "in_progress"}),
        {"type": "response.web_search_call.searching", "item_id": "ws_1", "output_index": 0},
        {"type": "response.web_search_call.completed", "item_id": "ws_1", "output_index": 0},
        item(0, _SEARCHED, "done"),
        item(1, message()),
        content(1, {**RAINS, "text": ""}),
        fragment("output_text", 1, "It ", content_index=0, logprobs=[]),
        fragment("output_text", 1, "rains.", content_index=0, logprobs=[]),
        whole("output_text", 1, text="It rains.", content_index=0, logprobs=[]),
        content(1, RAINS, "done"),
        item(1, message(RAINS), "done"),
        state("completed", [_SEARCHED, message(RAINS)], usage=RESPONSES_USAGE),
    ),
    "refusal": numbered(
        CREATED,
        item(0, message()),
        content(0, {**_NO, "refusal": ""}),
        fragment("refusal", 0, "I can't help.", content_index=0),
        whole("refusal", 0, refusal="I can't help.", content_index=0),
        item(0, message(_NO), "done"),
        state("completed", [message(_NO)]),
    ),
    "mcp": numbered(
        CREATED,
        item(0, {**_MCP, "arguments": "", "output": None}),
        {"type": "response.mcp_call.in_progress", "item_id": "mcp_1", "output_index": 0},
        fragment("mcp_call_arguments", 0, '{"q":"x"}'),
        whole("mcp_call_arguments", 0, arguments='{"q":"x"}'),
        {"type": "response.mcp_call.completed", "item_id": "mcp_1", "output_index": 0},
        item(0, _MCP, "done"),
        state("completed", [_MCP]),
    ),
    "incomplete": numbered(
        CREATED,
        item(0, message()),
        content(0, {**RAINS, "text": ""}),
        fragment("output_text", 0, "It rains.", content_index=0, logprobs=[]),
        whole("output_text", 0, text="It rains.", content_index=0, logprobs=[]),
        item(0, message(RAINS), "done"),
        state("incomplete", [message(RAINS)], incomplete_details={"reason": "max_output_tokens"}),
    ),
}
RESPONSES_FAILED = numbered(
    CREATED,
    item(0, message()),
    fragment("output_text", 0, "It r", content_index=0, logprobs=[]),
    state("failed", error={"code": "server_error", "message": "The model broke."}),
)
RESPONSES_ERROR = numbered(
    CREATED,
    {"type": "error", "code": "rate_limit_exceeded", "message": "Slow down.", "param": None},
)


# Anthropic messages.


def messages(*values: Any) -> bytes:
    return events(*values, named=True)


def start(**usage: Any) -> dict[str, Any]:
    begun = {
        **{"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-4-6", "content": []},
        **{"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 60, "output_tokens": 1, **usage}},
    }
    return {"type": "message_start", "message": begun}


def block(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}


def delta(index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", **more}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finish(reason: str, **usage: Any) -> list[dict[str, Any]]:
    ended = {"stop_reason": reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 112, **usage}},
        {"type": "message_stop"},
    ]


PING = {"type": "ping"}
_HIT = {"type": "web_search_result", "title": "Bern", "url": "https://bern.example", "encrypted_content": "E"}
_CITED = {"type": "web_search_result_location", "cited_text": "x", "url": "https://x", "title": "x"}
MESSAGES = {
    "thinking and a tool": messages(
        start(cache_read_input_tokens=640, cache_creation_input_tokens=0),
        block(0, "thinking", thinking="", signature=""),
        PING,
        delta(0, "thinking", thinking="Hm, "),
        delta(0, "thinking", thinking="日本"),
        delta(0, "signature", signature="EqQB"),
        stop(0),
        block(1, "text", text=""),
        delta(1, "text", text="Let me "),
        delta(1, "text", text="look."),
        stop(1),
        block(2, "tool_use", id="toolu_1", name="weather", input={}),
        delta(2, "input_json", partial_json=""),
        delta(2, "input_json", partial_json='{"city": "Zü'),
        delta(2, "input_json", partial_json='rich"}'),
        stop(2),
        *finish("tool_use", output_tokens_details={"thinking_tokens": 64}),
    ),
    "parallel tools without arguments": messages(
        start(),
        block(0, "tool_use", id="toolu_1", name="now", input={}),
        stop(0),
        block(1, "tool_use", id="toolu_2", name="here", input={}),
        delta(1, "input_json", partial_json=""),
        stop(1),
        *finish("tool_use"),
    ),
    "server tool": messages(
        start(),
        block(0, "server_tool_use", id="srvtoolu_1", name="web_search", input={}),
        delta(0, "input_json", partial_json='{"query":"Bern"}'),
        stop(0),
        block(1, "web_search_tool_result", tool_use_id="srvtoolu_1", content=[{**_HIT, "page_age": None}]),
        stop(1),
        block(2, "text", text=""),
        delta(2, "text", text="It is in Switzerland."),
        delta(2, "citations", citation={**_CITED, "encrypted_index": "E"}),
        stop(2),
        *finish("end_turn"),
    ),
    "redacted": messages(
        start(),
        block(0, "redacted_thinking", data="EmwKAh"),
        stop(0),
        block(1, "text", text=""),
        delta(1, "text", text="Done"),
        stop(1),
        *finish("max_tokens"),
    ),
    "nothing": messages(start(), *finish("end_turn")),
}
MESSAGES_ERROR = messages(
    start(),
    block(0, "text", text=""),
    delta(0, "text", text="so f"),
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
)


# Gemini.


def part(*parts: Any, finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": index}
    if finish:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "modelVersion": "gemini-3-pro", "responseId": "r1", **more}


GEMINI_USAGE = {
    **{"promptTokenCount": 700, "candidatesTokenCount": 48, "thoughtsTokenCount": 64, "totalTokenCount": 812},
    "cachedContentTokenCount": 640,
}
GEMINI = {
    "thoughts and a call": [
        part({"text": "Hm, ", "thought": True}),
        part({"text": "日本", "thought": True}, usageMetadata={"promptTokenCount": 700, "thoughtsTokenCount": 64}),
        part({"text": "Let me "}),
        part({"text": "look."}, {"functionCall": {"name": "weather", "args": {"city": "Zürich"}, "id": "c1"}}),
        part({"functionCall": {"name": "now"}, "thoughtSignature": "RXFR"}),
        part({"text": "", "thoughtSignature": "RXFS"}, finish="STOP", usageMetadata=GEMINI_USAGE),
    ],
    "two candidates": [
        part({"text": "Ye"}),
        part({"text": "No"}, index=1, finish="STOP"),
        part({"text": "s"}, finish="MAX_TOKENS"),
    ],
    "code": [
        part({"executableCode": {"language": "PYTHON", "code": "print(1)"}}),
        part({"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1\n"}}),
        part({"text": "One"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw0K"}}, finish="STOP"),
    ],
}
GEMINI_BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": "gemini-3-pro"}
GEMINI_FAULT = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}
GEMINI_ERROR = events(part({"text": "x"}), GEMINI_FAULT)


def array(values: list[Any]) -> bytes:
    """Gemini's answer to a request without `alt=sse`: one array."""
    return b"[" + b",\r\n".join(json.dumps(value, indent=2).encode() for value in values) + b"\n]\n"


def every_stream() -> dict[str, bytes]:
    """All of them, by vendor and name."""
    return {
        **{f"chat {name}": body for name, body in CHAT.items()},
        **{f"responses {name}": body for name, body in RESPONSES.items()},
        **{f"messages {name}": body for name, body in MESSAGES.items()},
        **{f"gemini {name}": events(*values) for name, values in GEMINI.items()},
        **{f"gemini array {name}": array(values) for name, values in GEMINI.items()},
        **{"chat error": CHAT_ERROR, "messages error": MESSAGES_ERROR, "gemini error": GEMINI_ERROR},
        **{"responses error": RESPONSES_ERROR, "responses failed": RESPONSES_FAILED},
    }
