"""Captures what is known of a flow at one moment, and makes flow.json's text from it, without secrets.

Only references to immutable parts are taken, so that it costs next to nothing while a client waits; the rest is done
when it is handed to a writer.
"""

from __future__ import annotations

import functools
from dataclasses import fields

from mitmproxy import http

from ..proxy.exchange import exchange_of
from .format import RecordedPayment
from .head import Head, about_text, answer_text, header_list, payment_text, request_text, rest_text, timing_text
from .names import extension, folder_name, rfc3339
from .redact import Fields, Redactor


class Snapshot:
    """What is known of a flow. `state`, `error` and `end` are set when it is over."""

    __slots__ = ("_answer", "_asked", "_paid", "_path", "_redactor", "end", "error", "legs", "state")

    def __init__(self, flow: http.HTTPFlow, redactor: Redactor, *, answered: bool = True) -> None:
        """`answered`: whether `flow.response`, if there is one, is the client's answer."""
        response, metadata, exchange, sent = flow.response, flow.metadata, exchange_of(flow), flow.request.data
        self._redactor = redactor
        self._path: str | None = None
        self._asked = (
            *(flow.id, sent.timestamp_start, sent.method, sent.path, sent.http_version, sent.headers.fields),
            *(sent.scheme, sent.host, sent.port),
        )
        self._answer: tuple[float | None, int, bytes, bytes, Fields, Fields] | None = None
        if response is not None and answered:
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

    @property
    def request_extension(self) -> str:
        """The file name extension of the request's body."""
        return extension(_first(self._asked[5], b"content-type"))

    @property
    def answer_extension(self) -> str:
        """The file name extension of the answer's body."""
        return extension("" if self._answer is None else _first(self._answer[4], b"content-type"))

    @property
    def coding(self) -> str:
        """The answer's Content-Encoding, which may stand in several lines."""
        if self._answer is None:
            return ""
        codings = [value for key, value in self._answer[4] if len(key) == 16 and key.lower() == b"content-encoding"]
        return self._redactor.text(_text(b", ".join(codings))) if codings else ""

    @property
    def is_answered(self) -> bool:
        """Whether the answer's head is known."""
        return self._answer is not None

    @property
    def path(self) -> str:
        """The request's path and query, without secrets."""
        if self._path is None:  # a query can be long
            self._path = _text(self._redactor.path(self._asked[3]))
        return self._path

    def place(self, number: int) -> str:
        """The name of its folder, with the running `number`."""
        return folder_name(rfc3339(self._asked[1]), number, _text(self._asked[2]), self.path)

    def head(self) -> Head:
        """flow.json but for its files, without secrets."""
        redactor = self._redactor
        flow_id, began, method, _, version, headers, scheme, host, port = self._asked
        asked = request_text(
            *(_text(method), self.path, _text(version), _origin(scheme, host, port)),
            header_list(redactor.lines(headers)),
        )
        answer = paid = None
        if self._answer is not None:
            _, status, reason, answer_version, answer_headers, trailers = self._answer
            answer = answer_text(
                *(status, _text(reason), _text(answer_version)),
                *(header_list(redactor.lines(answer_headers)), header_list(redactor.lines(trailers))),
            )
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
        return Head(
            about_text(flow_id, rfc3339(began)),
            self.state,
            None if self.error is None else redactor.text(self.error),
            asked,
            answer,
            timing_text(self._first_byte, self.end),
            rest_text(paid, self.legs),
        )


_PAID = tuple(f"x402.{field.name}" for field in fields(RecordedPayment))


def _first(fields: Fields, name: bytes) -> str:
    """The value of the first header `name`; empty: there is none."""
    for key, value in fields:
        if len(key) == len(name) and key.lower() == name:
            return _text(value)
    return ""


@functools.lru_cache(64)
def _origin(scheme: bytes, host: str, port: int) -> str:
    return f"{_text(scheme)}://{f'[{host}]' if ':' in host else host}:{port}"


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
