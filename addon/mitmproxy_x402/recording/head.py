"""Writes flow.json, the head of a recording, as JSON or as an object for other formats. `format` reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .format import FORMAT, Chunk, Recording
from .table import Headers


def to_document(recording: Recording) -> dict[str, Any]:
    """The content of flow.json for `recording`."""
    request, response, payment, chunks = recording.request, recording.response, recording.payment, recording.in_head
    return {
        "format": FORMAT,
        "id": recording.id,
        "started": recording.started,
        "state": recording.state,
        "error": recording.error,
        "request": {
            "method": request.method,
            "path": request.path,
            "http_version": request.http_version,
            "upstream": request.upstream,
            "headers": request.headers,
            "body": request.body,
            "bytes": request.size,
            "sha256": request.sha256,
        },
        "response": None
        if response is None
        else {
            "status": response.status,
            "reason": response.reason,
            "http_version": response.http_version,
            "headers": response.headers,
            "trailers": response.trailers,
            "body": response.body,
            "decoded": response.decoded,
            "bytes": response.size,
            "sha256": response.sha256,
        },
        "timing": {
            "first_byte": _rounded(recording.first_byte),
            "end": _rounded(recording.end),
            **({} if chunks is None else {"chunks": [[_rounded(one.seconds), one.size] for one in chunks]}),
        },
        "payment": None
        if payment is None
        else {
            "state": payment.state,
            "amount": payment.amount,
            "network": payment.network,
            "pay_to": payment.pay_to,
            "transaction": payment.transaction,
            "refused": payment.refused,
        },
        "legs": recording.legs,
        "notes": recording.notes,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else int(seconds * 1_000_000 + 0.5) / 1_000_000


class Head(NamedTuple):
    """flow.json but for its files: texts in JSON, as `request_text` and the functions after it write them."""

    about: str
    state: str
    error: str | None
    request: str
    response: str | None
    timing: str
    rest: str


class Files(NamedTuple):
    """Names, sizes and digests of a recording's files, as far as they are written."""

    request: str | None
    request_size: int
    request_digest: str | None
    body: str | None = None
    decoded: str | None = None
    size: int = 0
    digest: str | None = None
    chunks: Sequence[Chunk] | None = None
    notes: tuple[str, ...] = ()


def to_text(recording: Recording) -> str:
    """flow.json for `recording`: `to_document` as JSON, indented by one, with a line for each header."""
    request, response, payment = recording.request, recording.response, recording.payment
    head = Head(
        about_text(recording.id, recording.started),
        recording.state,
        recording.error,
        request_text(request.method, request.path, request.http_version, request.upstream, _pairs(request.headers)),
        None
        if response is None
        else answer_text(
            *(response.status, response.reason, response.http_version),
            *(_pairs(response.headers), _pairs(response.trailers)),
        ),
        timing_text(recording.first_byte, recording.end),
        rest_text(None if payment is None else payment_text(**vars(payment)), recording.legs),
    )
    files = Files(request.body, request.size, request.sha256, chunks=recording.in_head, notes=recording.notes)
    if response is not None:
        files = files._replace(body=response.body, decoded=response.decoded, size=response.size, digest=response.sha256)
    return head_text(head, files)


# The parts of flow.json. Written by hand, because the `json` module indents in slow Python code.


def about_text(flow_id: str, started: str) -> str:
    """The first members: `id` and `started`."""
    return f'"id": {_quoted(flow_id)},\n "started": {_quoted(started)}'


def request_text(method: str, path: str, version: str, upstream: str, headers: str) -> str:
    """The beginning of `request`; `headers` as `header_list` writes them."""
    return (
        f'"method": {_quoted(method)},\n  "path": {_quoted(path)},\n  "http_version": {_quoted(version)},\n'
        f'  "upstream": {_quoted(upstream)},\n  "headers": {headers}'
    )


