from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from solders.hash import Hash
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from mitmproxy_x402.chain.solana_rpc import CACHE_SECONDS, MAX_ANSWER, SolanaRpc
from mitmproxy_x402.errors import RpcError

BLOCKHASH = str(Hash.new_unique())
SECRET = "hunter2"
Answer = Callable[[RequestHandler], Awaitable[None]]


def good(blockhash: object = BLOCKHASH) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "result": {"context": {"slot": 1}, "value": {"blockhash": blockhash}}, "id": 1}


class Rpc:
    """A real HTTP server on loopback whose answer each test decides."""

    def __init__(self, answer: Any, status: int = 200) -> None:
        self.questions: list[Any] = []
        self.asked = asyncio.Event()
        rpc = self

        class Handler(RequestHandler):
            async def post(self) -> None:
                rpc.questions.append(json.loads(self.request.body))
                rpc.asked.set()
                self.set_status(status)
                if callable(answer):
                    await answer(self)
                else:
                    self.write(answer if isinstance(answer, bytes) else json.dumps(answer))

        sockets = bind_sockets(0, "127.0.0.1", socket.AF_INET)
        self.server = HTTPServer(Application([("/.*", Handler)], log_function=lambda _: None))
        self.server.add_sockets(sockets)
        self.url = f"http://{SECRET}:{SECRET}@127.0.0.1:{sockets[0].getsockname()[1]}/{SECRET}?key={SECRET}"

    def __enter__(self) -> Rpc:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()


async def stall(handler: RequestHandler) -> None:
    await asyncio.Event().wait()


async def stall_in_the_body(handler: RequestHandler) -> None:
    handler.set_header("Content-Length", "100")
    handler.write(b"{")
    await handler.flush()
    await asyncio.Event().wait()


async def hang_up(handler: RequestHandler) -> None:
    stream = handler.request.connection.detach()  # type: ignore[union-attr]
    stream.close()


async def redirect(handler: RequestHandler) -> None:
    handler.redirect("/elsewhere")


def run(use: Callable[..., Awaitable[Any]], *answers: Any, status: int = 200) -> Any:
    async def main() -> Any:
        with ExitStack() as stack:
            return await use(*[stack.enter_context(Rpc(answer, status)) for answer in answers])

    return asyncio.run(main())


def test_gives_the_blockhash() -> None:
    async def use(rpc: Rpc) -> None:
        assert await SolanaRpc([rpc.url], 5).latest_blockhash() == BLOCKHASH
        assert [question["method"] for question in rpc.questions] == ["getLatestBlockhash"]

    run(use, good())


BAD_ANSWERS: dict[str, tuple[Any, int, str]] = {
    "not JSON": (b"<html>", 200, "answer is not JSON"),
    "not UTF-8": (b"\xff", 200, "answer is not JSON"),
    "empty": (b"", 200, "answer is not JSON"),
    "deep": (b"[" * 50_000, 200, "answer is not JSON"),
    "a list": ([], 200, "answer holds no blockhash"),
    "null": (b"null", 200, "answer holds no blockhash"),
    "no value": ({"result": {"value": None}}, 200, "answer holds no blockhash"),
    "a number": (good(1), 200, "answer holds no blockhash"),
    "no base58": (good("0" * 44), 200, "answer holds no blockhash"),
    "too short": (good("abc"), 200, "answer holds no blockhash"),
    "an error": ({"error": {"code": -32005, "message": SECRET}}, 200, "error -32005"),
    "an odd error": ({"error": SECRET}, 200, "answer holds no blockhash"),
    "too large": (b" " * MAX_ANSWER + json.dumps(good()).encode(), 200, "unusable answer"),
    "HTTP 500": (good(), 500, "HTTP 500"),
    "HTTP 402": (good(), 402, "HTTP 402"),
    "redirect": (redirect, 200, "HTTP 302"),
    "hangs up": (hang_up, 200, "unusable answer"),
    "stalls": (stall, 200, "no answer within 0.2 s"),
    "stalls in the body": (stall_in_the_body, 200, "no answer within 0.2 s"),
}


