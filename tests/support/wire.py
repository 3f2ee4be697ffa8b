"""HTTP/1.1 at the level of bytes: a client and a scripted upstream that parse what a test wants, no more."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

TIMEOUT = 20
PORTS = range(12_000, 32_000)  # no system gives these to who binds port 0 or connects


class Peer:
    """One connection, seen from either side."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> bytes:
        """What arrives next; empty at the end of the stream."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self.sock.recv(65536)

    def unread(self, data: bytes) -> None:
        """Let `data` arrive next."""
        self._buffer = data + self._buffer

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`."""
        while mark not in self._buffer:
            more = self.sock.recv(65536)
            if not more:
                raise EOFError(f"ended before {mark!r}: {self._buffer!r}")
            self._buffer += more
        end = self._buffer.index(mark) + len(mark)
        data, self._buffer = self._buffer[:end], self._buffer[end:]
        return data

    def exactly(self, size: int) -> bytes:
        parts = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        have = len(parts[0])
        while have < size:
            more = self.sock.recv(min(1 << 20, size - have))
            if not more:
                raise EOFError(f"ended after {have} of {size} bytes")
            parts.append(more)
            have += len(more)
        return b"".join(parts)

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        parts = []
        while data := self.receive():
            parts.append(data)
        return b"".join(parts)

    def chunk(self) -> bytes:
        """The payload of one chunk of a chunked body; empty for the last."""
        size = int(self.until(b"\r\n").split(b";")[0], 16)
        data = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return data

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
        self.sock.close()


@dataclass
class Message:
    """A request or a response: the head as it came, the payload of the body."""

    head: bytes
    body: bytes = field(default=b"", repr=False)
    chunks: list[bytes] = field(default_factory=list, repr=False)

    @property
    def start(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def status(self) -> int:
        return int(self.start.split()[1])

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:-2]
        return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)


def read_message(peer: Peer, *, to_end: bool = True) -> Message:
    """One message with its body, framed by Content-Length, by chunks, or (a response with neither) by the end."""
    head = peer.until(b"\r\n\r\n")
    message = Message(head)
    length = message.get(b"content-length")
    if (message.get(b"transfer-encoding") or b"").lower() == b"chunked":
        while chunk := peer.chunk():
            message.chunks.append(chunk)
        message.body = b"".join(message.chunks)
    elif length is not None:
        message.body = peer.exactly(int(length))
    elif head.startswith(b"HTTP/") and to_end:
        message.body = peer.rest()
    return message


class Client(Peer):
    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        sock = socket.create_connection((host, port), TIMEOUT)
        super().__init__(tls.wrap_socket(sock, server_hostname=host) if tls else sock)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, data: bytes) -> Message:
        self.send(data)
        return read_message(self)


def request(method: str = "POST", path: str = "/v1/chat/completions", body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_ports = itertools.cycle(random.sample(PORTS, len(PORTS)))


def free_port() -> int:
    """A port that was free a moment ago, for programs that cannot pick one; none that was given before."""
    for port in itertools.islice(_ports, len(PORTS)):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("every port is taken")


Script = Callable[[Peer, "Upstream"], None]


class Upstream:
    """Runs `script` for each connection, in a thread of its own; collects what it raised."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.requests: list[Message] = []
        self.connections = 0
        self.errors: list[BaseException] = []
        self._tls = tls
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._sock.close()
        for thread in self._threads:
            thread.join(TIMEOUT)
        if kind is None:
            for error in self.errors:
                raise error

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with self._lock:
            self.connections += 1
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            self.script(Peer(sock), self)
        except (EOFError, ConnectionError, ssl.SSLError):
            pass  # the proxy went away, which a test sees at its client
        except BaseException as error:
            self.errors.append(error)
        finally:
            sock.close()

    def read(self, peer: Peer) -> Message:
        message = read_message(peer)
        with self._lock:
            self.requests.append(message)
        return message
