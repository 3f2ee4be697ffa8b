"""An RPC between us and a node, which passes on what it is asked, and changes what a test wants changed."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
Answer = Callable[[Json], Json]
"""A JSON-RPC call to its answer."""


def node(url: str) -> Answer:
    """What the node at `url` answers."""

    def answer(call: Json) -> Json:
        request = urllib.request.Request(url, json.dumps(call).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    return answer


def result(call: Json, value: Any) -> Json:
    return {"jsonrpc": "2.0", "id": call.get("id"), "result": value}


def error(call: Json, code: int, message: str) -> Json:
    return {"jsonrpc": "2.0", "id": call.get("id"), "error": {"code": code, "message": message}}


class RelayRpc:
    """A server on loopback. `answer` says what each call comes to; `status` can say that it is busy."""

    def __init__(self, answer: Answer, *, most: int = 1000, host: str = "127.0.0.1") -> None:
        self.calls: list[Json] = []
        self.requests = 0
        self.busy = 0
        """So many requests are answered 429 before the next one is answered."""
        self.answer = answer
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                relay.requests += 1
                if relay.busy:
                    relay.busy -= 1
                    self._send(429, {})
                    return
                calls = asked if isinstance(asked, list) else [asked]
                relay.calls += calls
                if isinstance(asked, list) and len(asked) > most:
                    self._send(200, error({"id": None}, -32600, "too many calls in one batch"))
                    return
                answers = [relay.answer(call) for call in calls]
                self._send(200, answers if isinstance(asked, list) else answers[0])

            def _send(self, status: int, said: Any) -> None:
                body = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self._server.server_address[1]}"

    def count(self, method: str) -> int:
        return sum(call["method"] == method for call in self.calls)

    def __enter__(self) -> RelayRpc:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def relay(answer: Answer, **how: Any) -> Iterator[RelayRpc]:
    with RelayRpc(answer, **how) as server:
        yield server
