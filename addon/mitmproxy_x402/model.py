"""Which model does a request name? A shallow, bounded read, done only for requests that are about to be paid."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

MAX_MARKS = 20_000
"""Brackets and strings that are looked at, some ten milliseconds' worth; a request with more keeps its secret."""
MAX_NAME = 200
"""Characters of a model's name that are believed."""

_IN_PATH = re.compile(r"/models/([^/:?]+)(?::|$)")
_MARK = re.compile(rb'["{}\[\]]')
_VALUE = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.){0,400}")')


def read_model(path: str, body: bytes) -> str | None:
    """The model in `path` (as in /v1beta/models/NAME:generateContent), or the top-level `model` of a JSON `body`."""
    found = _IN_PATH.search(path)
    if found:
        return _name(unquote(found[1]))
    return _in_object(body) if body[:64].lstrip()[:1] == b"{" else None


def _in_object(body: bytes) -> str | None:
    at = depth = 0
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
            end = _string_end(body, at)
            if depth == 1 and body[at : end - 1] == b"model" and (value := _VALUE.match(body, end)):
                return _name(_decoded(value[1]))
            at = end
    return None


def _string_end(body: bytes, begin: int) -> int:
    """Where the string ends whose first character is at `begin`: behind a quote that no backslash escapes."""
    at = begin
    while (quote := body.find(b'"', at)) >= 0:
        first = quote
        while first > begin and body[first - 1 : first] == b"\\":
            first -= 1
        if (quote - first) % 2 == 0:
            return quote + 1
        at = quote + 1
    return len(body)


def _decoded(text: bytes) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return ""


def _name(text: str) -> str | None:
    """`text` where it is one printable line: it goes into logs and tables."""
    return text if 0 < len(text) <= MAX_NAME and text.isprintable() else None
