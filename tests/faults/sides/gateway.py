"""A gateway that sells one stream, and that a fault strikes at a point of the way; it knows whose money it moved."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from mitmproxy_x402.errors import PaymentHeaderError
from mitmproxy_x402.protocol import headers
from mitmproxy_x402.sandbox.chains.interface import BLOCKHASH_STALE, INVALID, Chain, Rejected, Verified
from support import challenges
from support.wire import Message, Peer

from .doors import Door

PAUSE = 0.3
"""Seconds of a stall: less than any time-out."""
DRIP = 0.1
"""Seconds between two drops."""
PATIENCE = 20
EVENTS = [b"data: event %d of what was paid for\n\n" % number for number in range(12)]
LARGE = 24 << 20
"""Bytes of a stream that is too large for every buffer on its way."""
GARBAGE = b"\x16\x03\x01\x00 this is \xff\xfe nothing that belongs here\r\n\r\n"
AT_THE_DOOR = ("refused", "stall", "timeout", "hold")
"""Faults of a connection that is being made, and that are none of a connection that was."""
_NOT_CHUNKED = b"\r\nno chunk begins like this\r\n"


class Struck(Exception):
    """The fault has ended this connection."""


class Shop(Protocol):
    """The chain that a gateway is paid on, and what it asks for."""

    lock: threading.Lock
    chain: Chain

    def challenge(self) -> dict[str, Any]:
        """A challenge as JSON."""


@dataclass(frozen=True)
class Sold:
    """A good payment, and what the ledger knows it by."""

    reference: str
    verified: Verified


class Gateway:
    """One port. `strikes` says at which point which fault strikes, from now on; None: all is well."""

    def __init__(self, shop: Shop, *, taken: bool = True, tls: ssl.SSLContext | None = None, big: bool = False) -> None:
        self.door = Door(self._serve)
        self.strikes: tuple[str, str] | None = None
        self.times: int | None = None
        """How often it strikes; None: every time."""
        self.taken = taken
        """Whether money moves as soon as a payment arrives. Otherwise: just before the last byte of the answer."""
        self.seen: list[str] = []
        """References of the payments whose headers arrived."""
        self.settled: list[str] = []
        self.never_taken: set[str] = set()
        """Those of which it said that nothing was broadcast."""
        self.delivered = 0
        """Answers whose last byte was sent."""
        self.errors: list[BaseException] = []
        self.arrived, self.go_on = threading.Event(), threading.Event()
        self.over, self.left = threading.Event(), threading.Event()
        self.cure: ssl.SSLContext | None = None
        """What to serve TLS with when it is healed."""
        self.before_strike: Callable[[], None] = lambda: None
        self._shop, self.tls, self._big = shop, tls, big
        self._challenged = self._shut = self._dripped = False

    def heal(self) -> None:
        """From now on all is well; who was held goes on."""
        self.strikes = None
        self.tls = self.cure or self.tls
        self.go_on.set()
        self.over.set()
        if self._shut:
            self._shut = False
            self.door.open()

    def close_door(self, fault: str) -> None:
        """Refuse, or let wait, who comes next."""
        self._shut = True
        if fault == "refused":
            self.door.shut()
        else:
            self.door.fill()
        if fault == "stall":
            threading.Timer(PAUSE, self.heal).start()

    # One connection.

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock, contextlib.ExitStack() as stack:
                peer = Peer(sock)
                sock.recv(1, socket.MSG_PEEK)  # the other side takes it for a connection, and has begun to speak
                self._strike(peer, "again" if self._challenged else "connect")
                if self.tls is not None:
                    self._strike(peer, "tls")
                    peer = Peer(stack.enter_context(self.tls.wrap_socket(sock, server_side=True)))
                while True:
                    self._serve_one(peer)
        except (Struck, EOFError, OSError):
            pass  # the other side has left, or was to think so
        except BaseException as error:
            self.errors.append(error)
        finally:
            self.left.set()

    def _serve_one(self, peer: Peer) -> None:
        self._dripped = False
        message = Message(peer.until(b"\r\n\r\n"))
        header = message.get(b"payment-signature")
        verdict = None if header is None else self._judge(header)
        if verdict is not None:
            self._strike(peer, "leaving")
        peer.exactly(int(message.get(b"content-length") or 0))
        if verdict is None:
            parts = self._challenge()
        elif isinstance(verdict, Rejected):
            self._strike(peer, "paid")
            peer.send(self._rejection(verdict))
            return
        else:
            parts = self._answer(verdict)
        for number, (point, data) in enumerate(parts):
            if self.strikes == ("end", "drip") and point == "end":
                self._hand_over(verdict)
            self._strike(peer, point, b"" if self._big else b"".join(part for _, part in parts[number:]))
            if point == "end":
                self._hand_over(verdict)
            if data and not self._dripped:
                peer.send(data)
        if isinstance(verdict, Sold):
            self._strike(peer, "after")
        elif self._door_closes:
            raise Struck

    @property
    def _door_closes(self) -> bool:
        return self._shut or (self.strikes is not None and self.strikes[0] == "again")

    # What it sells.

    def _challenge(self) -> list[tuple[str, bytes]]:
        self._challenged = True
        if self.strikes is not None and self.strikes[0] == "again" and self.strikes[1] in AT_THE_DOOR:
            self.close_door(self.strikes[1])
        closing = [b"Connection: close"] if self._door_closes else []
        whole = challenges.answer(self._shop.challenge(), None, *closing)
        head, _, body = whole.partition(b"\r\n\r\n")
        half = len(body) // 2
        return [
            ("asked", head[: len(head) // 2]),
            ("402-head", head[len(head) // 2 :] + b"\r\n\r\n" + body[:half]),
            ("402-body", body[half:]),
            ("402", b""),
        ]

    def _answer(self, sold: Sold) -> list[tuple[str, bytes]]:
        transaction = sold.verified.reference if sold.reference in self.settled else ""
        receipt = {"success": True, "transaction": transaction, "network": self._shop.chain.network.caip2}
        head = b"\r\n".join(
            [
                b"HTTP/1.1 200 OK",
                b"Content-Type: text/event-stream",
                b"PAYMENT-RESPONSE: " + base64.b64encode(json.dumps(receipt).encode()),
                b"Transfer-Encoding: chunked",
                b"\r\n",
            ]
        )
        begun, rest = b"".join(map(chunk, EVENTS[:3])), [b"".join(map(chunk, EVENTS[3:]))]
        if self._big:
            rest = [chunk(bytes(1 << 16))] * (LARGE >> 16)
        return [
            ("paid", head[: len(head) // 2]),
            ("head", head[len(head) // 2 :] + begun),
            *(("stream" if not number else "", part) for number, part in enumerate(rest)),
            ("end", b"0\r\n\r\n"),
        ]

    def _judge(self, header: bytes) -> Sold | Rejected:
        """Look at a payment; take it, where money moves at once."""
        try:
            payment = headers.read_payment({"PAYMENT-SIGNATURE": header.decode()}.get)
        except PaymentHeaderError as error:
            return Rejected(INVALID, str(error))
        assert payment is not None
        reference, entry = reference_of(payment.payload), payment.accepted.raw
        self.seen.append(reference)
        try:
            with self._shop.lock:
                sold = Sold(reference, self._shop.chain.verify(entry, int(entry["amount"]), payment.payload))
        except Rejected as rejected:
            if rejected.reason == BLOCKHASH_STALE:
                self.never_taken.add(reference)
            return rejected
        if self.taken:
            self._settle(sold)
        return sold

    def _settle(self, sold: Sold) -> None:
        with self._shop.lock:
            if sold.reference not in self.settled:
                self._shop.chain.settle(sold.verified)
                self.settled.append(sold.reference)

    def _hand_over(self, sold: Sold | None) -> None:
        """Nothing fails any more before the last byte leaves."""
        assert sold is not None
        self._settle(sold)
        self.delivered += 1

    def _rejection(self, rejected: Rejected) -> bytes:
        said = {"error": "Payment rejected", "message": str(rejected), "code": rejected.reason}
        return challenges.answer(self._shop.challenge(), json.dumps(said).encode())

    # How it fails.

    def _strike(self, peer: Peer, point: str, rest: bytes = b"") -> None:
        if self.strikes is None or self.strikes[0] != point or self.times == 0:
            return
        if self.times is not None:
            self.times -= 1
        self.before_strike()
        fault = self.strikes[1]
        self.arrived.set()
        if fault in ("reset", "close"):
            peer.close(reset=fault == "reset")
        elif fault == "stall":
            self.over.wait(PAUSE)
            return
        elif fault == "hold":
            assert self.go_on.wait(PATIENCE)
            return
        elif fault == "garbage":
            peer.send(_NOT_CHUNKED if point in ("stream", "end") else GARBAGE)
            self._wait_for_the_end(peer, point)
        elif fault == "drip":
            self._drip(peer, self._hello(peer) if point == "tls" else rest)
            if point == "end":  # that was all of it
                self._dripped = True
                return
        elif fault == "timeout":
            self._wait_for_the_end(peer, point)
        raise Struck

    def _wait_for_the_end(self, peer: Peer, point: str) -> None:
        """Of the other side, or of our interest: who does not read will not hear of it."""
        if point == "leaving":
            self.over.wait(PATIENCE)
        else:
            peer.rest()

    def _drip(self, peer: Peer, data: bytes) -> None:
        while self.strikes is not None and self.strikes[0] == "leaving" and not self.over.wait(DRIP):
            peer.exactly(1024)
        for byte in data:
            peer.send(bytes([byte]))
            if self.over.wait(DRIP):
                return

    def _hello(self, peer: Peer) -> bytes:
        """What this side says first in TLS."""
        assert self.tls is not None
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        incoming.write(peer.receive())
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
        return outgoing.read()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def reference_of(payload: Any) -> str:
    """What the ledger knows a payment by."""
    if "authorization" in payload:
        return str(payload["authorization"]["nonce"])
    from solders.transaction import VersionedTransaction  # noqa: PLC0415  # most gateways are paid on EVM

    transaction = VersionedTransaction.from_bytes(base64.b64decode(payload["transaction"]))
    return str(transaction.signatures[1])
