"""Secrets that pass through a flow without standing in it: views, flow files and other addons see `[redacted]`.

A header's value or a path is replaced by bytes that read otherwise and carry the real ones along, in memory alone. The
stream puts those back into what goes onto the wire, where no other addon has replaced them meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mitmproxy import http

from .exchange import shallow_copy

Message = TypeVar("Message", http.Request, http.Response)


class Veiled(bytes):
    """What a secret is shown as."""

    real: bytes
    """The secret."""


def _veiled(shown: bytes, real: bytes) -> Veiled:
    veiled = Veiled(shown)
    veiled.real = real
    return veiled


def veil(message: http.Message, shown: Callable[[bytes, bytes], bytes]) -> None:
    """Veil each header of `message` that `shown(name, value)` gives another value."""
    fields = message.headers.fields
    values = [shown(*field) for field in fields]
    if any(seen != value for seen, (_, value) in zip(values, fields, strict=True)):
        message.headers.fields = tuple(
            [
                (name, value if seen == value or isinstance(value, Veiled) else _veiled(seen, value))
                for seen, (name, value) in zip(values, fields, strict=True)
            ]
        )


def veil_path(request: http.Request, shown: bytes) -> None:
    """Show the path and query of `request` as `shown`."""
    path = request.data.path
    if shown != path and not isinstance(path, Veiled):
        request.data.path = _veiled(shown, path)


def unveiled(message: Message) -> Message:
    """`message` as it is, or where something is veiled a copy with what is real."""
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
