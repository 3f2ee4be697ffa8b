"""Reads a request's model and output limit, in one shallow and bounded pass.

Done only for requests that are about to be paid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesHeaderParser
from json.decoder import scanstring  # type: ignore[attr-defined]  # typeshed leaves it out
from urllib.parse import unquote

MAX_MARKS = 20_000
"""Brackets and strings that are looked at, some ten milliseconds' worth; a request with more keeps its secret."""
MAX_TEXT = 4 << 20
"""Bytes of a JSON body in which strings with escapes may end that stand before its model."""
MAX_NAME = 200
"""Characters of a model's name that are believed."""
MAX_PARTS = 200
"""Parts of a multipart body that are looked at; what lies between them is skipped at the speed of memory."""
MAX_PART_HEAD = 2000
"""Bytes of one part's headers."""

UNCLEAR = -1
"""An output limit that is there several times, or is no plain number."""

_IN_PATH = re.compile(r"/(?:models|tunedModels)/([^/:?]+)(?::|$)")
_MARK = re.compile(rb'["{}\[\]]')
_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.){0,400}")')
_LIMIT_MARK = b'"max'
_LIMIT = re.compile(
    rb'"max(?:_tokens|_completion_tokens|_output_tokens|OutputTokens)"\s*:\s*(?:(null)\b|([0-9]{1,9})(?=[\s,}])|)'
)
_THINKING = re.compile(rb'"(?:reasoning|thinking|reasoning_config)"\s*:\s*\Z')
MAX_THINKING = 400
"""Bytes of such an object that are looked at."""
MAX_LIMITS = 100
"""Strings that could be the name of a limit that are looked at."""


def read_model(path: str, body: bytes, content_type: str = "") -> str | None:
    """The model in `path` (as in /v1beta/models/NAME:generateContent), or the top-level `model` of a JSON `body`, or
    the field `model` of a form (image edits come as multipart/form-data).
    """
    found = _IN_PATH.search(path)
    if found:
        return _name(unquote(found[1]))
    if content_type[:20].lower().startswith("multipart/form-data"):
        return next((_name(value) for name, value in _fields(body, content_type) if name == "model"), None)
    return _in_object(body) if body[:64].lstrip()[:1] == b"{" else None


def read_output_limit(body: bytes) -> int | None:
    """The tokens that the answer may have, as `max_tokens` and its cousins say; None: the request sets no limit.

    It may stand anywhere in a JSON `body`, so that no nesting has to be followed: the names are found by a search. In
    the text of a message they are not found, since there their quotes are escaped. What bounds only the thinking
    (`reasoning.max_tokens`) is none. UNCLEAR: there are several.
    """
    stated: list[bytes] = []
    at = -1
    for _ in range(MAX_LIMITS):
        at = body.find(_LIMIT_MARK, at + 1)
        if at < 0:
            break
        found = _LIMIT.match(body, at)
        if found and not found[1] and not _bounds_thinking(body, at):
            stated.append(found[2] or b"")
    else:
        return UNCLEAR
    if not stated:
        return None
    return int(stated[0]) if len(stated) == 1 and stated[0] else UNCLEAR


def _bounds_thinking(body: bytes, at: int) -> bool:
    """Whether what stands at `at` is in a flat object that only says how long the model may think."""
    begin = body.rfind(b"{", max(0, at - MAX_THINKING), at)
    if begin < 0 or body.find(b"}", begin, at) >= 0:
        return False
    return _THINKING.search(body, max(0, begin - 40), begin) is not None


def _in_object(body: bytes) -> str | None:
    at = depth = 0
    text = ""
    for _ in range(MAX_MARKS):
        mark = _MARK.search(body, at)
        if mark is None:
            return None
        at = mark.end()
        if mark[0] in b"{[":
            depth += 1
        elif mark[0] in b"}]":
            depth -= 1
            if depth == 0:
                return None
        else:
            end = body.find(b'"', at) + 1 or len(body)
            if body[end - 2 : end - 1] == b"\\":  # it may not end there
                text = text or body[:MAX_TEXT].decode("latin-1")
                end = _string_end(text, at)
                if end < 0:
                    return None
            if depth == 1 and body[at : end - 1] == b"model" and (value := _VALUE.match(body, end)):
                return _name(_decoded(value[1]))
            at = end
    return None


def _string_end(text: str, begin: int) -> int:
    """Where the string ends whose first character is at `begin`, behind its closing quote; -1: it does not.

    A long text has thousands of quotes, and OpenAI's SDK writes the model behind it, so they are not looked at one by
    one.
    """
    try:
        end: int = scanstring(text, begin, False)[1]
    except ValueError:
        return -1
    return end


def _decoded(text: bytes) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return ""


def _fields(body: bytes, content_type: str) -> Iterator[tuple[str, str]]:
    """Name and value of the short fields of a form (RFC 7578); files and what is malformed are left out."""
    head = Message()
    head["content-type"] = content_type
    boundary = head.get_boundary("")
    mark = b"--" + boundary.encode("utf-8", "replace")
    begin = body.find(mark)
    for _ in range(MAX_PARTS):
        end = body.find(b"\r\n" + mark, begin + len(mark))
        if not boundary or begin < 0 or end < 0:
            return
        begin += len(mark) + 2  # the end of the boundary's line
        headers = body.find(b"\r\n\r\n", begin, min(end, begin + MAX_PART_HEAD))
        if headers >= 0 and end - headers - 4 <= 4 * MAX_NAME:
            part = BytesHeaderParser().parsebytes(body[begin:headers])
            name = part.get_param("name", header="content-disposition")
            if isinstance(name, str) and part.get_filename() is None:
                yield name, body[headers + 4 : end].decode("utf-8", "replace")
        begin = end + 2


def _name(text: str) -> str | None:
    """`text` where it is one printable line: it goes into logs and tables."""
    return text if 0 < len(text) <= MAX_NAME and text.isprintable() else None
