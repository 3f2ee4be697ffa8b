"""The headers of a message, gone through once: in mitmproxy's own collection each look-up goes through all of them."""

from __future__ import annotations

from collections.abc import Callable

from mitmproxy import http


def names(headers: http.Headers) -> set[bytes]:
    """In lower case."""
    return {name.lower() for name, _ in headers.fields}


def getter(headers: http.Headers) -> Callable[[str], str | None]:
    """What `headers.get` says now: by the name in any case, values of headers that come several times joined."""
    found: dict[bytes, bytes] = {}
    for name, value in headers.fields:
        key = name.lower()
        found[key] = found[key] + b", " + value if key in found else value

    def get(name: str) -> str | None:
        value = found.get(name.lower().encode())
        return None if value is None else value.decode("utf-8", "surrogateescape")

    return get
