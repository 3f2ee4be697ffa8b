"""Runs in a venv with the official x402 package: its httpx client as a worker that pays by itself.

Takes the jobs of `tests.bench.sides.load` and answers like it; the key is in BLOCKRUN_WALLET_KEY.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

import httpx
from eth_account import Account
from x402.http.clients import x402HttpxClient
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.register import register_exact_evm_client

from x402 import x402Client  # type: ignore[attr-defined]  # mypy takes our door for it

from .load import Found, Job, job_from
from .work import PATH, stamps


class Client:
    """The client, kept from job to job as a program would keep it."""

    def __init__(self) -> None:
        payer = x402Client()
        register_exact_evm_client(payer, EthAccountSigner(Account.from_key(os.environ["BLOCKRUN_WALLET_KEY"])))
        self._payer = payer
        self._kept = x402HttpxClient(payer, timeout=60)

    async def run(self, job: Job) -> Found:
        found = Found()
        body = job.work.body()
        for _ in range(job.warm):
            await asyncio.gather(*(self._ask(job, body, found, counts=False) for _ in range(job.concurrency)))
        left = iter(range(job.requests))
        begun = time.monotonic()
        await asyncio.gather(*(self._go_on(job, body, found, left) for _ in range(job.concurrency)))
        found.elapsed = time.monotonic() - begun
        return found

    async def _go_on(self, job: Job, body: bytes, found: Found, left: Any) -> None:
        for _ in left:
            await self._ask(job, body, found, counts=True)

    async def _ask(self, job: Job, body: bytes, found: Found, *, counts: bool) -> None:
        begun = time.monotonic_ns()
        if job.keep_alive:
            await self._with(self._kept, job, body, found, begun, counts=counts)
            return
        async with x402HttpxClient(self._payer, timeout=60) as client:
            await self._with(client, job, body, found, begun, counts=counts)

    async def _with(
        self, client: httpx.AsyncClient, job: Job, body: bytes, found: Found, begun: int, *, counts: bool
    ) -> None:
        found.sent += 1
        url, headers = f"http://127.0.0.1:{job.port}{PATH}", {"content-type": "application/json"}
        async with client.stream("POST", url, content=body, headers=headers) as answer:
            first, tail = time.monotonic_ns(), b""
            async for data in answer.aiter_raw():
                now = time.monotonic_ns()
                if counts and job.work.events:
                    tail += data
                    events = stamps(tail)
                    if events:
                        tail = tail[events[-1][2] :]
                        found.note(events, now, job.work.steady)
        if answer.status_code != 200:
            found.errors.append(f"{answer.status_code}")
        elif counts:
            found.first.append((first - begun) / 1e6)
            found.total.append((time.monotonic_ns() - begun) / 1e6)
            found.begun.append(begun / 1e9)


async def main() -> None:
    """A job a line, until the input ends."""
    client = Client()
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            found = await client.run(job_from(json.loads(line)))
        except Exception as error:
            found = Found(errors=[f"{type(error).__name__}: {error}"])
        print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
