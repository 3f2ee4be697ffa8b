"""Streams in the dialects beside the four large ones, and new shapes in those, written by hand after references."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from zlib import crc32

from support.vendors.vendor_streams import dump, events, numbered, state


def lines(*values: Any) -> bytes:
    return "".join(dump(value) + "\n" for value in values).encode()


# Amazon's frames.


def frame(payload: bytes, **headers: str) -> bytes:
    told = b""
    for key, value in headers.items():
        name = b":" + key.replace("_", "-").encode()
        told += bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(told) + len(payload), len(told))
    message = prelude + struct.pack(">I", crc32(prelude)) + told + payload
    return message + struct.pack(">I", crc32(message))


def event(kind: str, value: Any) -> bytes:
    return frame(dump(value).encode(), event_type=kind, content_type="application/json", message_type="event")


def exception(kind: str, value: Any) -> bytes:
    return frame(dump(value).encode(), exception_type=kind, message_type="exception")


def delta(index: int, **value: Any) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": index, "delta": value, "p": "abcdefgh"})


STARTED = event("messageStart", {"role": "assistant", "p": "ab"})
STOPPED = [event("contentBlockStop", {"contentBlockIndex": index}) for index in range(4)]
CONVERSE_USAGE = {"inputTokens": 60, "outputTokens": 12, "totalTokens": 712, "cacheReadInputTokens": 640}
CONVERSE = {
    "all": b"".join((
        STARTED,
        delta(0, reasoningContent={"text": "Hm, "}), delta(0, reasoningContent={"text": "日本"}),
        delta(0, reasoningContent={"signature": "EqQB"}), STOPPED[0],
        delta(1, text="Grüße"), delta(1, text=", 🦀"),
        delta(1, citation={"title": "two.txt", "sourceContent": [{"text": "cited words"}], "location": {"x": 1}}),
        STOPPED[1],
        event("contentBlockStart", {"contentBlockIndex": 2,
                                    "start": {"toolUse": {"toolUseId": "t1", "name": "weather"}}}),
        delta(2, toolUse={"input": '{"ci'}), delta(2, toolUse={"input": 'ty":"Bern"}'}), STOPPED[2],
        event("contentBlockStart", {"contentBlockIndex": 3, "start": {"toolUse": {"toolUseId": "t2", "name": "now"}}}),
        STOPPED[3],
        event("messageStop", {"stopReason": "tool_use"}),
        event("metadata", {"usage": CONVERSE_USAGE, "metrics": {"latencyMs": 9}}),
    )),
    "nothing": STARTED + event("messageStop", {"stopReason": "end_turn"}),
}  # fmt: skip
CONVERSE_WHOLE: dict[str, Any] = {
    "output": {"message": {"role": "assistant", "content": [
        {"reasoningContent": {"reasoningText": {"text": "Hm, 日本", "signature": "EqQB"}}},
        {"citationsContent": {"content": [{"text": "Grüße, 🦀"}],
                              "citations": [{"title": "two.txt", "sourceContent": [{"text": "cited words"}]}]}},
        {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Bern"}}},
        {"toolUse": {"toolUseId": "t2", "name": "now", "input": {}}}]}},
    "stopReason": "tool_use", "usage": CONVERSE_USAGE, "metrics": {"latencyMs": 9},
}  # fmt: skip
CONVERSE_ERROR = STARTED + delta(0, text="so f") + exception("throttlingException", {"message": "Slow down."})

# Cohere.


def v2(kind: str, index: int | None = None, message: Any = None, **more: Any) -> dict[str, Any]:
    place = {} if index is None else {"index": index}
    return {"type": kind, **place, **({"delta": {"message": message}} if message is not None else {}), **more}


COHERE_USAGE = {
    "billed_units": {"input_tokens": 4.0, "output_tokens": 2.0},
    "tokens": {"input_tokens": 700.0, "output_tokens": 12.0},
}
SOURCE = {"type": "tool", "id": "t1:0", "tool_output": {"x": "1"}}
COHERE_CALLS = [
    {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bern"}'}},
    {"id": "t2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
]
COHERE_V2 = {
    "text": events(
        v2("message-start", id="c-1", delta={"message": {"role": "assistant", "content": [], "citations": []}}),
        v2("content-start", 0, {"content": {"type": "thinking", "thinking": ""}}),
        v2("content-delta", 0, {"content": {"thinking": "Hm, "}}),
        v2("content-delta", 0, {"content": {"thinking": "日本"}}),
        v2("content-end", 0),
        v2("content-start", 1, {"content": {"type": "text", "text": ""}}),
        v2("content-delta", 1, {"content": {"text": "Grüße"}}), v2("content-delta", 1, {"content": {"text": ", 🦀"}}),
        v2("citation-start", 0, {"citations": {"start": 0, "end": 5, "text": "Grüße", "sources": [SOURCE]}}),
        v2("citation-end", 0), v2("content-end", 1),
        v2("message-end", delta={"finish_reason": "COMPLETE", "usage": COHERE_USAGE}), done=True,
    ),
    "tools": events(
        v2("message-start", id="c-1", delta={"message": {"role": "assistant"}}),
        v2("tool-plan-delta", None, {"tool_plan": "First "}), v2("tool-plan-delta", None, {"tool_plan": "look."}),
        v2("tool-call-start", 0, {"tool_calls": {"id": "t1", "type": "function",
                                                 "function": {"name": "weather", "arguments": ""}}}),
        v2("tool-call-delta", 0, {"tool_calls": {"function": {"arguments": '{"ci'}}}),
        v2("tool-call-delta", 0, {"tool_calls": {"function": {"arguments": 'ty":"Bern"}'}}}),
        v2("tool-call-end", 0),
        v2("tool-call-start", 1, {"tool_calls": COHERE_CALLS[1]}), v2("tool-call-end", 1),
        v2("message-end", delta={"finish_reason": "TOOL_CALL", "usage": COHERE_USAGE}), named=True,
    ),
}  # fmt: skip
COHERE_V2_WHOLE: dict[str, Any] = {
    "text": {"id": "c-1", "finish_reason": "COMPLETE", "usage": COHERE_USAGE, "message": {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "Hm, 日本"}, {"type": "text", "text": "Grüße, 🦀"}],
        "citations": [{"start": 0, "end": 5, "text": "Grüße", "sources": [SOURCE]}]}},
    "tools": {"id": "c-1", "finish_reason": "TOOL_CALL", "usage": COHERE_USAGE, "message": {
        "role": "assistant", "tool_plan": "First look.", "tool_calls": COHERE_CALLS}},
}  # fmt: skip


def v1(kind: str, **more: Any) -> dict[str, Any]:
    return {"event_type": kind, "is_finished": kind == "stream-end", **more}


COHERE_META = {"api_version": {"version": "1"}, **COHERE_USAGE}
COHERE_V1_WHOLE: dict[str, Any] = {
    "text": {"generation_id": "g-1", "text": "Grüße, 🦀", "finish_reason": "COMPLETE", "meta": COHERE_META,
             "citations": [{"start": 0, "end": 5, "text": "Grüße", "document_ids": ["d-1"]}]},
    "tools": {"generation_id": "g-1", "text": "First look.", "finish_reason": "COMPLETE", "meta": COHERE_META,
              "tool_calls": [{"name": "weather", "parameters": {"city": "Bern"}}]},
}  # fmt: skip
COHERE_V1 = {
    "text": lines(
        v1("stream-start", generation_id="g-1"), v1("text-generation", text="Grüße"),
        v1("text-generation", text=", 🦀"),
        v1("citation-generation", citations=COHERE_V1_WHOLE["text"]["citations"]),
        v1("stream-end", finish_reason="COMPLETE", response=COHERE_V1_WHOLE["text"]),
    ),
    "tools": lines(
        v1("stream-start", generation_id="g-1"), v1("tool-calls-chunk", text="First "),
        v1("tool-calls-chunk", text="look."), v1("tool-calls-chunk", tool_call_delta={"index": 0, "name": "weather"}),
        v1("tool-calls-chunk", tool_call_delta={"index": 0, "parameters": '{"ci'}),
        v1("tool-calls-chunk", tool_call_delta={"index": 0, "parameters": 'ty":"Bern"}'}),
        v1("tool-calls-generation", tool_calls=COHERE_V1_WHOLE["tools"]["tool_calls"]),
        v1("stream-end", finish_reason="COMPLETE", response=COHERE_V1_WHOLE["tools"]),
    ),
}  # fmt: skip

# Ollama.


def said(done: bool = False, **message: Any) -> dict[str, Any]:
    end = {"done_reason": "stop", "prompt_eval_count": 13, "eval_count": 5, "eval_duration": 7} if done else {}
    head = {"model": "llama", "created_at": "2026-01-01T00:00:00Z"}
    return {**head, "message": {"role": "assistant", "content": "", **message}, "done": done, **end}


OLLAMA_CALL = {"function": {"name": "weather", "arguments": {"city": "Bern"}}}
OLLAMA = {
    "chat": lines(said(thinking="Hm, "), said(thinking="日本"), said(content="Grüße"), said(content=", 🦀"),
                  said(tool_calls=[OLLAMA_CALL]), said(True)),
    "generate": lines({"model": "llama", "created_at": "x", "response": "Grüße", "done": False},
                      {"model": "llama", "created_at": "x", "response": ", 🦀", "done": True, "done_reason": "length",
                       "context": [1, 2], "prompt_eval_count": 13, "eval_count": 5}),
}  # fmt: skip

# Google's interactions.


def step(kind: str, index: int, **more: Any) -> dict[str, Any]:
    return {"event_type": f"step.{kind}", "index": index, **more}


def interaction(kind: str, status: str, **more: Any) -> dict[str, Any]:
    times = {"created": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z"}
    head = {"id": "i-1", "object": "interaction", "model": "gemini-3-pro", "status": status, "steps": [], **times}
    return {"event_type": f"interaction.{kind}", "interaction": {**head, **more}}


INTERACTION_USAGE = {"total_input_tokens": 7, "total_output_tokens": 12, "total_thought_tokens": 21, "total_tokens": 40,
                     "total_cached_tokens": 0, "total_tool_use_tokens": 0}  # fmt: skip
CITED = {"type": "url_citation", "url": "https://x.example/a", "title": "A page", "start_index": 0, "end_index": 5}
INTERACTIONS = {
    "text": events(
        interaction("created", "in_progress"),
        step("start", 0, step={"type": "thought"}),
        step("delta", 0, delta={"type": "thought_summary", "content": {"type": "text", "text": "Hm, 日本"}}),
        step("delta", 0, delta={"type": "thought_signature", "signature": "EqQB"}), step("stop", 0),
        step("start", 1, step={"type": "model_output"}),
        step("delta", 1, delta={"type": "text", "text": "Grüße"}),
        step("delta", 1, delta={"type": "text", "text": ", 🦀"}),
        step("delta", 1, delta={"type": "text_annotation_delta", "annotations": [CITED]}), step("stop", 1),
        interaction("completed", "completed", usage=INTERACTION_USAGE),
    ),
    "tool": events(
        interaction("created", "in_progress"),
        step("start", 0, step={"type": "function_call", "id": "t1", "name": "weather", "arguments": {}}),
        step("delta", 0, delta={"type": "arguments_delta", "arguments": '{"ci'}),
        step("delta", 0, delta={"type": "arguments_delta", "arguments": 'ty":"Bern"}'}), step("stop", 0),
        interaction("completed", "requires_action", usage=INTERACTION_USAGE),
    ),
}  # fmt: skip
INTERACTION_WHOLE = {
    **interaction("completed", "completed", usage=INTERACTION_USAGE)["interaction"],
    "steps": [{"type": "user_input", "content": [{"type": "text", "text": "?"}]},
              {"type": "thought", "signature": "EqQB", "summary": [{"type": "text", "text": "Hm, 日本"}]},
              {"type": "model_output", "content": [{"type": "text", "text": "Grüße, 🦀", "annotations": [CITED]}]}],
}  # fmt: skip

# OpenAI's assistants and transcriptions, and further items of its responses.


def thread(kind: str, what: str, **more: Any) -> str:
    value = {"id": what.removesuffix(".delta") + "-1", "object": f"thread.{what}", **more}
    return f"event: thread.{kind}\ndata: {dump(value)}\n\n"


def run(kind: str, **more: Any) -> str:
    return thread(f"run.{kind}", "run", status=kind, model="gpt-5", thread_id="th", assistant_id="as", **more)


def spoken(text: str, **more: Any) -> dict[str, Any]:
    return {"content": [{"index": 0, "type": "text", "text": {"value": text, **more}}]}


RUN_USAGE = {"prompt_tokens": 17, "completion_tokens": 6, "total_tokens": 23}
FILE_CITED = {
    "type": "file_citation",
    "index": 0,
    "text": "[1]",
    "start_index": 0,
    "end_index": 3,
    "file_citation": {"file_id": "f-1"},
}
ASSISTANTS_CALL = {
    "index": 0,
    "id": "t1",
    "type": "function",
    "function": {"name": "weather", "arguments": "", "output": None},
}


def stepped(call: Any) -> str:
    return thread(
        "run.step.delta", "run.step.delta", delta={"step_details": {"type": "tool_calls", "tool_calls": [call]}}
    )


ASSISTANTS = {
    "text": "".join((
        run("created"), run("in_progress"),
        thread("message.created", "message", role="assistant", content=[], run_id="run-1"),
        thread("message.delta", "message.delta", delta=spoken("Grüße")),
        thread("message.delta", "message.delta", delta=spoken(", 🦀", annotations=[FILE_CITED])),
        run("completed", usage=RUN_USAGE), "event: done\ndata: [DONE]\n\n",
    )).encode(),
    "tool": "".join((
        run("created"),
        thread("run.step.created", "run.step", run_id="run-1", status="in_progress", type="tool_calls",
               step_details={"type": "tool_calls", "tool_calls": []}),
        stepped(ASSISTANTS_CALL),
        stepped({"index": 0, "type": "function", "function": {"arguments": '{"ci'}}),
        stepped({"index": 0, "type": "function", "function": {"arguments": 'ty":"Bern"}'}}),
        run("requires_action", usage=None, required_action={"type": "submit_tool_outputs", "submit_tool_outputs": {
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "weather",
                                                                         "arguments": '{"city":"Bern"}'}}]}}),
        "event: done\ndata: [DONE]\n\n",
    )).encode(),
}  # fmt: skip
TRANSCRIPT_USAGE = {"type": "tokens", "total_tokens": 29, "input_tokens": 20, "output_tokens": 9}
TRANSCRIPTION = {
    "text": events(
        {"type": "transcript.text.delta", "delta": "Grüße"},
        {"type": "transcript.text.delta", "delta": ", 🦀"},
        {"type": "transcript.text.done", "text": "Grüße, 🦀", "usage": TRANSCRIPT_USAGE},
    )
}
CODE = {
    "type": "code_interpreter_call",
    "id": "ci",
    "container_id": "b",
    "code": "",
    "outputs": [],
    "status": "in_progress",
}
SHELL = {"type": "shell_call", "id": "sh", "call_id": "c", "action": {"commands": []}, "status": "in_progress"}
RESPONSES = {
    "code": numbered(
        {"type": "response.created", "response": state("in_progress")["response"]},
        {"type": "response.output_item.added", "output_index": 0, "item": CODE},
        {"type": "response.code_interpreter_call_code.delta", "output_index": 0, "item_id": "ci", "delta": "1 +"},
        {"type": "response.code_interpreter_call_code.delta", "output_index": 0, "item_id": "ci", "delta": " 1"},
        {"type": "response.code_interpreter_call_code.done", "output_index": 0, "item_id": "ci", "code": "1 + 1"},
        {
            "type": "response.output_item.done",
            "output_index": 0,
            "item": {**CODE, "code": "1 + 1", "status": "completed"},
        },
        state("completed", [{**CODE, "code": "1 + 1", "status": "completed"}]),
    ),
    "shell": numbered(
        {"type": "response.created", "response": state("in_progress")["response"]},
        {"type": "response.output_item.added", "output_index": 0, "item": SHELL},
        {"type": "response.shell_call_command.added", "output_index": 0, "command_index": 0, "command": ""},
        {"type": "response.shell_call_command.delta", "output_index": 0, "command_index": 0, "delta": "ls "},
        {"type": "response.shell_call_command.delta", "output_index": 0, "command_index": 0, "delta": "-l"},
        {"type": "response.shell_call_command.done", "output_index": 0, "command_index": 0, "command": "ls -l"},
        {"type": "response.output_item.done", "output_index": 0, "item": {**SHELL, "action": {"commands": ["ls -l"]}}},
        state("completed", [{**SHELL, "action": {"commands": ["ls -l"]}}]),
    ),
}
COMPLETE = {
    "text": events(
        {"type": "completion", "id": "c", "completion": " Grüße", "stop_reason": None, "model": "claude-2"},
        {"type": "ping"},
        {"type": "completion", "id": "c", "completion": ", 🦀", "stop_reason": None, "model": "claude-2"},
        {"type": "completion", "id": "c", "completion": "", "stop_reason": "stop_sequence", "model": "claude-2"},
        named=True,
    )
}


SEEN = {
    "chat": (
        "chat-finish-reason-repeated", "chat-missing-index", "chat-no-done", "chat-text-beside-delta",
        "usage-parts-not-shown-cost",
    ),
    "messages": ("anthropic-compaction", "citations-not-shown-anthropic", "usage-parts-not-shown-cache-write"),
    "gemini": ("gemini-last-finish-reason", "gemini-partial-args"),
    "responses": (
        "citations-not-shown-responses", "responses-content-index-moved", "responses-done-mark",
        "responses-events-taken-for-unknown-reasoning-part", "responses-resumed",
    ),
}  # fmt: skip
"""Cases in the four large dialects, in shapes that vendors were seen to send."""


def _seen() -> dict[str, bytes]:
    folder = Path(__file__).parents[2] / "llm" / "cases" / "streams"
    return {
        f"{dialect} {name}": (folder / name / "response.sse").read_bytes()
        for dialect, names in SEEN.items()
        for name in names
    }


def every_stream() -> dict[str, bytes]:
    groups = {
        "converse": CONVERSE, "cohere v2": COHERE_V2, "cohere v1": COHERE_V1, "ollama": OLLAMA,
        "interactions": INTERACTIONS, "assistants": ASSISTANTS, "transcription": TRANSCRIPTION,
        "more responses": RESPONSES, "complete": COMPLETE, "seen": _seen(),
    }  # fmt: skip
    return {f"{group} {name}": body for group, streams in groups.items() for name, body in streams.items()}


def whole(value: Any) -> bytes:
    return json.dumps(value).encode()
