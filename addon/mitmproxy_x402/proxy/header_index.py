"""Looks headers up in an index; mitmproxy scans the whole head for each look-up."""

from __future__ import annotations

from collections.abc import Sequence

from mitmproxy import http

_INDEX = "x402_index"
"""The attribute of a `Headers` object that holds its index."""
_NONE: Sequence[bytes] = ()


def values(headers: http.Headers, name: str | bytes) -> Sequence[bytes]:
    """The raw values of all headers called `name`, whatever its case."""
    fields = headers.fields
    index: tuple[object, dict[bytes, list[bytes]]] | None = headers.__dict__.get(_INDEX)
    if index is None or index[0] is not fields:
        found: dict[bytes, list[bytes]] = {}
        for written, value in fields:
            key = written.lower()
            if key in found:
                found[key].append(value)
            else:
                found[key] = [value]
        index = fields, found
        if type(fields) is tuple:  # a list could be changed in place
            headers.__dict__[_INDEX] = index
    wanted = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    return index[1].get(wanted.lower(), _NONE)


def get_all(headers: http.Headers, name: str | bytes) -> list[str]:
    """The same as `headers.get_all(name)`."""
    return [value.decode("utf-8", "surrogateescape") for value in values(headers, name)]


def get(headers: http.Headers, key: str | bytes, default: str | None = None) -> str | None:
    """The same as `headers.get(key, default)`: repeated headers are joined with commas."""
    found = values(headers, key)
    return b", ".join(found).decode("utf-8", "surrogateescape") if found else default


def has(headers: http.Headers, key: str | bytes) -> bool:
    """The same as `key in headers`."""
    return bool(values(headers, key))
