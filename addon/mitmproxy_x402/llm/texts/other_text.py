"""Shows parts that are neither text nor calls: pictures and sound in a line, results of searches and server tools."""

from __future__ import annotations

import re
from typing import Any

from ..printing import indented, line, pretty, shortened
from ..reading import Other
from ..values import dump, mapping, says_something, string

_DATA_URL = re.compile(r"data:([^;,]{0,100})[^,]{0,200},")
_CUT = re.compile(r"… \(([0-9,]{1,20}) characters\)\Z")
_DATA = ("data", "b64_json", "result", "bytes", "file_data", "partial_image_b64")
_TYPES = ("mimeType", "mime_type", "media_type", "content_type", "output_format", "format")
_KINDS = ("image", "audio", "video", "document", "file")
_PRINTED = ("stdout", "stderr", "output", "logs", "text", "code", "input")
"""Keys of what a program printed, and of programs, which have lines of their own."""
_LEAST = 64
"""Characters from which on text under a key for data is taken for that."""
_IDS = ("type", "id", "call_id", "tool_use_id", "signature", "encrypted_content", "encrypted_index")
"""Keys of results of searches that say nothing to a person."""
MAX_FOUND = 50
"""Results of a search that are shown."""


def other_lines(item: Other) -> list[str]:
    """The body of the section about `item`."""
    value = item.value
    media = media_line(item.kind, value)
    if media:
        rest = _without_data(mapping(value))
        return [f"  {media}", *(indented(pretty(shortened(rest))) if rest else [])]
    return _found(mapping(value)) or _laid_out(value)


def media_line(kind: str, value: Any) -> str:
    """A picture, a sound or a file with its type and size; empty where `value` is none."""
    said = mapping(value)
    inner = mapping(said.get("image_url")) or mapping(said.get("source")) or mapping(said.get("inlineData"))
    for one in (inner, said):
        text = next((string(one[key]) for key in _DATA if _is_data(string(one.get(key)))), "")
        url = string(one.get("url")) or string(one.get("uri")) or string(one.get("image_url"))
        embedded = _DATA_URL.match(url)
        if text or embedded:
            type_ = embedded[1] if embedded else _first(one, _TYPES) or _first(said, _TYPES)
            if not type_ and _kind(kind, "") == "data":
                return ""  # who knows what that is
            size = _bytes(url[embedded.end() :] if embedded else text)
            return f"[{', '.join(filter(None, (_kind(kind, type_), line(type_, 60), f'{size:,} bytes')))}]"
        if url and one is said and _kind(kind, _first(said, _TYPES)) != "data":
            return f"[{', '.join(filter(None, (_kind(kind, ''), line(_first(said, _TYPES), 60), line(url, 300))))}]"
    left_out = said.get("characters_left_out")
    if kind == "audio" and isinstance(left_out, int):
        words = string(said.get("text"))
        return f"[audio, {left_out * 3 // 4:,} bytes]" + (f"  {line(words, 1000)}" if words else "")
    return ""


def _is_data(text: str) -> bool:
    return len(text) >= _LEAST or _CUT.search(text) is not None


def _kind(kind: str, type_: str) -> str:
    """image, audio, video, file: as the part's name or its media type says; otherwise data."""
    word = next((one for one in _KINDS if one in kind.lower()), "") or type_.partition("/")[0]
    return {"document": "file"}.get(word, word if word in _KINDS else "data")


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((string(value[key]) for key in keys if string(value.get(key))), "")


def _bytes(text: str) -> int:
    """What base64 holds, also of text of which only the beginning was kept."""
    cut = _CUT.search(text)
    if cut:
        return int(cut[1].replace(",", "")) * 3 // 4
    padding = 2 if text.endswith("==") else 1 if text.endswith("=") else 0
    return max(0, len(text) * 3 // 4 - padding)


def _without_data(value: dict[str, Any]) -> dict[str, Any]:
    """The rest of a picture's object, without its data."""
    told = {*_DATA, *_TYPES, "type", "id", "image_url", "source", "inlineData", "url", "uri", "text"}
    if value.get("status") in ("completed", "generating"):  # the latter is also said of a picture that is there
        told.add("status")
    return {key: one for key, one in value.items() if key not in told and key != "characters_left_out" and one}


def _found(value: dict[str, Any]) -> list[str]:
    """The results of a search, each in one line, below what else is said of it: that it failed, perhaps."""
    key = next((key for key in ("content", "results", "result", "sources") if value.get(key)), "")
    results = value.get(key)
    pages = [mapping(one) for one in results] if isinstance(results, list) else []
    if not pages or not all(string(page.get("url")) or string(page.get("uri")) for page in pages):
        return []
    lines = ["  " + words for words in _beside(value, {key, *_IDS})]
    for page in pages[:MAX_FOUND]:
        words = [string(page.get("title")), string(page.get("url")) or string(page.get("uri"))]
        words += _beside(page, {"title", "url", "uri", *_IDS})
        lines.append("  " + "  ".join(line(word, 300) for word in words if word))
    return lines + ([f"  and {len(pages) - MAX_FOUND} more"] if len(pages) > MAX_FOUND else [])


def _beside(value: dict[str, Any], told: set[str]) -> list[str]:
    """What a result says under other keys than those that are `told`, such as its status."""
    said = {key: one for key, one in value.items() if key not in told and says_something(one)}
    return [
        f"{line(key, 60)}: {line(one if isinstance(one, str) else dump(shortened(one)), 200)}"
        for key, one in said.items()
    ]


def _laid_out(value: Any) -> list[str]:
    """JSON, with programs and what they printed in lines below it."""
    texts: list[tuple[str, str]] = []

    def without_texts(one: Any, key: str) -> Any:
        if isinstance(one, dict):
            return {name: without_texts(inner, name) for name, inner in one.items()}
        if isinstance(one, list):
            return [without_texts(inner, key) for inner in one]
        if isinstance(one, str) and "\n" in one.strip("\n") and (key in _PRINTED or "diff" in key):
            texts.append((key, one))
            return f"({one.count(chr(10)) + 1} lines, below)"
        return one

    lines = indented(pretty(shortened(without_texts(value, ""))))
    for key, text in texts:
        lines += [f"  {line(key, 60)}:", *indented(text.rstrip("\n"), "    ")]
    return lines
