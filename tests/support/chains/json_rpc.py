"""JSON-RPC on loopback, for tests that ask a chain a question or two."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HUSH = "hush-hush"
"""Stands in the URL and in errors, and may never be shown."""
Answer = Callable[[str, list[Any]], Any]


class Rpc:
    """JSON-RPC on loopback: `answer` gives the result of a method, or raises LookupError with the code of an error."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[tuple[str, list[Any]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                call = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                self.asked.append((call["method"], call["params"]))
                try:
                    said = {"result": answer(call["method"], call["params"])}
                except LookupError as error:
                    said = {"error": {"code": error.args[0], "message": f"of {HUSH}"}}
                body = json.dumps({"jsonrpc": "2.0", "id": call["id"], **said}).encode()
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}/v2/{HUSH}?key={HUSH}"

    def __enter__(self) -> Rpc:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def evm(units: int, chain: int = 84532) -> Answer:
    def answer(method: str, parameters: list[Any]) -> Any:
        return {"eth_chainId": hex(chain), "eth_getCode": "0x"}.get(method, f"0x{units:064x}")

    return answer
