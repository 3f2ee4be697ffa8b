"""Captures what is known of a flow at one moment, and writes flow.json from it.

Most snapshots are superseded before anything is written, so only references to immutable parts are taken on the event
loop; headers and paths are converted, without their secrets, in the recorder's thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from mitmproxy import http

from ..proxy.exchange import exchange_of
from .format import Chunk, RecordedPayment, RecordedRequest, RecordedResponse, Recording
from .head import answer_text, head_text, header_list, payment_text, request_text
from .names import rfc3339
from .redact import Fields, Redactor


class Files(NamedTuple):
    """Names, sizes and digests of a recording's files, as far as they are written."""

    folder: str
    request: str | None
    request_size: int
    request_digest: str | None
    body: str | None
    decoded: str | None
    size: int
    digest: str | None
    chunks: tuple[Chunk, ...] | None
    notes: tuple[str, ...]


class Snapshot:
    """What is known of a flow. `state`, `error` and `end` are set when it is over."""

    __slots__ = ("_answer", "_asked", "_paid", "_redactor", "_started", "end", "error", "legs", "state")

    def __init__(self, flow: http.HTTPFlow, redactor: Redactor, started: str = "") -> None:
        """`started`: when the request began in RFC 3339, where that was needed before."""
        response, metadata, exchange, sent = flow.response, flow.metadata, exchange_of(flow), flow.request.data
        self._redactor = redactor
        self._started = started
        self._asked = (
            *(flow.id, sent.timestamp_start, sent.method, sent.path, sent.http_version, sent.headers.fields),
            *(sent.scheme, sent.host, sent.port),
        )
        self._answer: tuple[float | None, int, bytes, bytes, Fields, Fields] | None = None
        if response is not None:
            data, trailers = response.data, response.trailers
            self._answer = (
                *(data.timestamp_start, data.status_code, data.reason, data.http_version, data.headers.fields),
                () if trailers is None else trailers.fields,
            )
        self._paid = tuple([metadata.get(key, "") for key in _PAID]) if "x402.state" in metadata else None
        self.legs = exchange.legs if exchange is not None else int(str(metadata.get("x402.legs", "1")))
        self.state = "open"
        self.error: str | None = None
        self.end: float | None = None

    @property
    def _first_byte(self) -> float | None:
        answered, began = self._answer, self._asked[1]
        return None if answered is None or answered[0] is None else max(0.0, answered[0] - began)

    def text(self, files: Files) -> str:
        """flow.json; the same as `to_text` of `recording`, in far less time."""
        redactor = self._redactor
        flow_id, began, method, path, version, headers, scheme, host, port = self._asked
        asked = request_text(
            method=_text(method),
            path=_text(redactor.path(path)),
            version=_text(version),
            upstream=_origin(scheme, host, port),
            headers=header_list(redactor.lines(headers)),
            body=files.request,
            size=files.request_size,
            sha256=files.request_digest,
        )
        answer = "null"
        if self._answer is not None:
            _, status, reason, answer_version, answer_headers, trailers = self._answer
            answer = answer_text(
                status=status,
                reason=_text(reason),
                version=_text(answer_version),
                headers=header_list(redactor.lines(answer_headers)),
                trailers=header_list(redactor.lines(trailers)),
                body=files.body,
                decoded=files.decoded,
                size=files.size,
                sha256=files.digest,
            )
        paid = "null"
        if self._paid is not None:
            state, amount, network, pay_to, transaction, refused = self._paid
            paid = payment_text(
                state=state,
                amount=amount,
                network=network,
                pay_to=pay_to,
                transaction=transaction,
                refused=refused,
            )
        return head_text(
            flow_id=flow_id,
            started=self._started or rfc3339(began),
            state=self.state,
            error=self.error,
            request=asked,
            response=answer,
            first_byte=self._first_byte,
            end=self.end,
            chunks=files.chunks,
            payment=paid,
            legs=self.legs,
            notes=files.notes,
        )

    def recording(self, files: Files) -> Recording:
        """The same as an object."""
        redactor = self._redactor
        flow_id, began, method, path, version, headers, scheme, host, port = self._asked
        response = None
        if self._answer is not None:
            _, status, reason, answer_version, answer_headers, trailers = self._answer
            response = RecordedResponse(
                status=status,
                reason=_text(reason),
                http_version=_text(answer_version),
                headers=redactor.texts(answer_headers),
                trailers=redactor.texts(trailers),
                body=files.body,
                decoded=files.decoded,
                size=files.size,
                sha256=files.digest,
            )
        return Recording(
            folder=Path(files.folder),
            id=flow_id,
            started=rfc3339(began),
            state=self.state,
            error=self.error,
            request=RecordedRequest(
                method=_text(method),
                path=_text(redactor.path(path)),
                http_version=_text(version),
                headers=redactor.texts(headers),
                upstream=_origin(scheme, host, port),
                body=files.request,
                size=files.request_size,
                sha256=files.request_digest,
            ),
            response=response,
            first_byte=self._first_byte,
            end=self.end,
            payment=None if self._paid is None else RecordedPayment(*self._paid),
            legs=self.legs,
            notes=files.notes,
            in_head=files.chunks,
        )


Known = Callable[[], Snapshot]
"""Captures a flow as it is now. Called in the recorder's thread."""

_PAID = tuple(f"x402.{field.name}" for field in fields(RecordedPayment))


@functools.lru_cache(64)
def _origin(scheme: bytes, host: str, port: int) -> str:
    return f"{_text(scheme)}://{f'[{host}]' if ':' in host else host}:{port}"


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
