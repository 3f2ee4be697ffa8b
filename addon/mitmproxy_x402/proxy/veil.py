"""Hides secrets in a flow: views, flow files and other addons see `[redacted]`, the upstream gets the real value.

The value of a header, a path or a reason phrase is replaced by an object that reads as `[redacted]` and holds the real
bytes in memory only. The stream restores them in what goes onto the wire, unless an addon has replaced the object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from mitmproxy import http

from ..protocol.credentials import is_credential_value
from .exchange import shallow_copy

Fields = tuple[tuple[bytes, bytes], ...]
Message = TypeVar("Message", http.Request, http.Response)


class Veiled(bytes):
    """Bytes that are shown in place of a secret, and hold it."""

    real: bytes
    """The secret."""


def _veiled(shown: bytes, real: bytes) -> Veiled:
    veiled = Veiled(shown)
    veiled.real = real
    return veiled


def veil(message: http.Message, shown: Callable[[Fields], Sequence[bytes]]) -> None:
    """Veil each header of `message` for which `shown`, which returns one value per field, gives a different value."""
    fields = message.headers.fields
    values = shown(fields)
    if values != [value for _, value in fields]:
        message.headers.fields = tuple(
            [
                (name, value if seen == value or isinstance(value, Veiled) else _veiled(seen, value))
                for seen, (name, value) in zip(values, fields, strict=True)
            ]
        )


def veil_path(request: http.Request, shown: bytes) -> None:
    """Veil the path and query of `request`, which then reads as `shown`."""
    path = request.data.path
    if shown != path and not isinstance(path, Veiled):
        request.data.path = _veiled(shown, path)


def veil_reason(response: http.Response, shown: Callable[[bytes], bytes]) -> None:
    """Veil the reason phrase of `response` if `shown` gives another for it."""
    reason = response.data.reason
    if (seen := shown(reason)) != reason and not isinstance(reason, Veiled):
        response.data.reason = _veiled(seen, reason)


_BYTES = re.compile(r"""\bb(?:'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*")""")
_QUOTED = re.compile(
    r"""(?P<kept>
      \('[0-9A-Fa-f:.]*(?:%\w{1,20})?',\s\d                                          # an address in an OSError
    | \('[\w ]{1,40}\ (?:routines|library)',\s'[\w ]{0,60}',\s'[\w ,./:()-]{0,100}'\)  # an error of OpenSSL
    | \[Errno\ -?\d+\]\ [\w ,()-]{1,80}:\ '[^'\n]{0,200}'                              # the path of a file
    | certificate\ is\ not\ valid\ for\ '[\w.:*-]{1,253}'
    | '[a-z0-9-]{1,20}'\ codec\b
    | ''(?!')
    )
    | (?<!\w)'[^'\\]*(?:\\.[^'\\]*)*' | "[^"\\]*(?:\\.[^"\\]*)*"
    | (?<=additional_data:)(?!None\b)[^\s>]+""",
    re.VERBOSE | re.DOTALL,
)
"""A text in quotes, be it a name, a length or a coding that a peer sent, but for those that no peer can choose; and
what comes with the end of an HTTP/2 connection, which h2 may write in hex."""
_LONG_WORD = re.compile(r"[A-Za-z0-9+/=_-]{32,}")
"""Matches signatures, payments and most keys. No host's label, error name or code is as long."""
_WORD = re.compile(r"[!-~]+")
_LEFT_OUT = "(left out, for it may hold a secret)"


def without_bytes(message: str) -> str:
    """Remove the bytes that mitmproxy quotes in a log line, such as a head that it cannot parse."""
    return _BYTES.sub(_LEFT_OUT, message)


def without_quotes(message: str) -> str:
    """Remove quoted bytes and texts, keys of vendors, and words of 32 or more characters, from an error about a peer.

    A peer of QUIC closes with a text of its own, which is not quoted.
    """
    if "'" in message or '"' in message or "additional_data" in message:
        message = _QUOTED.sub(lambda found: found["kept"] or _LEFT_OUT, without_bytes(message))
    if is_credential_value(message.encode("utf-8", "replace")):
        message = _WORD.sub(lambda word: _LEFT_OUT if is_credential_value(word[0].encode()) else word[0], message)
    return _LONG_WORD.sub(_LEFT_OUT, message)


def unveiled(message: Message) -> Message:
    """`message` itself, or, if something in it is veiled, a copy with the real values."""
    fields = message.headers.fields
    where = "path" if isinstance(message, http.Request) else "reason"
    line = getattr(message.data, where)
    if not isinstance(line, Veiled) and Veiled not in [type(value) for _, value in fields]:
        return message
    copied = shallow_copy(message)
    copied.data = shallow_copy(message.data)
    copied.data.headers = http.Headers(
        [(name, value.real if isinstance(value, Veiled) else value) for name, value in fields]
    )
    if isinstance(line, Veiled):
        vars(copied.data)[where] = line.real
    return copied
