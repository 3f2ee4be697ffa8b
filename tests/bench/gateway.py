"""A gateway that costs next to nothing, so that it is not what is measured: `python -m tests.bench.gateway [PEM]`.

Asks for a payment in the recorded shape and believes every payment header; counts them, so that a double payment shows.
Prints one line of JSON when it listens, the port of each door: `base` and `solana` charge, `free` answers at once; with
a PEM file (certificate and key) also `base-tls`, `solana-tls`, `free-tls`. `GET /bench/counts` tells and resets.
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
from typing import Any, cast

from .work import Work, event, read_work

AMOUNT = "13"
"""Atomic units: 0.000013 USD, so that the limits that hold by default never end a run."""
_EVM_ENTRY = {
    "scheme": "exact",
    "network": "eip155:8453",
    "amount": AMOUNT,
    "asset": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
    "payTo": "0xe9030014F5DAe217d0A152f02A043567b16c1aBf",
    "maxTimeoutSeconds": 300,
    "extra": {"name": "USD Coin", "version": "2"},
}
_UPTO_ENTRY = {
    **_EVM_ENTRY,
    "scheme": "upto",
    "amount": "17",
    "extra": {"name": "USD Coin", "version": "2", "facilitatorAddress": "0x14fDa13953Fc30428938E6BF950d036e77214e52"},
}
_RESOURCE = {
    "url": "https://sol.blockrun.ai/api/v1/chat/completions",
    "description": "GPT-4o mini API call (~20 input, 64 max output tokens)",
    "mimeType": "application/json",
}
_SVM_ENTRY = {
    "scheme": "exact",
    "network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp",
    "amount": AMOUNT,
    "payTo": "AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA",
    "maxTimeoutSeconds": 300,
    "asset": "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v",
    "extra": {
        "feePayer": "93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX",
        "description": _RESOURCE["description"],
        "mimeType": "application/json",
        "resource": _RESOURCE["url"],
        "recentBlockhash": "2Etc9q7omPrAu16uFNbM3fwUH7ygCFKkToN4YCXym1nK",
        "lastValidBlockHeight": "431992176",
    },
}
ACCEPTS: dict[str, list[dict[str, Any]]] = {"base": [_EVM_ENTRY, _UPTO_ENTRY], "solana": [_SVM_ENTRY]}

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)")
_PAYMENT = re.compile(rb"\r\n(?:payment-signature|x-payment):\s*([^\r]+)")
_BLOCK = b"x" * 65536


def challenge_value(network: str) -> str:
    """What stands in PAYMENT-REQUIRED."""
    required = {"x402Version": 2, "error": "Payment Required", "resource": _RESOURCE, "accepts": ACCEPTS[network]}
    return base64.b64encode(json.dumps(required).encode()).decode()


def challenge(network: str) -> bytes:
    """A 402 as the gateways send it: the challenge in three headers and in the body."""
    value = challenge_value(network)
    body = json.dumps(
        {
            "x402Version": 2,
            "accepts": ACCEPTS[network],
            "error": "Payment Required",
            "message": "This endpoint requires x402 payment",
            "price": {"amount": "0.000017", "currency": "USD"},
        }
    )
    lines = [
        "HTTP/1.1 402 Payment Required",
        "Content-Type: application/json",
        f"PAYMENT-REQUIRED: {value}",
        f"X-Payment-Required: {value}",
        f'WWW-Authenticate: X402 requirements="{value}"',
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


class Counts:
    """What was asked of this gateway since it was last told."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.answers = self.challenges = self.paid = 0
        self.payments: set[int] = set()

    def take(self) -> bytes:
        told = {
            "answers": self.answers,
            "challenges": self.challenges,
            "paid": self.paid,
            "distinct": len(self.payments),
        }
        self.reset()
        return json.dumps(told).encode()


class Door(asyncio.Protocol):
    """One connection to a door that charges on `network`, or not at all."""

    _receipts = itertools.count(1)

    def __init__(self, network: str, counts: Counts) -> None:
        self._network = network
        self._challenge = challenge(network) if network in ACCEPTS else b""
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
            head = bytes(self._buffer[: end + 2]).lower()
            found = _LENGTH.search(head)
            length = int(found[1]) if found else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get /bench/counts"):
            return self._send(b"", self._counts.take())
        receipt = b""
        if self._challenge:
            payment = _PAYMENT.search(head)
            if payment is None:
                self._counts.challenges += 1
                self._transport.write(self._challenge)
                return None
            self._counts.paid += 1
            self._counts.payments.add(hash(payment[1]))
            receipt = b"PAYMENT-RESPONSE: " + self._receipt() + b"\r\n"
        self._counts.answers += 1
        work = read_work(body)
        if work.events or work.answer_bytes:
            self._busy = True
            answer = self._stream if work.events else self._send_much
            self._task = asyncio.get_running_loop().create_task(answer(receipt, work))
            return None
        return self._send(receipt, _SHORT_ANSWER)

    def _receipt(self) -> bytes:
        told = {"success": True, "transaction": f"0x{next(self._receipts):064x}", "network": self._network}
        return base64.b64encode(json.dumps(told).encode())

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
    for network, (suffix, tls) in itertools.product(("base", "solana", "free"), contexts.items()):
        door = functools.partial(Door, network, counts)
        server = await loop.create_server(door, "127.0.0.1", 0, ssl=tls, backlog=1024)
        ports[network + suffix] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1] if len(sys.argv) > 1 else None))
