"""What a request asks the gateway for, written into the request so that it survives every candidate's rewriting."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass

PATH = "/v1/chat/completions"
_MARK = re.compile(rb"bench:(\d+):(\d+):(\d+)")
_STAMP = re.compile(rb"@(\d+):(\d+)@")
MARK_WITHIN = 4096
"""Bytes at the beginning of a body in which the mark is looked for."""


@dataclass(frozen=True)
class Work:
    """One kind of request and the answer to it."""

    events: int = 0
    """Server-sent events in the answer; 0: one JSON document."""
    interval: int = 0
    """Milliseconds between two events."""
    answer_bytes: int = 0
    """At least so many bytes of JSON answer; 0: a short one."""
    request_bytes: int = 0
    """The request's body is filled up to about so many bytes."""
    varied: bool = False
    """Every request has a size and an output limit of its own."""

    @property
    def steady(self) -> int:
        """The first event that counts: until then the other streams of a block have opened, too."""
        return self.events // 3

    def body(self, number: int = 0) -> bytes:
        """A chat request that carries the mark at the beginning of its only message."""
        dice = random.Random(number)
        size = dice.randint(500, 6000) if self.varied else self.request_bytes
        content = f"bench:{self.events}:{self.interval}:{self.answer_bytes} " + "Say hello. " * 4
        request = {
            "model": "openai/gpt-4o-mini",
            "max_tokens": dice.randint(16, 2048) if self.varied else 64,
            "stream": bool(self.events),
            "messages": [{"role": "user", "content": content}],
        }
        missing = max(0, size - len(json.dumps(request)))
        request["messages"] = [{"role": "user", "content": content + "x" * missing}]
        return json.dumps(request).encode()


def read_work(body: bytes) -> Work:
    """What `body` asks for; the short answer where it holds no mark."""
    found = _MARK.search(body, 0, MARK_WITHIN)
    if found is None:
        return Work()
    return Work(int(found[1]), int(found[2]), int(found[3]))


def event(number: int, now_ns: int) -> bytes:
    """Event `number` of a stream, stamped with the time on this machine's monotonic clock."""
    return (
        b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,'
        b'"model":"openai/gpt-4o-mini","choices":[{"index":0,"delta":{"content":"@%d:%d@"},"finish_reason":null}]}\n\n'
        % (number, now_ns)
    )


def stamps(data: bytes) -> list[tuple[int, int, int]]:
    """Number, time sent and the place behind it of every event in `data`."""
    return [(int(found[1]), int(found[2]), found.end()) for found in _STAMP.finditer(data)]
