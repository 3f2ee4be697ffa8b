"""Asks a Solana RPC for a recent blockhash, for challenges that bring none. Never blocks the event loop."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from solders.hash import Hash, ParseHashError
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.simple_httpclient import HTTPTimeoutError

from .. import __version__
from ..errors import RpcError, Undecodable
from ..protocol.strict_json import decode_json
from .json_rpc import HttpClient, origin

CACHE_SECONDS = 10
"""How long a blockhash is handed out again. It lives 60 to 90 s, of which the gateway needs most."""
FINALIZED_SECONDS = 15
"""How old a finalized blockhash is when an RPC gives it, at most: 32 slots."""
MAX_ANSWER = 64 * 1024
"""Bytes of an answer that are read; a real one has about 200."""

# The RPC's default, said aloud: a facilitator's own node may not know a younger blockhash yet.
_QUESTION = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "getLatestBlockhash", "params": [{"commitment": "finalized"}]}
)


@dataclass(frozen=True)
class Blockhash:
    """What the life of a transaction hangs on."""

    value: str
    """Base58."""
    height: int | None
    """Of the last block in which it is valid, where that was said."""
    born: float
    """Unix seconds; it is not older than that."""


class _Unusable(Exception):
    """One RPC gave no blockhash; the text says why and repeats nothing of its URL or answer."""


class SolanaRpc:
    """Several RPCs, asked in turn until one answers.

    `urls` may carry API keys, so no message shows more of one than scheme and host. `timeout` is in seconds, for each.
    """

    def __init__(self, urls: Sequence[str], timeout: float, *, clock: Callable[[], float] = time.time) -> None:
        self._urls = tuple(urls)
        self._timeout = timeout
        self._clock = clock
        self._lookup: asyncio.Task[str] | None = None
        self._asked = 0.0
        self._known: tuple[float, str, int | None] | None = None

    async def latest_blockhash(self) -> str:
        """A recent blockhash in base58, at most CACHE_SECONDS old. Callers at one time share one look-up.

        Raises RpcError when no RPC gave one; the next call asks again.
        """
        if self._known and 0 <= self._clock() - self._known[0] < CACHE_SECONDS:
            return self._known[1]
        # One caller that leaves must not end the look-up of the others.
        return await asyncio.shield(self._begin())

    def at_hand(self) -> Blockhash | None:
        """The blockhash that was looked up last, however old. Waits for nothing."""
        if self._known is None:
            return None
        asked, value, height = self._known
        return Blockhash(value, height, asked - FINALIZED_SECONDS)

    def refresh(self) -> None:
        """Begin to look up a new one unless that was done within the last CACHE_SECONDS. Failures are silent."""
        if not 0 <= self._clock() - self._asked < CACHE_SECONDS:
            self._begin()

    def _begin(self) -> asyncio.Task[str]:
        if self._lookup is None or self._lookup.done():
            self._asked = self._clock()
            self._lookup = asyncio.get_running_loop().create_task(self._look_up())
            # When every caller has left, nobody else takes the error away.
            self._lookup.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._lookup

    async def _look_up(self) -> str:
        failures: list[str] = []
        for url in self._urls:
            asked = self._clock()
            try:
                blockhash, height = await self._ask(url)
            except _Unusable as reason:
                failures.append(f"{origin(url)} ({reason})")
                continue
            self._known = (asked, blockhash, height)
            return blockhash
        raise RpcError(
            f"No Solana RPC gave a recent blockhash: {', '.join(failures) or 'none is configured'}."
            " Set x402_solana_rpc or SOLANA_RPC_URL to the URL of one that works. Nothing was signed."
        )

    async def _ask(self, url: str) -> tuple[str, int | None]:
        client = HttpClient(force_instance=True, max_body_size=MAX_ANSWER, max_buffer_size=MAX_ANSWER)
        try:
            request = HTTPRequest(
                url,
                method="POST",
                body=_QUESTION,
                headers={"Content-Type": "application/json"},
                user_agent=f"mitmproxy-x402/{__version__}",
                connect_timeout=self._timeout,
                request_timeout=self._timeout,
                follow_redirects=False,
                decompress_response=False,
            )
            answer = await client.fetch(request)
        except HTTPTimeoutError:
            raise _Unusable(f"no answer within {self._timeout:g} s") from None
        except HTTPClientError as error:
            raise _Unusable(f"HTTP {error.code}" if error.code != 599 else "unusable answer") from None
        except Exception as error:  # a URL that is none, TLS, a malformed answer: every RPC may fail in its own way
            reason = error.strerror if isinstance(error, OSError) else None
            raise _Unusable(reason or "could not be reached") from None
        finally:
            client.close()
        return _blockhash(answer.body)


def _blockhash(body: bytes) -> tuple[str, int | None]:
    try:
        said, _ = decode_json(body)
    except Undecodable:
        raise _Unusable("answer is no JSON") from None
    value: Any = said
    for key in ("result", "value"):
        value = value.get(key) if isinstance(value, dict) else None
    blockhash, height = (
        (value.get("blockhash"), value.get("lastValidBlockHeight")) if isinstance(value, dict) else ("", 0)
    )
    try:
        if isinstance(blockhash, str):
            Hash.from_string(blockhash)
            return blockhash, height if type(height) is int else None
    except ParseHashError:
        pass
    error = said.get("error") if isinstance(said, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    raise _Unusable(f"error {code}" if type(code) is int else "answer holds no blockhash")
