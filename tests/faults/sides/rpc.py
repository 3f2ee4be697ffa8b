"""A Solana RPC that tells the truth, keeps people waiting, fails, or lies."""

from __future__ import annotations

import json
import threading
from typing import Any

from solders.hash import Hash

from mitmproxy_x402.sandbox.chains.svm_chain import SvmChain
from support.wire import Peer, read_message

from .doors import HOST, Door
from .gateway import DRIP, GARBAGE, PATIENCE, PAUSE

LIES = {
    "no JSON": b"<html>Too many requests</html>",
    "an error": b'{"jsonrpc": "2.0", "id": 1, "error": {"code": -32005, "message": "Node is behind"}}',
    "too short": b'{"jsonrpc": "2.0", "id": 1, "result": {"value": {"blockhash": "3yZe7d"}}}',
    "a redirect": b"",
    "an unknown blockhash": b"",
}


class Rpc:
    """The RPC. `fault` says what it does from now on; empty: it answers with the truth, which is what `chain` says."""

    def __init__(self, chain: SvmChain | None) -> None:
        self.door = Door(self._serve)
        self.door.open()
        self.fault = self.lie = ""
        self.asked, self._go_on = threading.Event(), threading.Event()
        self._chain = chain

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.door.port}/"

    def let_go(self, fault: str) -> None:
        """Do `fault` from now on, also to those who are kept waiting."""
        self.fault = fault
        self._go_on.set()

    def _serve(self, sock: Any) -> None:
        try:
            with sock:
                self._answer(Peer(sock))
        except (EOFError, OSError):
            pass  # whoever asked has had enough

    def _answer(self, peer: Peer) -> None:
        if b"getLatestBlockhash" not in read_message(peer).body:  # the proxy also looks at the wallet's balance
            peer.send(http(b'{"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "Method not found"}}'))
            return
        if self.fault == "hold":
            self._go_on.clear()
            self.asked.set()
            assert self._go_on.wait(PATIENCE)
        fault = self.fault
        if fault in ("reset", "close"):
            peer.close(reset=fault == "reset")
            return
        if fault == "stall":
            threading.Event().wait(PAUSE)
        elif fault == "timeout":
            peer.rest()
        if fault == "garbage":
            peer.send(GARBAGE)
            peer.rest()
            return
        answer = self._said() if fault == "lies" else http(self._truth())
        for byte in answer if fault == "drip" else b"":
            peer.send(bytes([byte]))
            threading.Event().wait(DRIP)
        peer.send(answer)
        peer.rest()

    def _truth(self, blockhash: str = "") -> bytes:
        assert self._chain is not None
        value = {"blockhash": blockhash or self._chain.latest_blockhash(), "lastValidBlockHeight": 1000}
        return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"context": {"slot": 1}, "value": value}}).encode()

    def _said(self) -> bytes:
        if self.lie == "a redirect":
            return b"HTTP/1.1 307 Elsewhere\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % self.url.encode()
        return http(LIES[self.lie] or self._truth(str(Hash.new_unique())))


def http(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
