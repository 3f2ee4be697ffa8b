"""Whatever is streamed, however it is cut, paid or not: it arrives as sent, time and again through one proxy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count, cycle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import challenges, effort
from support.proxy import Proxy
from support.wire import Client, Message, Peer, Upstream, request

MAX_WRITES = 2000
"""An answer is sent in at most so many pieces, one byte each where it is no longer than that."""
FRAMINGS = ("chunked", "length", "end")
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=8) | st.just([1]) | st.just([1 << 20])


@dataclass(frozen=True)
class Answer:
    """A response of an upstream: its body in `pieces`, its bytes on the wire sent `sizes` (in turn) at a time."""

    pieces: list[bytes]
    framing: str = "chunked"
    sizes: list[int] = field(default_factory=lambda: [1 << 20])
    start: bytes = b"200 OK"
    headers: bytes = b""
    extension: bytes = b""
    """Put behind every chunk's size."""

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def head(self) -> bytes:
        framing = {
            "chunked": b"Transfer-Encoding: chunked\r\n",
            "length": b"Content-Length: %d\r\n" % len(self.body),
            "end": b"",
        }
        return b"HTTP/1.1 " + self.start + b"\r\n" + self.headers + framing[self.framing] + b"\r\n"

    def send(self, peer: Peer) -> None:
        wire, position = self._wire(), 0
        least = len(wire) // MAX_WRITES + 1
        for size in cycle(self.sizes):
            peer.send(wire[position : position + max(size, least)])
            position += max(size, least)
            if position >= len(wire):
                return

    def _wire(self) -> bytes:
        if self.framing != "chunked":
            return self.head + self.body
        chunks = (b"%X%s\r\n%s\r\n" % (len(piece), self.extension, piece) for piece in self.pieces)
        return self.head + b"".join(chunks) + b"0\r\n\r\n"


pieces = st.lists(
    st.binary(min_size=1, max_size=300)
    | st.builds(bytes.__mul__, st.binary(min_size=1, max_size=64), st.integers(1, 2000)),
    max_size=12,
)
answers = st.builds(
    Answer,
    pieces,
    st.sampled_from(FRAMINGS),
    SIZES,
    st.sampled_from([b"200 OK", b"201 Made", b"404 Not Found", b"503 "]),
    st.sampled_from([b"", b"Content-Type: text/event-stream\r\n", b"Content-Encoding: gzip\r\nX-A: 1\r\nx-a: 2\r\n"]),
    st.sampled_from([b"", b";x=y"]),
)
OWED = (b"402 Payment Required", challenges.header(challenges.evm()) + b"\r\n")
unpaid = st.builds(
    Answer,
    st.lists(st.binary(min_size=1, max_size=50), max_size=4),
    st.sampled_from(FRAMINGS),
    SIZES,
    *map(st.just, OWED),
)


class Line:
    """One proxy, one upstream that plays the answers it is given, one client that stays connected."""

    def __init__(self, upstream: Upstream, proxy: Proxy) -> None:
        self._upstream, self._proxy = upstream, proxy
        self._client: Client | None = None
        self._todo: Iterator[Answer] = iter(())
        self._numbers = count()
        upstream.script = self._play

    def ask(self, body: bytes, *answers: Answer) -> Message:
        """What the client gets when the upstream gives `answers`, one to a request."""
        self._todo = iter(answers)
        self._upstream.requests.clear()
        client, self._client = self._client or self._proxy.client(), None
        # Each at a path of its own: after a 503 an equal request would begin with the payment of the last.
        got = client.ask(request("POST", f"/v1/{next(self._numbers)}", body))
        if got.get(b"content-length") or got.chunks:
            self._client = client
        else:
            client.close()
        return got

    @property
    def asked(self) -> list[Message]:
        """The requests that the upstream has got."""
        return self._upstream.requests

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _play(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            answer = next(self._todo)
            answer.send(peer)
            if answer.framing == "end":
                return


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    def nothing(_peer: Peer, _upstream: Upstream) -> None:
        raise EOFError

    with Upstream(nothing) as upstream, Proxy(upstream.url, home=tmp_path_factory.mktemp("home")) as proxy:
        made = Line(upstream, proxy)
        yield made
        made.close()


def check(line: Line, body: bytes, answer: Answer, *before: Answer) -> None:
    got = line.ask(body, *before, answer)
    assert [asked.body for asked in line.asked] == [body] * (1 + len(before))
    assert [asked.get(b"payment-signature") is not None for asked in line.asked] == [False, True][: 1 + len(before)]
    # What ends with its connection comes in chunks: else nobody could tell the end from an answer that is cut off.
    added = b"transfer-encoding: chunked\r\n" if answer.framing == "end" else b""
    assert got.head == answer.head[:-2] + added + b"\r\n"
    assert got.body == answer.body
    if answer.framing == "chunked":
        # Chunks are not put together, unless hundreds of tiny ones are there at once; one may come in several, where
        # reading it took several reads.
        assert ends(answer.pieces) <= ends(got.chunks)


def ends(chunks: list[bytes]) -> set[int]:
    return set(accumulate(map(len, chunks)))


ONE_BYTE = [1]
EVENTS = ["data: Grüße ☕\n\n".encode(), b"\xf0\x9f", b"\xa6\x80", b"data: [DONE]\n\n"]


@given(body=st.binary(max_size=200), answer=answers)
@example(body=b"", answer=Answer(EVENTS, "chunked", ONE_BYTE))
@example(body=b"x", answer=Answer(EVENTS, "length", ONE_BYTE))
@example(body=b"x", answer=Answer(EVENTS, "end", ONE_BYTE))
@example(body=b"x", answer=Answer([b"1"] * 500))
@settings(max_examples=effort.examples(150), deadline=None)
def test_any_free_answer_arrives_as_sent(line: Line, body: bytes, answer: Answer) -> None:
    check(line, body, answer)


@given(body=st.binary(max_size=200), challenge=unpaid, answer=answers)
@example(body=b"x", challenge=Answer([b"{}"], "chunked", ONE_BYTE, *OWED), answer=Answer(EVENTS, "chunked", ONE_BYTE))
@example(body=b"x", challenge=Answer([b"{}"], "length", ONE_BYTE, *OWED), answer=Answer(EVENTS, "length", ONE_BYTE))
@example(body=b"", challenge=Answer([b"{}"], "end", ONE_BYTE, *OWED), answer=Answer(EVENTS, "end", ONE_BYTE))
@example(body=b"", challenge=Answer([], "length", [7], *OWED), answer=Answer([b"1"] * 500))
@settings(max_examples=effort.examples(150), deadline=None)
def test_any_paid_answer_arrives_as_sent(line: Line, body: bytes, challenge: Answer, answer: Answer) -> None:
    check(line, body, answer, challenge)
