"""Keeps line breaks and NUL out of heads and trailers (RFC 9110, section 5.5).

HTTP/2 and HTTP/3 carry each name and value by its length, so that anything may stand in it, and not every h2 and
aioquic looks. In the head of an HTTP/1.1 message a line break ends a field, and an empty line the head: what follows
would be another header, or another request, beside which a payment may stand. HTTP/1.1 itself has folded lines, and
programs that take a CR alone for a line break.
"""

from __future__ import annotations

import itertools
import re

from mitmproxy import http

Fields = tuple[tuple[bytes, bytes], ...]

_BREAK = re.compile(rb"[\0\r\n]")
_FOLDED = re.compile(rb"\r?\n[ \t]+")
_FOLD = re.compile(rb"\r?\n[ \t]*|[\0\r]")
_BINARY = (b"HTTP/2", b"HTTP/3")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-zA-Z]+")
"""A token (RFC 9110, section 5.6.2)."""


def is_plain(fields: Fields, *others: bytes) -> bool:
    """Whether no name and no value of `fields`, nor one of `others`, has a line break or NUL in it."""
    return _BREAK.search(b"".join((*itertools.chain.from_iterable(fields), *others))) is None


def unfolded(fields: Fields) -> Fields:
    """`fields` of an HTTP/1.1 message with a blank where a line was folded (RFC 9112, section 5.2)."""
    return tuple((name, _FOLDED.sub(b" ", value)) for name, value in fields)


def made_plain(fields: Fields) -> Fields:
    """`fields` with a blank for each line break and NUL in a value, and without those whose name has one."""
    if is_plain(fields):
        return fields
    return tuple((name, _FOLD.sub(b" ", value)) for name, value in fields if _BREAK.search(name) is None)


def may_hold_breaks(request: http.Request, response: http.Response) -> bool:
    """Whether a line break in `response` would be read differently by the client; HTTP/1.1 is left as it came."""
    return response.data.http_version.startswith(_BINARY) or request.data.http_version.startswith(_BINARY)


def make_plain(response: http.Response) -> None:
    """Make head and trailers of an upstream's `response` plain; trailers whose name is not a token are dropped."""
    head = response.data
    if not is_plain(head.headers.fields, head.reason):
        head.headers.fields, head.reason = made_plain(head.headers.fields), _FOLD.sub(b" ", head.reason)
    if response.trailers:
        named = tuple(field for field in response.trailers.fields if _NAME.fullmatch(field[0]))
        response.trailers.fields = made_plain(named)


def are_trailers_plain(trailers: http.Headers) -> bool:
    """Whether the trailers of a request can be passed on as they are."""
    return is_plain(trailers.fields) and all(_NAME.fullmatch(name) for name, _ in trailers.fields)
