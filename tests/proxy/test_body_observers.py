from __future__ import annotations

import logging

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.body_observers import tap


def _streamed(stream: object = True) -> http.HTTPFlow:
    flow = tflow.tflow(resp=True)
    assert flow.response is not None
    flow.response.stream = stream  # type: ignore[assignment]
    return flow


def _pass(flow: http.HTTPFlow, *chunks: bytes) -> list[bytes]:
    assert flow.response is not None
    stream = flow.response.stream
    assert callable(stream)
    return [stream(chunk) for chunk in chunks]  # type: ignore[misc]


def test_every_receiver_gets_every_chunk_and_the_client_the_very_same() -> None:
    flow = _streamed()
    first: list[bytes] = []
    second: list[bytes] = []
    tap(flow, first.append)
    tap(flow, second.append)
    chunks = [b"a", b"bc", b""]
    passed = _pass(flow, *chunks)
    assert all(out is chunk for out, chunk in zip(passed, chunks, strict=True))
    assert first == second == chunks


def test_a_receiver_that_raises_is_let_go_and_the_stream_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    flow = _streamed()
    seen: list[bytes] = []

    def broken(data: bytes) -> None:
        raise OSError("/a/secret/place")

    tap(flow, broken)
    tap(flow, seen.append)
    with caplog.at_level(logging.ERROR):
        assert _pass(flow, b"a", b"b", b"") == [b"a", b"b", b""]
    assert seen == [b"a", b"b", b""]
    assert [record.getMessage() for record in caplog.records] == [
        "x402: stopped looking at an answer (OSError); the answer goes on."
    ]


def test_what_another_addon_does_to_the_stream_still_happens() -> None:
    flow = _streamed(bytes.upper)
    seen: list[bytes] = []
    tap(flow, seen.append)
    assert _pass(flow, b"a", b"") == [b"A", b""]
    assert seen == [b"a", b""]


def test_an_answer_that_is_not_streamed_is_left_alone() -> None:
    flow = _streamed(False)
    tap(flow, pytest.fail)
    assert flow.response is not None
    assert flow.response.stream is False
