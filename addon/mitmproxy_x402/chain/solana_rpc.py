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
"""Seconds for which a blockhash is reused. It is valid for 60 to 90, and the gateway needs most of them."""
FINALIZED_SECONDS = 15
"""Greatest age in seconds of a finalized blockhash when an RPC returns it: 32 slots."""
MAX_ANSWER = 64 * 1024
"""Most bytes of an answer; a real one has about 200."""

# The RPC's default, made explicit: a facilitator's node may not know a newer blockhash yet.
_QUESTION = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "getLatestBlockhash", "params": [{"commitment": "finalized"}]}
)


@dataclass(frozen=True)
class Blockhash:
    """A recent blockhash, which limits how long a transaction is valid."""

    value: str
    """Base58."""
    height: int | None
    """Height of the last block in which it is valid; None: the RPC did not say."""
    born: float
    """Unix seconds; it was made at this time or later."""


class _Unusable(Exception):
    """One RPC gave no blockhash. The text says why, without any part of its URL or answer."""


class SolanaRpc:
    """Several RPCs, asked in turn until one answers.

    `urls` may carry API keys, so messages show only scheme, host and port. `timeout` is in seconds, for each.
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
        # A caller that is cancelled must not end the look-up of the others.
        return await asyncio.shield(self._begin())

    def at_hand(self) -> Blockhash | None:
        """The blockhash that was looked up last, whatever its age. Waits for nothing."""
        if self._known is None:
            return None
        asked, value, height = self._known
        return Blockhash(value, height, asked - FINALIZED_SECONDS)

    def refresh(self) -> None:
        """Start a look-up unless there was one within the last CACHE_SECONDS. Failures are ignored."""
        if not 0 <= self._clock() - self._asked < CACHE_SECONDS:
            self._begin()

    def _begin(self) -> asyncio.Task[str]:
        if self._lookup is None or self._lookup.done():
            self._asked = self._clock()
            self._lookup = asyncio.get_running_loop().create_task(self._look_up())
            # If all callers were cancelled, nobody else retrieves the error.
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
        except Exception as error:  # an invalid URL, TLS, a malformed answer: RPCs can fail in many ways
            reason = error.strerror if isinstance(error, OSError) else None
            raise _Unusable(reason or "could not be reached") from None
        finally:
            client.close()
        return _blockhash(answer.body)


def _blockhash(body: bytes) -> tuple[str, int | None]:
    try:
        said, _ = decode_json(body)
    except Undecodable:
        raise _Unusable("answer is not JSON") from None
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
