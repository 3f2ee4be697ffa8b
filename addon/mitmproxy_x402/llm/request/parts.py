"""Reads the parts of messages in requests, in all four dialects: each dialect's names for them are its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ...errors import Undecodable
from ..reading import Other, Reasoning, Refusal, Text, ToolCall
from ..values import decode, dump, mapping, sequence, string
from .asking import Mark, Media, Part, ToolResult

_DATA_URL = re.compile(r"data:([^;,]{0,100})[^,]{0,200},")
_TEXTS = {"text", "input_text", "output_text", "summary_text", "reasoning_text"}
_CALLS = {"function_call", "custom_tool_call", "mcp_call"}
_MAX_SOURCE = 200
MAX_PARTS = 5000
"""Parts of one message that are read, and its calls."""
_CACHE = ("cache_control", "cacheControl", "cachePoint", "prompt_cache_breakpoint")
_BEDROCK_MEDIA = ("image", "document", "video", "audio")
_SEALS = ("thoughtSignature", "thought_signature")


def parts_of(content: Any) -> Iterator[Part]:
    """The parts of a message's content: text, or a list of parts in any dialect."""
    if isinstance(content, str):
        yield Text(content)
        return
    parts = [content] if isinstance(content, dict) else sequence(content)
    for part in parts[:MAX_PARTS]:
        if isinstance(part, str):
            yield Text(part)
        else:
            said = mapping(part)
            if not said or not said.keys() <= {*_CACHE, *_SEALS}:
                yield part_of(said)
            yield from marks_of(said)
    yield from left_out(parts)


def left_out(parts: list[Any]) -> Iterator[Mark]:
    """A mark that says how many parts are left out."""
    if len(parts) > MAX_PARTS:
        yield Mark("left out", f"{len(parts) - MAX_PARTS:,} more")


def marks_of(part: dict[str, Any]) -> Iterator[Mark]:
    """The marks on a part, a message or a tool: where a cache may begin anew, and seals on thoughts."""
    for key in _CACHE:
        if key in part:
            value = part[key]
            yield Mark(key, ", ".join(_words(value)) if isinstance(value, dict) else dump(value)[:100])
    for key in _SEALS:
        if string(part.get(key)):
            yield Mark(key, f"{len(part[key]):,} characters")


def _words(value: dict[str, Any]) -> Iterator[str]:
    """A small object in a few words: `ephemeral, ttl 1h`."""
    for key, one in list(value.items())[:10]:
        text = one if isinstance(one, str) else dump(one)
        yield (text if key == "type" else f"{key} {text}")[:100]


def part_of(part: dict[str, Any]) -> Part:
    """One part, or one item of OpenAI's responses."""
    kind = string(part.get("type"))
    if kind in _TEXTS:
        return Text(string(part.get("text")))
    if kind == "refusal":
        return Refusal(string(part.get("refusal")))
    if kind in ("thinking", "redacted_thinking", "reasoning"):
        return _reasoning(part)
    if kind in _CALLS or kind.endswith("tool_use"):
        return _call(part, kind)
    if kind.endswith(("tool_result", "_output", "function_result")):
        return _result(part)
    return _media(part, kind) or _gemini(part) or _bedrock(part) or Other(kind or "part", part)


def chat_call(call: dict[str, Any]) -> ToolCall:
    """A call among a message's `tool_calls`, or its `function_call` (which is the function itself)."""
    custom = mapping(call.get("custom"))
    function = custom or mapping(call.get("function")) or call
    arguments = function.get("input" if custom else "arguments")
    text = dump(arguments) if isinstance(arguments, dict) else string(arguments)
    return _made(call, string(function.get("name")), text, "custom" if custom else "function")


def result_of(identity: Any, name: Any, content: Any, *, failed: bool = False) -> ToolResult:
    """What a tool answered, as text, as parts, or as any JSON."""
    parts = tuple(part for part in parts_of(content) if isinstance(part, (Text, Media, Other)))
    if not parts and content not in (None, "", [], {}):
        parts = (Text(dump(content)),)
    return ToolResult(string(identity), string(name), parts, failed)


def _reasoning(part: dict[str, Any]) -> Reasoning:
    """Anthropic's thinking, or an item of OpenAI's responses."""
    said = [string(part.get("thinking"))]
    for key in ("thinking", "summary", "content"):  # Mistral's thinking is a list
        said += [string(mapping(one).get("text")) for one in sequence(part.get(key))]
    seal = part.get("signature") or part.get("data") or part.get("encrypted_content")
    return Reasoning("\n".join(text for text in said if text), signature=string(seal))


def _call(part: dict[str, Any], kind: str) -> ToolCall:
    name = string(part.get("name"))
    if kind == "custom_tool_call":
        return _made(part, name, string(part.get("input")), "custom")
    what = "function" if kind in ("function_call", "tool_use") else kind
    arguments = part.get("arguments", part.get("input"))
    return _made(part, name, arguments if isinstance(arguments, str) else dump(arguments), what)


