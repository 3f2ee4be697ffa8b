"""Hides secrets in a flow: views, flow files and other addons see `[redacted]`, the upstream gets the real value.

The value of a header, or a path, is replaced by an object that reads as `[redacted]` and holds the real bytes in memory
only. The stream restores them in what goes onto the wire, unless an addon has replaced the object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mitmproxy import http

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
    """Veil each header of `message` whose value `shown`, which gives one for each field, replaces."""
    fields = message.headers.fields
    values = shown(fields)
    if any(seen != value for seen, (_, value) in zip(values, fields, strict=True)):
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


def unveiled(message: Message) -> Message:
    """`message` itself, or, if something in it is veiled, a copy with the real values."""
    fields = message.headers.fields
    path = message.data.path if isinstance(message, http.Request) else b""
    if not isinstance(path, Veiled) and not any(isinstance(value, Veiled) for _, value in fields):
        return message
    copied = shallow_copy(message)
    copied.data = shallow_copy(message.data)
    copied.data.headers = http.Headers(
        [(name, value.real if isinstance(value, Veiled) else value) for name, value in fields]
    )
    if isinstance(path, Veiled):
        vars(copied.data)["path"] = path.real
    return copied
