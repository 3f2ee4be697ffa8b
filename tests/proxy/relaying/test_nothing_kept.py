"""What a client's connection leaves behind within the proxy while it lasts: nothing of the requests that are over."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from support import challenges
from support.proxy import Proxy
from support.wire import Peer, Upstream, read_message, request

COUNT = """
import gc, json, logging, os
from collections import Counter
from pathlib import Path
from mitmproxy import http

def request(flow: http.HTTPFlow) -> None:
    if flow.request.path == "/count":
        logging.info("counting")  # what waits to be shown is shown before this line
        gc.collect()
        kinds = Counter(type(each).__name__ for each in gc.get_objects())
        Path("counted.new").write_text(json.dumps(kinds))
        os.replace("counted.new", "counted.json")
        flow.response = http.Response.make(200)
"""
STALE = json.dumps({"error": "Payment rejected", "code": "PAYMENT_BLOCKHASH_STALE"}).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npaid"
LEAST = 5
"""Requests after which what each leaves would show."""


@pytest.mark.parametrize("closes", [True, False], ids=["the upstream closes", "it rejects each payment once"])
def test_requests_leave_nothing_behind(home: Path, closes: bool) -> None:
    """A client's connection may last for days; upstream connections and second payments come and go."""

    def script(peer: Peer, upstream: Upstream) -> None:
        rejected = False
        while True:
            if upstream.read(peer).get(b"payment-signature") is None:
                peer.send(challenges.answer(challenges.evm(), None, *([b"Connection: close"] if closes else [])))
                if closes:
                    return
            elif not closes and not rejected:
                rejected = True
                peer.send(challenges.answer(challenges.evm(), STALE))
            else:
                peer.send(OK)
                rejected = False

    (home / "count.py").write_text(COUNT)
    with Upstream(script) as upstream, Proxy(upstream.url, "-s", str(home / "count.py"), home=home) as proxy:
        with proxy.client() as client:
            counted = []
            for _ in range(3):
                for _ in range(LEAST):
                    client.send(request())
                    assert read_message(client).body == b"paid"
                client.send(request("GET", "/count", b""))
                assert read_message(client).status == 200
                counted.append(_read(home / "counted.json"))
        kinds = ("HTTPFlow", "X402Stream", "Server", "Http1Client", "HttpClient")
        first, second = ({kind: each.get(kind, 0) for kind in kinds} for each in counted[1:])
        assert second == first
        assert first["X402Stream"] <= 2


def _read(file: Path) -> Mapping[str, int]:
    until = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < until
    counted: Mapping[str, int] = json.loads(file.read_text())
    file.unlink()
    return counted
