"""Writes recordings as mitmproxy's flow files, with the streamed body: `mitmweb -r FILE` opens them.

mitmproxy's FlowWriter wants the body in memory. Here the flow's state, without its secrets, is written around the body,
which is copied from its file; the format (tnetstrings) only has to know its size beforehand.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from mitmproxy import http
from mitmproxy.io import tnetstring

from ..llm.reading import Reading
from ..views import comment
from ..views.reading import read
from .format import Recording
from .redact import Redactor
from .writing.files import write_at

BLOCK = 1 << 18
READ = 4 << 20
"""Most bytes of an answer that is read for the comment."""

State = dict[str, Any]


class FlowFile:
    """The file of one run of the proxy: `<run>.mitm` in `folder`."""

    def __init__(self, folder: Path, run: str, redactor: Redactor) -> None:
        self.path = folder / f"{run}.mitm"
        self._redactor = redactor

    def add(self, state: State, recording: Recording) -> None:
        """Add a finished flow, with its mitmproxy `state` and its `recording`. Raises OSError: nothing was added."""
        parts = self._parts(self.redacted(state, _body_of(recording)), recording)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            end = place = os.fstat(descriptor).st_size
            try:
                for part in parts:
                    place = write_at(descriptor, part, place)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)

    @staticmethod
    def _parts(state: State, recording: Recording) -> Iterator[bytes]:
        body = _body_of(recording)
        if body is None:
            yield tnetstring.dumps(state)
            return
        with body.open("rb") as stream:
            yield from _around(state, stream)

    def redacted(self, state: State, body: Path | None = None) -> State:
        """The flow's `state` without secrets and without the answer's body, which is in `body`. Raises OSError."""
        flow = _flow_of(state)
        _describe(flow, body)
        redactor, request, response = self._redactor, flow.request, flow.response
        request.headers = http.Headers(redactor.fields(request.headers))
        request.data.path = redactor.path(request.data.path)
        if request.trailers is not None:
            request.trailers = http.Headers(redactor.fields(request.trailers))
        if response is not None:
            response.headers = http.Headers(redactor.fields(response.headers))
            if response.trailers is not None:
                response.trailers = http.Headers(redactor.fields(response.trailers))
            response.raw_content = b""
        if flow.error is not None:
            flow.error.msg = redactor.text(flow.error.msg)
        challenge = flow.metadata.get("x402.challenge")
        if isinstance(challenge, dict):
            fields = [(name.encode(), value.encode()) for name, value in challenge["headers"]]
            pairs = redactor.fields(http.Headers(fields))
            challenge["headers"] = [
                [name.decode("utf-8", "replace"), value.decode("utf-8", "replace")] for name, value in pairs
            ]
        return cast(State, flow.get_state() | {"backup": None})


def _flow_of(state: State) -> http.HTTPFlow:
    return cast(http.HTTPFlow, http.HTTPFlow.from_state(copy.deepcopy(state)))  # from_state modifies its argument


def without_body(state: State, recording: Recording) -> http.HTTPFlow:
    """A flow made from `state`, described as in mitmweb's list, without any body. Raises OSError."""
    flow = _flow_of(state)
    _describe(flow, _body_of(recording))
    flow.request.raw_content = None
    if flow.response is not None:
        flow.response.raw_content = None
    return flow


def _body_of(recording: Recording) -> Path | None:
    response = recording.response
    return None if response is None or response.body is None else recording.folder / response.body


def _describe(flow: http.HTTPFlow, body: Path | None) -> None:
    """Set comment and mark as in mitmweb's list, unless the user has set them; mitmdump sets none."""
    broken = flow.error is not None
    before = comment.of(flow, broken=broken)
    flow.metadata.pop("x402.cut", None)  # the file has the whole body
    if flow.comment in ("", before):
        flow.comment = comment.of(flow, reading=_reading(flow, body), broken=broken)
    flow.marked = flow.marked or comment.mark(flow.metadata)


def _reading(flow: http.HTTPFlow, body: Path | None) -> Reading | None:
    if flow.response is None or body is None or body.stat().st_size > READ:
        return None
    headers = flow.response.headers
    kind, coding = headers.get("content-type", ""), headers.get("content-encoding", "")
    return read(kind, coding, body.read_bytes())[0]


def _around(state: State, body: BinaryIO) -> Iterator[bytes]:
    """Yield `state` as a tnetstring, with `body` as the answer's content."""
    size = os.fstat(body.fileno()).st_size
    response = b"".join(_items(state["response"], "content")) + tnetstring.dumps("content") + b"%d:" % size
    others = b"".join(_items(state, "response")) + tnetstring.dumps("response")
    length = len(response) + size + len(b",")
    total = len(others) + len(b"%d:" % length) + length + len(b"}")
    yield b"%d:%s%d:%s" % (total, others, length, response)
    while size > 0 and (block := body.read(min(size, BLOCK))):
        yield block
        size -= len(block)
    if size:
        raise OSError("the recorded body has become shorter")
    yield b",}}"


def _items(table: State, without: str) -> Iterator[bytes]:
    for key, value in table.items():
        if key != without:
            yield tnetstring.dumps(key)
            yield tnetstring.dumps(value)
