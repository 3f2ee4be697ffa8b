"""Looks headers up in an index, because mitmproxy scans all of them for each look-up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mitmproxy import http

_INDEX = "x402_index"
"""The attribute of a `Headers` object that holds its index."""
_NONE: Sequence[bytes] = ()


def of(headers: http.Headers) -> Mapping[bytes, Sequence[bytes]]:
    """The raw values of all headers by their names in lower case."""
    index = headers.__dict__.get(_INDEX)
    if index is None or index[0] is not headers.fields:
        index = _made(headers)
    found: Mapping[bytes, Sequence[bytes]] = index[1]
    return found


def values(headers: http.Headers, name: str | bytes) -> Sequence[bytes]:
    """The raw values of all headers called `name`, whatever its case."""
    index = headers.__dict__.get(_INDEX)
    if index is None or index[0] is not headers.fields:
        index = _made(headers)
    wanted = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    found: Sequence[bytes] = index[1].get(wanted.lower(), _NONE)
    return found


def _made(headers: http.Headers) -> tuple[object, dict[bytes, list[bytes]]]:
    fields = headers.fields
    found: dict[bytes, list[bytes]] = {}
    for written, value in fields:
        key = written.lower()
        if key in found:
            found[key].append(value)
        else:
            found[key] = [value]
    if type(fields) is tuple:  # a list could be changed in place
        headers.__dict__[_INDEX] = fields, found
    return fields, found


def get_all(headers: http.Headers, name: str | bytes) -> list[str]:
    """Return what `headers.get_all(name)` does: the values of all headers called `name`, as text."""
    # Repeats the code of `values`: a call costs, and a request takes some forty look-ups.
    index = headers.__dict__.get(_INDEX)
    if index is None or index[0] is not headers.fields:
        index = _made(headers)
    wanted = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    found = index[1].get(wanted.lower())
    return [value.decode("utf-8", "surrogateescape") for value in found] if found else []


def get(headers: http.Headers, key: str | bytes, default: str | None = None) -> str | None:
    """Return what `headers.get(key, default)` does: repeated headers are joined with commas."""
    found = values(headers, key)
    return b", ".join(found).decode("utf-8", "surrogateescape") if found else default


def text(headers: http.Headers, key: str | bytes) -> str:
    """The value of the header `key`, repeated ones joined with commas; empty if there is none."""
    found = values(headers, key)
    return b", ".join(found).decode("utf-8", "surrogateescape") if found else ""


def has(headers: http.Headers, key: str | bytes) -> bool:
    """Return what `key in headers` does: whether there is a header called `key`."""
    return bool(values(headers, key))
