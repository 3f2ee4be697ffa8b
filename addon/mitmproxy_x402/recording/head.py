"""Writes flow.json, the head of a recording, as JSON or as an object for other formats. `format` reads it."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from .format import FORMAT, Chunk, Recording
from .table import Headers


def to_document(recording: Recording) -> dict[str, Any]:
    """The content of flow.json for `recording`."""
    request, response, payment = recording.request, recording.response, recording.payment
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
            **({} if recording.in_head is None else {"chunks": [[one.seconds, one.size] for one in recording.in_head]}),
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
    return None if seconds is None else round(seconds, 6)


def to_text(recording: Recording) -> str:
    """flow.json for `recording`: `to_document` as JSON, indented by one, with a line for each header.

    Written by hand, because the `json` module indents in slow Python code.
    """
    request, response, payment = recording.request, recording.response, recording.payment
    answer, paid = "null", "null"
    if response is not None:
        answer = (
            f'{{\n  "status": {response.status},\n  "reason": {_quoted(response.reason)},\n'
            f'  "http_version": {_quoted(response.http_version)},\n  "headers": {_pairs(response.headers)},\n'
            f'  "trailers": {_pairs(response.trailers)},\n  "body": {_value(response.body)},\n'
            f'  "decoded": {_value(response.decoded)},\n  "bytes": {response.size},\n'
            f'  "sha256": {_value(response.sha256)}\n }}'
        )
    if payment is not None:
        paid = (
            f'{{\n  "state": {_quoted(payment.state)},\n  "amount": {_quoted(payment.amount)},\n'
            f'  "network": {_quoted(payment.network)},\n  "pay_to": {_quoted(payment.pay_to)},\n'
            f'  "transaction": {_quoted(payment.transaction)},\n  "refused": {_quoted(payment.refused)}\n }}'
        )
    return (
        f'{{\n "format": {FORMAT},\n "id": {_quoted(recording.id)},\n "started": {_quoted(recording.started)},\n'
        f' "state": {_quoted(recording.state)},\n "error": {_value(recording.error)},\n'
        f' "request": {{\n  "method": {_quoted(request.method)},\n  "path": {_quoted(request.path)},\n'
        f'  "http_version": {_quoted(request.http_version)},\n  "upstream": {_quoted(request.upstream)},\n'
        f'  "headers": {_pairs(request.headers)},\n  "body": {_value(request.body)},\n  "bytes": {request.size},\n'
        f'  "sha256": {_value(request.sha256)}\n }},\n "response": {answer},\n'
        f' "timing": {{\n  "first_byte": {_number(recording.first_byte)},\n  "end": {_number(recording.end)}'
        f"{_listed(recording.in_head)}\n }},\n"
        f' "payment": {paid},\n "legs": {recording.legs},\n "notes": {_texts(recording.notes)}\n}}\n'
    )


_quoted: Callable[[str], str] = json.encoder.encode_basestring
"""A text in JSON, as `json.dumps` writes it with `ensure_ascii=False`."""


def _value(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


def _number(seconds: float | None) -> str:
    return "null" if seconds is None else repr(round(seconds, 6))


def _listed(chunks: tuple[Chunk, ...] | None) -> str:
    if chunks is None:
        return ""
    if not chunks:
        return ',\n  "chunks": []'
    lines = ",\n   ".join([f"[{chunk.seconds!r}, {chunk.size}]" for chunk in chunks])
    return f',\n  "chunks": [\n   {lines}\n  ]'


def _texts(texts: tuple[str, ...]) -> str:
    if len(texts) == 2:  # a header's name and value are on one line
        return f"[{_quoted(texts[0])}, {_quoted(texts[1])}]"
    lines = ",\n  ".join(map(_quoted, texts))
    return f"[\n  {lines}\n ]" if texts else "[]"


def _pairs(headers: Headers) -> str:
    if not headers:
        return "[]"
    return "[\n   " + ",\n   ".join(map(_pair, headers)) + "\n  ]"


@functools.lru_cache(1024)  # most headers recur
def _pair(header: tuple[str, str]) -> str:
    return f"[{_quoted(header[0])}, {_quoted(header[1])}]"
