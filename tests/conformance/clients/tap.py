"""A byte tap in front of the proxy: relays what clients and proxy say to each other, and keeps the bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from support.wire import TIMEOUT, Message, Peer, read_message


@dataclass
class Conversation:
    up: bytearray = field(default_factory=bytearray)
    """What the client said."""
    down: bytearray = field(default_factory=bytearray)
    """What the proxy said."""


class Tap:
    """Listens while entered; `conversations` has one entry a connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        # The proxy's own port, at another address: the proxy knows its port in a Host header, and refuses others.
        self._sock = socket.create_server(("::1", port), family=socket.AF_INET6)
        self.conversations: list[Conversation] = []
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"http://[::1]:{self._port}"

    @property
    def asked(self) -> list[Message]:
        """Every request that clients sent, connection by connection."""
        return [message for each in self.conversations for message in messages(each.up)]

    @property
    def answered(self) -> list[Message]:
        """Every answer that clients got."""
        return [message for each in self.conversations for message in messages(each.down)]

    def __enter__(self) -> Tap:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._sock.close()
        for thread in self._threads:
            thread.join(TIMEOUT)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            proxy = socket.create_connection(("127.0.0.1", self._port))
            for sock in (client, proxy):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kept = Conversation()
            self.conversations.append(kept)
            self._start(self._relay, client, proxy, kept)

    def _relay(self, client: socket.socket, proxy: socket.socket, kept: Conversation) -> None:
        back = threading.Thread(target=_copy, args=(proxy, client, kept.down), daemon=True)
        back.start()
        _copy(client, proxy, kept.up)
        back.join()
        client.close()
        proxy.close()


def _copy(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            kept += data  # before it is passed on: who has seen the last byte finds it here
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class _Kept(Peer):
    """Bytes that were received before, to be read as from a socket."""

    def __init__(self, data: bytes) -> None:
        self.sock = self  # type: ignore[assignment]
        self._buffer = data

    @staticmethod
    def recv(_size: int) -> bytes:
        return b""

    def __bool__(self) -> bool:
        return bool(self._buffer)


def messages(data: bytes | bytearray) -> Iterator[Message]:
    peer = _Kept(bytes(data))
    while peer:
        yield read_message(peer)
