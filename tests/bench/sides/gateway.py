"""A gateway that costs next to nothing, so that it is not what is measured.

`python -m tests.bench.sides.gateway [PEM]` runs it.
Asks for a payment in the recorded shape and believes every payment header; counts them, so that a double payment shows.
Prints one line of JSON when it listens, the port of each door: those of `prices.CHARGING`, and `free`, which answers at
once; with a PEM file (certificate and key) also one for TLS each, as `base-tls`. At every door `GET /bench/counts`
tells and resets, and `POST /bench/rpc` knows a blockhash.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import itertools
import json
import re
import ssl
import sys
import time
from typing import cast

from .prices import BLOCKHASH, CHARGING, amount_paid, challenge, metered, price
from .selecting import run
from .work import Work, event, read_work

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_PAYMENT = re.compile(rb"\r\n(?:payment-signature|x-payment):\s*([^\r]+)", re.IGNORECASE)
_BLOCK = b"x" * 65536
GOLDEN = (5**0.5 - 1) / 2
"""So many intervals later than the one before every stream has its turn: however many run at once, their events come
one by one and spread evenly. Where they came in a row, most of an event's delay would be that of those before it."""
_turns = itertools.count()


class Counts:
    """What was asked of this gateway since it was last told."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.answers = self.challenges = self.paid = self.overpaid = 0
        self.payments: set[int] = set()

    def take(self) -> bytes:
        told = {
            "answers": self.answers,
            "challenges": self.challenges,
            "paid": self.paid,
            "overpaid": self.overpaid,
            "distinct": len(self.payments),
        }
        self.reset()
        return json.dumps(told).encode()


class Door(asyncio.Protocol):
    """One connection to a door, which may charge."""

    _receipts = itertools.count(1)

    def __init__(self, door: str, counts: Counts) -> None:
        self._door = door
        self._challenge = _CHALLENGES.get(door, b"")
        self._counts = counts
        self._buffer = bytearray()
        self._busy = False
        self._task: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._may_write.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._go_on()

    def _go_on(self) -> None:
        while not self._busy:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[: end + 2])
            found = _LENGTH.search(head)
            length = int(found[1]) if found else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /bench/counts"):
            self._send(b"", self._counts.take())
            return
        if head.startswith(b"POST /bench/rpc"):
            self._send(b"", _BLOCKHASH)
            return
        receipt = b""
        if self._challenge:
            payment = _PAYMENT.search(head)
            refusal = self._refusal(payment and payment[1], body)
            if refusal:
                self._counts.challenges += 1
                self._transport.write(refusal)
                return
            receipt = b"PAYMENT-RESPONSE: " + self._receipt() + b"\r\n"
        self._counts.answers += 1
        work = read_work(body)
        if work.events or work.answer_bytes:
            self._busy = True
            answer = self._stream if work.events else self._send_much
            self._task = asyncio.get_running_loop().create_task(answer(receipt, work))
            return
        self._send(receipt, _SHORT_ANSWER)

    def _refusal(self, payment: bytes | None, body: bytes) -> bytes:
        """The 402 for what came; empty if it is paid for."""
        if payment is None:
            return metered(body) if self._door == "metered" else self._challenge
        if self._door == "metered":
            paid, asked = amount_paid(payment), price(body)[0]
            if paid < asked:
                return metered(body, "PAYMENT_UNDERPAID")
            self._counts.overpaid += paid > asked
        self._counts.paid += 1
        self._counts.payments.add(hash(payment))
        return b""

    def _receipt(self) -> bytes:
        return base64.b64encode(_RECEIPT % (next(self._receipts), self._door.encode()))

    def _send(self, headers: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n" % (
            headers,
            len(body),
        )
        self._transport.write(head + body)

    async def _stream(self, headers: bytes, work: Work) -> None:
        loop = asyncio.get_running_loop()
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%bTransfer-Encoding: chunked\r\n\r\n" % headers
        )
        begun = loop.time()
        begun += (next(_turns) * GOLDEN - begun * 1000 / work.interval) % 1 * work.interval / 1000
        for number in range(work.events):
            await asyncio.sleep(begun + number * work.interval / 1000 - loop.time())
            text = event(number, time.monotonic_ns())
            self._transport.write(b"%x\r\n%b\r\n" % (len(text), text))
        self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        self._done()

    async def _send_much(self, headers: bytes, work: Work) -> None:
        blocks = -(-work.answer_bytes // len(_BLOCK))
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n%bContent-Length: %d\r\n\r\n"
            % (headers, blocks * len(_BLOCK))
        )
        for _ in range(blocks):
            self._transport.write(_BLOCK)
            await self._may_write.wait()
        self._done()

    def _done(self) -> None:
        self._busy, self._task = False, None
        self._go_on()


_RECEIPT = b'{"success": true, "transaction": "0x%064x", "network": "%b"}'
_CHALLENGES = {door: challenge(door) for door in CHARGING}
_BLOCKHASH = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"context": {"slot": 1}, "value": {"blockhash": BLOCKHASH, "lastValidBlockHeight": 431992176}},
    }
).encode()
_SHORT_ANSWER = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1760000000,
        "model": "openai/gpt-4o-mini",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello there. " * 20}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 64, "total_tokens": 84},
    }
).encode()


async def serve(pem: str | None) -> None:
    """Listen at every door, tell where, and go on until the standard input ends."""
    loop = asyncio.get_running_loop()
    counts = Counts()
    ports: dict[str, int] = {}
    contexts: dict[str, ssl.SSLContext | None] = {"": None}
    if pem is not None:
        contexts["-tls"] = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        context.set_alpn_protocols(["http/1.1"])
    for door, (suffix, tls) in itertools.product((*CHARGING, "free"), contexts.items()):
        server = await loop.create_server(functools.partial(Door, door, counts), "127.0.0.1", 0, ssl=tls, backlog=1024)
        ports[door + suffix] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    run(serve(sys.argv[1] if len(sys.argv) > 1 else None))