@pytest.mark.parametrize(("answer", "status", "reason"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_bad_answer_is_skipped(answer: Any, status: int, reason: str) -> None:
    async def use(bad: Rpc) -> None:
        with Rpc(good()) as fine:
            patience = 0.2 if "within" in reason else 5
            alone = SolanaRpc([bad.url], patience)
            with pytest.raises(RpcError) as caught:
                await alone.latest_blockhash()
            message = str(caught.value)
            where = f"http://127.0.0.1:{urlsplit(bad.url).port}"
            assert message.startswith(f"No Solana RPC gave a recent blockhash: {where} ({reason}).")
            assert "x402_solana_rpc or SOLANA_RPC_URL" in message
            assert SECRET not in message
            both = SolanaRpc([bad.url, fine.url], patience)
            assert await both.latest_blockhash() == BLOCKHASH

    run(use, answer, status=status)


@pytest.mark.parametrize("url", ["refused", "not a url", "ftp://example.com/hunter2", "http://[", "http://", ""])
def test_a_url_that_cannot_be_asked_is_skipped(url: str) -> None:
    async def use(fine: Rpc) -> None:
        with socket.socket() as unheard:  # bound, and nobody listens
            unheard.bind(("127.0.0.1", 0))
            bad = f"http://127.0.0.1:{unheard.getsockname()[1]}/{SECRET}" if url == "refused" else url
            with pytest.raises(RpcError) as caught:
                await SolanaRpc([bad], 5).latest_blockhash()
            assert SECRET not in str(caught.value)
            assert await SolanaRpc([bad, fine.url], 5).latest_blockhash() == BLOCKHASH

    run(use, good())


def test_no_url_is_an_error() -> None:
    async def use() -> None:
        with pytest.raises(RpcError, match="none is configured"):
            await SolanaRpc([], 5).latest_blockhash()

    run(use)


def test_callers_at_one_time_share_a_look_up() -> None:
    answered = asyncio.Event()

    async def late(handler: RequestHandler) -> None:
        await answered.wait()
        handler.write(json.dumps(good()))

    async def use(rpc: Rpc) -> None:
        solana = SolanaRpc([rpc.url], 5)
        callers = [asyncio.create_task(solana.latest_blockhash()) for _ in range(20)]
        await rpc.asked.wait()
        callers[0].cancel()  # one that leaves does not take the others along
        answered.set()
        results = await asyncio.gather(*callers, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [BLOCKHASH] * 19
        assert len(rpc.questions) == 1

    run(use, late)


def test_a_hash_is_handed_out_again_for_a_while_only() -> None:
    now = 1000.0

    async def use(rpc: Rpc) -> None:
        nonlocal now
        solana = SolanaRpc([rpc.url], 5, clock=lambda: now)
        for moment, asked in ((1000.0, 1), (1000.0 + CACHE_SECONDS - 0.1, 1), (1000.0 + CACHE_SECONDS, 2), (900.0, 3)):
            now = moment
            assert await solana.latest_blockhash() == BLOCKHASH
            assert len(rpc.questions) == asked

    run(use, good())


def test_a_failure_is_asked_again() -> None:
    answers = [b"<html>", json.dumps(good()).encode()]

    async def next_answer(handler: RequestHandler) -> None:
        handler.write(answers.pop(0))

    async def use(rpc: Rpc) -> None:
        solana = SolanaRpc([rpc.url], 5)
        with pytest.raises(RpcError):
            await solana.latest_blockhash()
        assert await solana.latest_blockhash() == BLOCKHASH

    run(use, next_answer)


def test_a_look_up_that_everybody_left_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    async def use(rpc: Rpc) -> None:
        solana = SolanaRpc([rpc.url], 5)
        caller = asyncio.create_task(solana.latest_blockhash())
        await rpc.asked.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        with pytest.raises(RpcError):
            await solana.latest_blockhash()

    run(use, b"<html>")
    assert "never retrieved" not in caplog.text


def test_no_url_shows_in_the_repr() -> None:
    assert SECRET not in repr(SolanaRpc([f"http://127.0.0.1/{SECRET}"], 5))