def _made(call: dict[str, Any], name: str, arguments: str, kind: str) -> ToolCall:
    identity = string(call.get("call_id")) or string(call.get("id"))
    try:
        parsed = decode(arguments)[0] if kind != "custom" else None
    except Undecodable:
        parsed = None
    return ToolCall(identity, name, arguments, parsed, kind=kind)


def _result(part: dict[str, Any]) -> ToolResult:
    identity = part.get("tool_use_id") or part.get("call_id")
    content = part.get("content", part.get("output", part.get("result")))
    return result_of(identity, part.get("name"), content, failed=part.get("is_error") is True)


def _media(part: dict[str, Any], kind: str) -> Media | None:
    if kind in ("image_url", "input_image"):
        given = part.get("image_url")
        url = string(given) or string(mapping(given).get("url"))
        return _from(url, "image", string(part.get("file_id")))
    if kind in ("input_audio", "audio"):
        audio = mapping(part.get("input_audio")) or part
        return _inline("audio", string(audio.get("format")), audio.get("data"))
    if kind in ("file", "input_file"):
        file = mapping(part.get("file")) or part
        name = next((string(file[key]) for key in ("filename", "file_id", "file_url") if file.get(key)), "")
        return _from(string(file.get("file_data")), "file", name)
    if kind in ("image", "document"):
        source = mapping(part.get("source"))
        name = string(source.get("url")) or string(source.get("file_id")) or string(part.get("title"))
        type_ = string(source.get("media_type"))
        return _inline("image" if kind == "image" else "file", type_, source.get("data"), name)
    return None


def _from(url: str, kind: str, name: str) -> Media:
    """Type and size of a data URL; any other URL itself."""
    found = _DATA_URL.match(url)
    if found:
        return Media(kind, found[1], _bytes(url, found.end()), name[:_MAX_SOURCE])
    if name:
        return Media(kind, "", _bytes(url) if url else None, name[:_MAX_SOURCE])
    return Media(kind, "", None, url[:_MAX_SOURCE])


def _inline(kind: str, media_type: str, data: Any, name: str = "") -> Media:
    size = _bytes(data) if isinstance(data, str) else None
    return Media(kind, media_type[:100], size, name[:_MAX_SOURCE])


def _bytes(text: str, begin: int = 0) -> int:
    """What the base64 from `begin` on holds."""
    padding = 2 if text.endswith("==") else 1 if text.endswith("=") else 0
    return max(0, (len(text) - begin) * 3 // 4 - padding)


def _gemini(part: dict[str, Any]) -> Part | None:
    """Gemini's parts have no type but a key of their own, in either spelling."""
    if "text" in part:
        text = string(part["text"])
        return Reasoning(text) if part.get("thought") is True else Text(text)
    call, result = mapping(either(part, "functionCall")), mapping(either(part, "functionResponse"))
    if call:
        return _made(call, string(call.get("name")), dump(call.get("args") or {}), "function")
    if result:
        return ToolResult(string(result.get("id")), string(result.get("name")), (Text(dump(result.get("response"))),))
    data = mapping(either(part, "inlineData")) or mapping(either(part, "fileData"))
    if data:
        media_type = string(either(data, "mimeType"))
        kind = media_type.partition("/")[0]
        source = string(either(data, "fileUri"))
        return _inline(kind if kind in ("image", "audio", "video") else "file", media_type, data.get("data"), source)
    return None


def _bedrock(part: dict[str, Any]) -> Part | None:
    """Bedrock's parts have no type but a key of their own."""
    call, result = mapping(part.get("toolUse")), mapping(part.get("toolResult"))
    if call:
        arguments = dump(call.get("input") or {})
        return _made({"id": call.get("toolUseId")}, string(call.get("name")), arguments, "function")
    if result:
        content = [_json_as_text(mapping(one)) for one in sequence(result.get("content"))]
        return result_of(result.get("toolUseId"), "", content, failed=result.get("status") == "error")
    thought = mapping(part.get("reasoningContent"))
    if thought:
        text = mapping(thought.get("reasoningText"))
        seal = string(text.get("signature")) or string(thought.get("redactedContent"))
        return Reasoning(string(text.get("text")), signature=seal)
    for kind in _BEDROCK_MEDIA:
        media = mapping(part.get(kind))
        if media:
            source = mapping(media.get("source"))
            name = string(media.get("name")) or string(mapping(source.get("s3Location")).get("uri"))
            return _inline(
                "file" if kind == "document" else kind, string(media.get("format")), source.get("bytes"), name
            )
    return None


def _json_as_text(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a tool's result; JSON becomes text with it."""
    return {"type": "text", "text": dump(part["json"])} if "json" in part else part


def either(value: dict[str, Any], key: str) -> Any:
    """What is under `key` (`inlineData`), or under its other spelling (`inline_data`)."""
    return value.get(key, value.get(re.sub("[A-Z]", lambda found: "_" + found[0].lower(), key)))
