"""Reads one model and the output limit of a request, for the ledger, prices and views, without decoding the body.

The work is bounded. Limits do not rely on it: `whole_request` reads every model that a server could find.
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
"""Most brackets and strings that are read, which takes some ten milliseconds; beyond them no model is found."""
MAX_TEXT = 4 << 20
"""Bytes of a JSON body within which strings with escapes are read, if they stand before the model."""
MAX_NAME = 200
"""Most characters of a model's name; a longer one counts as none."""
MAX_PARTS = 200
"""Most parts of a multipart body that are read."""
MAX_PART_HEAD = 2000
"""Most bytes of one part's headers."""

UNCLEAR = -1
"""Returned for an output limit that occurs several times or is not a plain number."""

_IN_PATH = re.compile(r"/(?:models|tunedModels)/([^/:?]+)(?::|$)")
_MARK = re.compile(rb'["{}\[\]]')
_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.){0,400}")')
_LIMIT_MARK = b'"max'
_LIMIT = re.compile(
    rb'"max(?:_tokens|_completion_tokens|_output_tokens|OutputTokens)"\s*:\s*(?:(null)\b|([0-9]{1,9})(?=[\s,}])|)'
)
_THINKING = re.compile(rb'"(?:reasoning|thinking|reasoning_config)"\s*:\s*\Z')
MAX_THINKING = 400
"""Most bytes of an object that bounds only the thinking."""
MAX_LIMITS = 100
"""Most strings that could be the name of a limit that are examined."""


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
    """The most tokens of the answer, by `max_tokens` or a similar key; None: the request sets no limit.

    It may stand anywhere in a JSON `body`, so that no nesting has to be followed: the names are found by a search. In
    the text of a message they are not found, since there their quotes are escaped. What bounds only the thinking
    (`reasoning.max_tokens`) does not count. Returns UNCLEAR if there are several limits or one is not a plain number.
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
    """Whether the position `at` is inside a flat object that bounds only the model's thinking."""
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
            if body[end - 2 : end - 1] == b"\\":  # the quote may be escaped
                text = text or body[:MAX_TEXT].decode("latin-1")
                end = _string_end(text, at)
                if end < 0:
                    return None
            if depth == 1 and body[at : end - 1] == b"model" and (value := _VALUE.match(body, end)):
                return _name(_decoded(value[1]))
            at = end
    return None


def _string_end(text: str, begin: int) -> int:
    """The position after the closing quote of the string whose first character is at `begin`; -1: it does not end.

    Uses the json module's scanner, because a long text may contain thousands of escaped quotes.
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
    """Yield name and value of each short field of a form (RFC 7578); files and malformed parts are skipped."""
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
    """`text`, if it is one printable line fit for logs and tables; else None."""
    return text if 0 < len(text) <= MAX_NAME and text.isprintable() else None
