"""Reads a request to a language model, in any dialect, into a RequestReading for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import unquote

from ...errors import Undecodable
from ...limits.request_model import read_model
from ...protocol.strict_json import decode_json
from ..reading import Dialect
from ..sse import Notes
from ..values import dump, mapping, sequence, string
from .asking import Message, RequestReading
from .tools import MAX_TOOLS, tools_of
from .turns import TURNS, messages_of

_PATHS: tuple[tuple[re.Pattern[str], Dialect], ...] = (
    (re.compile(r"/(chat/)?completions$"), "openai-chat"),
    (re.compile(r"/responses(/compact|/input_tokens)?$"), "openai-responses"),
    (re.compile(r"/messages(/count_tokens)?$"), "anthropic-messages"),
    (re.compile(r":(streamGenerateContent|generateContent|countTokens)$"), "gemini"),
    (re.compile(r"/interactions$"), "gemini-interactions"),
    (re.compile(r"/model/[^/]+/converse(-stream)?$"), "bedrock-converse"),
    (re.compile(r"/v1/complete$"), "anthropic-complete"),
    (re.compile(r"/v1/chat$"), "cohere-v1"),
    (re.compile(r"/v2/chat$"), "cohere-v2"),
    (re.compile(r"/api/(chat|generate)$"), "ollama"),
    (re.compile(r"/threads(/[^/]+)?/runs$"), "openai-assistants"),
)
_TOLD = {
    *("model", "messages", "input", "contents", "system", "instructions", "stream", "tools", "functions"),
    *("systemInstruction", "system_instruction", "chat_history", "message", "preamble", "thread", "toolConfig"),
    "inputText",
}
"""Keys of a request that are told otherwise than as a parameter."""
_GROUPS = {"textGenerationConfig", "generationConfig", "generation_config", "inferenceConfig", "options"}
_STORED = "prompt"
"""A prompt that is kept at the vendor's is a group of parameters; one that is text is what the user says."""
_TOOLS = ("tools", "functions", "toolConfig")
_CONVERSE = ("inferenceConfig", "schemaVersion", "toolConfig")
"""Keys by which a request in Converse's shape is known elsewhere."""
_INVOKED = re.compile(r"/model/[^/]+/invoke(-with-response-stream)?$")
_IN_PATH = re.compile(r"/model/([^/]{1,200})/(?:converse|invoke)")
_STREAMED = (":streamGenerateContent", "/converse-stream", "/invoke-with-response-stream")
_SECRET = re.compile(r"authorization|api[-_]?key|secret|password|cookie|access[-_]?token|^token$|^key$", re.IGNORECASE)
_REDACTED = "[redacted]"
MAX_REQUEST = 64 * 1024 * 1024
"""Bytes of a request that is read: pictures travel in it."""
MAX_VALUE = 200
"""Characters of a parameter's value that are shown."""
MAX_MESSAGES = 20_000
"""Messages and parts of them that are read."""
MAX_PARAMETERS = 500


def read_request(path: str, content_type: str, body: bytes) -> RequestReading | None:
    """What `body` asks for; None: it is no request to a language model.

    `path` may have a query. It says which dialect the request is in, where it is a vendor's usual one; otherwise the
    body does. Never raises.
    """
    media = content_type.partition(";")[0].strip().lower()
    if (media and not media.endswith("json")) or len(body) > MAX_REQUEST:
        return None
    try:
        value, faults = decode_json(body)
    except Undecodable:
        return None
    path, _, query = path.partition("?")
    asked = mapping(value)
    dialect = _dialect(path, asked)
    if dialect == "unknown":
        return None
    notes = Notes()
    for fault in faults:
        notes.add(fault)
    messages = tuple(_bounded(messages_of(dialect, asked, notes), notes))
    tools = tuple(islice(tools_of(asked), MAX_TOOLS))
    if len(tools) == MAX_TOOLS or any(len(sequence(asked.get(key))) > MAX_TOOLS for key in _TOOLS):
        notes.add(f"only its first {MAX_TOOLS:,} tools are read")
    found = _IN_PATH.search(path)
    model = string(asked.get("model")) or read_model(path, b"") or (unquote(found[1]) if found else None)
    streamed = asked.get("stream") is True or path.endswith(_STREAMED)
    parameters = (*islice(_parameters(asked), MAX_PARAMETERS), *_query(query))
    if len(parameters) >= MAX_PARAMETERS:
        notes.add(f"only its first {MAX_PARAMETERS} parameters are shown")
    without = not tools and any(asked.get(key) == [] for key in _TOOLS)
    return RequestReading(dialect, model, streamed, messages, tools, parameters, tuple(notes.texts()), without)


def _bounded(messages: Iterator[Message], notes: Notes) -> Iterator[Message]:
    """The messages up to some number of parts."""
    read = 0
    for message in messages:
        yield message
        read += 1 + len(message.parts)
        if read >= MAX_MESSAGES:
            notes.add(f"only its first {MAX_MESSAGES:,} messages and parts are read")
            return


def _dialect(path: str, asked: dict[str, Any]) -> Dialect:
    for pattern, dialect in _PATHS:
        if pattern.search(path):
            return dialect if any(key in asked for key in (*TURNS[dialect], *_TOOLS)) else "unknown"
    if isinstance(asked.get("contents"), list):
        return "gemini"
    if _INVOKED.search(path) and any(isinstance(asked.get(key), str) for key in TURNS["bedrock-invoke"]):
        return "bedrock-invoke"
    if isinstance(asked.get("messages"), list) and any(key in asked for key in _CONVERSE):
        return "bedrock-converse"
    if isinstance(asked.get("messages"), list):
        return "anthropic-messages" if _is_anthropics(asked) else "openai-chat"
    # Requests for embeddings have an input and a model too.
    if "input" in asked and any(key in asked for key in ("instructions", "tools", "max_output_tokens", "stream")):
        return "openai-responses"
    return "unknown"


def _is_anthropics(asked: dict[str, Any]) -> bool:
    return (
        "system" in asked
        or "anthropic_version" in asked
        or any("input_schema" in mapping(tool) for tool in sequence(asked.get("tools")))
    )


def _parameters(asked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in asked.items():
        if key in _GROUPS and isinstance(value, dict):
            yield from _parameters(value)
        elif key == _STORED and isinstance(value, dict):
            for name, one in value.items():
                yield f"{key}.{name}"[:100], _short(name, one)
        elif key not in _TOLD and not (key == _STORED and isinstance(value, (str, list))):
            yield key[:100], _short(key, value)


def _short(key: str, value: Any) -> str:
    text = _REDACTED if _SECRET.search(key) else dump(_without_secrets(value))
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"


def _query(query: str) -> Iterator[tuple[str, str]]:
    for pair in query.split("&")[:20]:
        key, _, value = pair.partition("=")
        if key:
            yield f"?{key[:100]}", _REDACTED if _SECRET.search(key) else value[:MAX_VALUE]


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _REDACTED if _SECRET.search(key) else _without_secrets(one) for key, one in value.items()}
    return [_without_secrets(one) for one in value] if isinstance(value, list) else value
