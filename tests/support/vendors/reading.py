"""Reads a stream as a whole."""

from __future__ import annotations

from mitmproxy_x402.llm import Reading, StreamReader


def read(body: bytes) -> Reading:
    reader = StreamReader()
    reader.feed(body)
    reader.end()
    return reader.reading()
