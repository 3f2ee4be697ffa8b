"""A Solana RPC that answers when the test lets it: the way to hold a signature back for as long as a test needs."""

from __future__ import annotations

import json
import threading

from ..wire import TIMEOUT, Peer, Upstream
from .answering import send_json

BLOCKHASH = "2Etc9q7omPrAu16uFNbM3fwUH7ygCFKkToN4YCXym1nK"


class GatedRpc(Upstream):
    def __init__(self) -> None:
        super().__init__(_answer)
        self.asked = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def release(self) -> None:
        """Let one question be answered."""
        self.gate.release()

    def wait_until_asked(self) -> None:
        assert self.asked.acquire(timeout=TIMEOUT), "nobody asked the RPC"


def _answer(peer: Peer, upstream: Upstream) -> None:
    assert isinstance(upstream, GatedRpc)
    while True:
        question = json.loads(upstream.read(peer).body)
        if question["method"] != "getLatestBlockhash":  # the balance, which no signature waits for
            refusal = {"jsonrpc": "2.0", "id": question["id"], "error": {"code": -32601, "message": "not known"}}
            send_json(peer, refusal)
            continue
        upstream.asked.release()
        assert upstream.gate.acquire(timeout=TIMEOUT), "the test never let the RPC answer"
        value = {"blockhash": BLOCKHASH, "lastValidBlockHeight": 1000}
        send_json(peer, {"jsonrpc": "2.0", "id": 1, "result": {"context": {"slot": 1}, "value": value}})