def answer_text(status: int, reason: str, version: str, headers: str, trailers: str) -> str:
    """The beginning of `response`."""
    return (
        f'"status": {status},\n  "reason": {_quoted(reason)},\n  "http_version": {_quoted(version)},\n'
        f'  "headers": {headers},\n  "trailers": {trailers}'
    )


def timing_text(first_byte: float | None, end: float | None) -> str:
    """The beginning of `timing`."""
    return f'"first_byte": {_number(first_byte)},\n  "end": {_number(end)}'


def payment_text(*, state: str, amount: str, network: str, pay_to: str, transaction: str, refused: str) -> str:
    """The value of `payment`."""
    return (
        f'{{\n  "state": {_quoted(state)},\n  "amount": {_quoted(amount)},\n'
        f'  "network": {_quoted(network)},\n  "pay_to": {_quoted(pay_to)},\n'
        f'  "transaction": {_quoted(transaction)},\n  "refused": {_quoted(refused)}\n }}'
    )


def rest_text(payment: str | None, legs: int) -> str:
    """What comes after `timing`; `payment` as `payment_text` writes it."""
    return f'"payment": {payment or "null"},\n "legs": {legs}'


def head_text(head: Head, files: Files) -> str:
    """flow.json as a whole: `head`, and in it what `files` says of the files."""
    about, state, error, request, response, timing, rest = head
    asked, asked_size, asked_digest, body, decoded, size, digest, chunks, notes = files
    answer = "null"
    if response is not None:
        answer = (
            f'{{\n  {response},\n  "body": {_value(body)},\n  "decoded": {_value(decoded)},\n  "bytes": {size},\n'
            f'  "sha256": {_value(digest)}\n }}'
        )
    return (
        f'{{\n "format": {FORMAT},\n {about},\n "state": {_quoted(state)},\n "error": {_value(error)},\n'
        f' "request": {{\n  {request},\n  "body": {_value(asked)},\n  "bytes": {asked_size},\n'
        f'  "sha256": {_value(asked_digest)}\n }},\n "response": {answer},\n'
        f' "timing": {{\n  {timing}{_listed(chunks)}\n }},\n {rest},\n "notes": {_texts(notes)}\n}}\n'
    )


_quoted: Callable[[str], str] = json.encoder.encode_basestring
"""A text in JSON, as `json.dumps` writes it with `ensure_ascii=False`."""


def _value(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


def _number(seconds: float | None) -> str:
    """`seconds` to the millionth, as Python writes a float, in a third of the time."""
    if seconds is None:
        return "null"
    millionths = int(seconds * 1_000_000 + 0.5)
    if millionths < 100:  # which Python writes as 1e-06
        return repr(millionths / 1_000_000)
    whole, part = divmod(millionths, 1_000_000)
    return f"{whole}.{part:06d}".rstrip("0") if part else f"{whole}.0"


def _listed(chunks: Sequence[Chunk] | None) -> str:
    if chunks is None:
        return ""
    if not chunks:
        return ',\n  "chunks": []'
    lines = ",\n   ".join([f"[{_number(seconds)}, {size}]" for seconds, size in chunks])
    return f',\n  "chunks": [\n   {lines}\n  ]'


def _texts(texts: tuple[str, ...]) -> str:
    if len(texts) == 2:  # a header's name and value are on one line
        return f"[{_quoted(texts[0])}, {_quoted(texts[1])}]"
    lines = ",\n  ".join(map(_quoted, texts))
    return f"[\n  {lines}\n ]" if texts else "[]"


def _pairs(headers: Headers) -> str:
    return header_list([header_line(*header) for header in headers])


def header_list(lines: Sequence[str]) -> str:
    """Headers in JSON, each as `header_line` writes it."""
    return "[\n   " + ",\n   ".join(lines) + "\n  ]" if lines else "[]"


def header_line(name: str, value: str) -> str:
    """One header in JSON."""
    return f"[{_quoted(name)}, {_quoted(value)}]"
