"""The gateway of a soak: the sandbox at two doors, one for each chain, in a process of its own that keeps accounts.

`python -m tests.bench.soak.gateway PEM FILE` prints one line of JSON when it listens: the port of each door. When its
input ends, its accounts are in FILE. Base is plain HTTP, and money moves after success; Solana is behind TLS, and money
moves along with the work.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from solders.transaction import VersionedTransaction

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.sandbox.records import Kept, ReceivedPayment, ReceivedRequest, Sent

from .plan import Door

NETWORKS: dict[Door, str] = {"base": "base-sepolia", "solana": "solana-devnet"}
RICH = 10**13
"""Atomic units that the wallet has: ten million dollars."""
FORGET_SECONDS = 60
"""An answer that is not complete by then will not be any more."""


class Payments(Kept[ReceivedPayment]):
    """All payments that passed verification, with what the payer knows each by."""

    def __init__(self, requests: Sequence[ReceivedRequest]) -> None:
        super().__init__(sys.maxsize)
        self.references: list[str] = []
        self._requests = requests

    def append(self, item: ReceivedPayment) -> None:
        """It came with the request that came last: the sandbox waits for nothing in between."""
        super().append(item)
        self.references.append(reference_in(self._requests[-1]))


class Books:
    """What happened at one door. The sandbox's own records are taken over before it forgets them."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._payments = sandbox.payments = Payments(sandbox.requests)
        self._arrivals: dict[str, list[str]] = {}
        """By reference of a payment: the errands that it came with, as often as it came."""
        self._answers: dict[str, tuple[int, str]] = {}
        """By request id, of each complete answer: size and digest."""
        self._open: dict[str, tuple[float, Sent]] = {}

    def take(self) -> None:
        """Take over what is new."""
        requests, sent = self._sandbox.requests, self._sandbox.sent
        for request in requests:
            reference = reference_in(request)
            if reference:
                self._arrivals.setdefault(reference, []).append(request.get("x-soak") or "")
        requests.clear()
        now = time.monotonic()
        self._open |= {request_id: (now, answer) for request_id, answer in sent.items()}
        sent.clear()
        for request_id, (begun, answer) in list(self._open.items()):
            if answer.complete and answer.status == 200:
                self._answers[request_id] = answer.length, answer.sha256
            if answer.complete or now - begun > FORGET_SECONDS:
                del self._open[request_id]

    def told(self, door: Door) -> dict[str, Any]:
        """All of it, as JSON."""
        self.take()
        payers = {payment.payer for payment in self._payments}
        return {
            "payments": [
                {
                    "reference": reference,
                    "amount": payment.amount,
                    "state": payment.state,
                    "transaction": payment.transaction,
                }
                for reference, payment in zip(self._payments.references, self._payments, strict=True)
            ],
            "arrivals": self._arrivals,
            "answers": self._answers,
            "moved": sum(RICH - self._sandbox.balance(NETWORKS[door], payer) for payer in payers),
        }


def reference_in(request: ReceivedRequest) -> str:
    """What the ledger knows the request's payment by; empty where it has none."""
    header = request.get("payment-signature")
    if header is None:
        return ""
    payload = json.loads(base64.b64decode(header))["payload"]
    if "authorization" in payload:
        return str(payload["authorization"]["nonce"])
    return str(VersionedTransaction.from_bytes(base64.b64decode(payload["transaction"])).signatures[1])


async def serve(pem: Path) -> dict[Door, Any]:
    """Listen at both doors, tell where, and go on until the standard input ends. Gives the books."""
    tls = {"certfile": pem, "keyfile": pem}
    sandboxes: dict[Door, Sandbox] = {
        "base": Sandbox(SandboxConfig((NETWORKS["base"],), opening_balance=RICH)),
        "solana": Sandbox(SandboxConfig((NETWORKS["solana"],), opening_balance=RICH, **tls)),
    }
    books = {door: Books(sandbox) for door, sandbox in sandboxes.items()}
    async with sandboxes["base"], sandboxes["solana"]:
        ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        print(json.dumps({door: urlsplit(sandbox.url).port for door, sandbox in sandboxes.items()}), flush=True)
        while not ended.done():
            await asyncio.wait([ended], timeout=1)
            for book in books.values():
                book.take()
        return {door: book.told(door) for door, book in books.items()}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(asyncio.run(serve(Path(sys.argv[1])))))
