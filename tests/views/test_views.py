"""What the views of mitmweb and mitmproxy are given: the body while it streams, and only where somebody looks."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mitmproxy.test import tflow

from mitmproxy_x402.cli.sandbox import REQUEST
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.views import views
from support.place import place
from support.proxy import DOOR, Proxy
from support.running import certs
from support.running.versions import IS_12
from support.showing.console import io, taddons
from support.showing.mitmweb import Web, length
from support.showing.viewers import ASK, HEAD, SHOWN, USAGE, Stage, ask
from support.wire import read_message


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage()
    with made.upstream:
        yield made


@pytest.fixture(scope="module")
def one_web(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    home = tmp_path_factory.mktemp("home")
    with Web(stage.upstream.url, "--set", f"x402_view_limit={SHOWN}", home=home) as proxy:
        yield proxy
        assert "Traceback" not in proxy.log
        assert "stopped looking" not in proxy.log


@pytest.fixture
def web(one_web: Web) -> Web:
    one_web.clear()
    return one_web


@pytest.fixture(scope="module")
def dump(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    home = tmp_path_factory.mktemp("home")
    (home / "who.py").write_text(WHO)
    with Proxy(stage.upstream.url, "-s", "who.py", home=home) as proxy:
        yield proxy


EVENTS = [b"data: %d %s\n\n" % (number, b"x" * 300) for number in range(4)]
"""More than SHOWN."""
LIMIT = 1024


def framed(framing: str, pieces: list[bytes]) -> list[bytes]:
    """What goes over the wire: the head, then the pieces, then what ends them."""
    if framing == "chunked":
        chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
        return [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]
    if framing == "length":
        return [HEAD + b"Content-Length: %d\r\n\r\n" % sum(map(len, pieces)), *pieces]
    return [HEAD + b"\r\n", *pieces]


def received(proxy: Proxy, stage: Stage, sent: list[bytes], look: Callable[[int], object] = lambda _: None) -> bytes:
    """All that a client reads off its socket. `look` is called when it has got so many pieces."""
    stage.play(*sent)
    with proxy.client() as client:
        client.send(ASK)
        got = b""
        for number, piece in enumerate(sent):
            stage.go()
            got += client.exactly(len(piece))
            look(number)
        return got + client.rest()


@pytest.mark.parametrize("framing", ["chunked", "length"])
def test_a_look_in_mid_stream_changes_nothing_for_the_client(web: Web, dump: Proxy, stage: Stage, framing: str) -> None:
    sent = framed(framing, EVENTS)

    def look(number: int) -> None:
        """Until the screen has all that was sent so far."""
        body = b"".join(EVENTS[:number])[:LIMIT]
        flow = web.wait_for_flow(lambda flow: (length(flow) or 0) == len(body), f"{len(body)} long")
        assert not body or web.content(flow) == body

    assert received(web, stage, sent, look) == received(dump, stage, sent) == b"".join(sent)


def test_a_slow_client_gets_it_all(web: Web, stage: Stage) -> None:
    """It does not read until the proxy holds all that it will hold, and looks were had."""
    pieces = [b"data: %d %s\n\n" % (number, b"y" * 65536) for number in range(200)]
    sent = framed("chunked", pieces)
    stage.play(*sent)
    with web.client() as client:
        client.send(ASK)
        stage.go(len(sent))
        web.wait_for_flow(lambda flow: length(flow) == LIMIT)
        assert read_message(client).body == b"".join(pieces)
    web.wait_for_flow(lambda flow: "cut at 1 KB of 13 MB" in flow["comment"])


@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves(web: Web, stage: Stage, reset: bool) -> None:
    sent = framed("chunked", EVENTS[:3])
    stage.play(*sent)
    client = web.client()
    client.send(ASK)
    stage.go(2)
    client.exactly(len(sent[0] + sent[1]))
    client.close(reset=reset)
    flow = web.wait_for_flow(lambda flow: "interrupted" in flow["comment"])
    stage.go(len(sent))
    assert web.content(flow) == EVENTS[0]


@pytest.mark.parametrize("reset", [False, True])
def test_an_upstream_that_breaks_off(web: Web, stage: Stage, reset: bool) -> None:
    sent = framed("length", EVENTS[:3])
    stage.play(*sent[:2], reset=reset)
    with web.client() as client:
        client.send(ASK)
        stage.go()
        assert client.exactly(len(sent[0])) == sent[0]
        stage.go()
        assert client.rest() == sent[1]
    flow = web.wait_for_flow(lambda flow: "interrupted" in flow["comment"])
    assert web.content(flow) == EVENTS[0]
    assert flow["comment"].startswith("free · first byte")


def test_an_answer_that_the_end_of_the_proxy_interrupts(home: Path, stage: Stage) -> None:
    sent = framed("length", EVENTS)
    stage.play(*sent)
    with contextlib.ExitStack() as stack:
        with Web(stage.upstream.url, home=home) as web:
            client = stack.enter_context(web.client())
            client.send(ASK)
            stage.go(2)
            assert client.exactly(len(sent[0] + sent[1])) == sent[0] + sent[1]
            web.wait_for_flow(lambda flow: length(flow) == len(EVENTS[0]))
    stage.go(len(sent))
    assert "Traceback" not in web.log


def test_http2(web: Web, stage: Stage) -> None:
    """To a client that speaks it: the same body, the same trailers of nothing."""
    web_h2 = httpx.Client(http2=True, verify=certs.blind_client_context("h2"), timeout=20)
    stage.play(*framed("chunked", EVENTS))
    stage.go(2)
    with web_h2, web_h2.stream("POST", f"https://127.0.0.1:{web.port}/v1/chat/completions", json=REQUEST) as answer:
        chunks = answer.iter_raw()
        got = [next(chunks)]
        web.wait_for_flow(lambda flow: length(flow) == len(EVENTS[0]))
        stage.go(len(EVENTS))
        got += chunks
    assert answer.http_version == "HTTP/2"
    assert b"".join(got) == b"".join(EVENTS)


def test_a_script_that_is_loaded_again_in_mid_stream(home: Path, stage: Stage) -> None:
    door = home / "door.py"
    door.write_bytes(DOOR.read_bytes())
    web = Web(stage.upstream.url, home=home)
    web.command[web.command.index(str(DOOR))] = str(door)
    with web, web.client() as client:
        sent = framed("length", EVENTS)
        stage.play(*sent)
        client.send(ASK)
        stage.go(2)
        assert client.exactly(len(sent[0] + sent[1])) == sent[0] + sent[1]
        loaded = web.log.count("Loading script")
        door.write_bytes(DOOR.read_bytes() + b"# edited\n")
        deadline = time.monotonic() + 20
        while web.log.count("Loading script") == loaded and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        stage.go(len(sent))
        assert client.rest() == b"".join(sent[2:])
        flow = web.wait_for_flow(lambda flow: flow["response"]["timestamp_end"])
        assert web.content(flow) == b"".join(EVENTS)
        assert flow["comment"].startswith("free · first byte")
        views = [name.lower() for name in web.api("state")["contentViews"]]
        assert views.count("llm stream") == views.count("x402") == 1
        assert "Traceback" not in web.log


WHO = """
import logging
def responseheaders(flow):
    logging.warning("TAPPED %s" % callable(flow.response.stream))
"""


def test_a_plain_mitmdump_does_nothing(dump: Proxy, stage: Stage) -> None:
    received(dump, stage, framed("length", EVENTS))
    dump.wait_for("TAPPED False")
    assert "TAPPED True" not in dump.log


@pytest.mark.parametrize(
    ("option", "value", "looks"),
    [("flow_detail", 1, False), ("flow_detail", 2, False), ("flow_detail", 3, True), ("save_stream_file", None, False),
     ("save_stream_file", "flows", True), ("hardump", "", False), ("hardump", "x.har", True), ("other", 5, False)],
)  # fmt: skip
def test_who_looks(option: str, value: Any, looks: bool) -> None:
    async def run() -> bool:
        with taddons.context() as context:
            context.options.add_option(option, object, value, "")
            return views.somebody_looks()

    assert asyncio.run(run()) is looks


def saved(file: Path) -> Any:
    with file.open("rb") as stream:
        (flow,) = io.FlowReader(stream).stream()
    return flow


def test_a_saved_flow_has_its_body(home: Path, stage: Stage) -> None:
    sent = framed("chunked", EVENTS)
    with Proxy(stage.upstream.url, "-w", "flows", home=home) as proxy:
        received(proxy, stage, sent)
    flow = saved(home / "flows")
    assert flow.response.raw_content == b"".join(EVENTS)
    assert flow.comment.startswith("free · first byte ")


def test_a_saved_flow_has_its_long_body(home: Path, stage: Stage) -> None:
    """Put together in a thread, before mitmproxy saves the flow."""
    pieces = [b"data: %d %s\n\n" % (number, b"x" * 500_000) for number in range(12)]
    with Proxy(stage.upstream.url, "-w", "flows", "--set", "x402_view_limit=6m", home=home) as proxy:
        assert received(proxy, stage, framed("length", pieces)).endswith(pieces[-1])
    flow = saved(home / "flows")
    assert flow.response.raw_content == b"".join(pieces)
    assert flow.comment.startswith("free · first byte ")


def test_a_saved_flow_has_what_came_of_a_long_body_that_broke_off(home: Path, stage: Stage) -> None:
    pieces = [b"data: %d %s\n\n" % (number, b"x" * 500_000) for number in range(12)]
    with Proxy(stage.upstream.url, "-w", "flows", "--set", "x402_view_limit=6m", home=home) as proxy:
        received(proxy, stage, framed("length", pieces)[:-1])
    flow = saved(home / "flows")
    assert flow.error is not None
    assert flow.response.raw_content == b"".join(pieces[:-1])
    assert flow.comment.endswith("interrupted")


def test_a_saved_flow_has_the_whole_comment(home: Path) -> None:
    """Of several, since on a busy machine a flow does not wait for its answer to be read."""
    with place(home, "-w", "flows", settle="before") as running:
        for _ in range(5):
            assert running.post({**REQUEST, "stream_options": {"include_usage": True}}).status_code == 200
    whole = r"paid 0\.\d+ USDC base-sepolia 0x\w{6}… · 1 tool call · \d+ tok · first byte .*"
    with (home / "flows").open("rb") as stream:
        flows: list[Any] = list(io.FlowReader(stream).stream())
    assert any(re.fullmatch(whole, flow.comment) for flow in flows)
    assert {flow.marked for flow in flows} == {":green_circle:"}


def test_what_mitmproxy_stores_itself_is_left_alone(home: Path, stage: Stage) -> None:
    """From 12 on it can; 11 does not know the option, and one that is not known ends the start."""
    sent = framed("chunked", EVENTS)
    storing = ("--set", "store_streamed_bodies=true") if IS_12 else ()
    options = ("-w", "flows", "--set", "x402_view_limit=1k", *storing)
    with Proxy(stage.upstream.url, *options, home=home) as proxy:
        received(proxy, stage, sent)
    flow = saved(home / "flows")
    assert flow.response.raw_content == b"".join(EVENTS)[: None if IS_12 else LIMIT]
    assert ("x402.cut" in flow.metadata) != IS_12


def test_mitmdump_prints_the_answer_put_together(home: Path) -> None:
    with place(home, "--flow-detail", "4", free=True) as running:
        assert running.post(REQUEST).status_code == 200
        running.proxy.wait_for("tool call 1: forecast")
        running.proxy.wait_for('"city": "Oslo"')


def test_an_upstream_that_does_not_answer(web: Web, stage: Stage) -> None:
    stage.play()
    assert ask(web, USAGE).status_code == 502
    web.wait_for_flow(lambda flow: flow["comment"] == "no answer")


def test_nothing_is_kept_with_0(home: Path) -> None:
    with Sandbox(SandboxConfig(settle="before")).run_in_thread() as sandbox:
        with Web(sandbox.url, "--set", "x402_view_limit=0", home=home) as shop:
            ask(shop, {**USAGE, "user": "zero"})
            flow = shop.wait_for_flow(lambda flow: "paid" in flow["comment"])
    assert flow["response"]["contentLength"] is None
    assert "tool call" not in flow["comment"]


@pytest.mark.parametrize("coding", ["gzip", "", "x-none"])
def test_of_a_body_that_unfolds_without_end_little_is_kept(coding: str) -> None:
    """mitmproxy decodes what a flow holds without a bound, and on the event loop."""
    unfolded = 100 << 20
    packed = gzip.compress(b"data: {}\n\n" * (unfolded // 10), 1)
    body = views.Body(4 << 20, coding)
    for at in range(0, len(packed), 1000):
        body.receive(packed[at : at + 1000])
    flow = tflow.tflow(resp=True)
    body.show_all(flow)
    assert flow.response is not None
    kept = flow.response.raw_content or b""
    assert packed.startswith(kept)
    if coding == "gzip":
        assert len(zlib.decompressobj(31).decompress(kept)) <= views.MAX_UNFOLDED
        assert len(kept) > 1000
        assert "x402.cut" in flow.metadata
    else:
        assert kept == packed


@pytest.mark.parametrize("coding", ["gzip", "deflate", "deflateRaw"])
@pytest.mark.parametrize("members", [1, 2000])
def test_of_a_body_that_unfolds_a_thousandfold_little_is_kept(coding: str, members: int) -> None:
    """Denser than any text: the decoder gives up before there is too much for a view."""
    bits = {"gzip": 31, "deflate": 15, "deflateRaw": -15}[coding]
    packer = zlib.compressobj(9, wbits=bits)
    packed = (packer.compress(bytes((100 << 20) // members)) + packer.flush()) * members
    body = views.Body(4 << 20, coding)
    for at in range(0, len(packed), 60_000):
        body.receive(packed[at : at + 60_000])
    flow = tflow.tflow(resp=True)
    body.show_all(flow)
    assert flow.response is not None
    if members == 1 or coding == "gzip":
        assert "x402.cut" in flow.metadata
    unpacker, kept = zlib.decompressobj(bits), flow.response.raw_content or b""
    assert len(unpacker.decompress(kept)) <= views.MAX_UNFOLDED


def test_a_compressed_body_of_common_size_is_kept() -> None:
    packed = gzip.compress(b"".join(b"data: %d\n\n" % number for number in range(100_000)))
    body = views.Body(4 << 20, "gzip")
    for at in range(0, len(packed), 1000):
        body.receive(packed[at : at + 1000])
    flow = tflow.tflow(resp=True)
    body.show_all(flow)
    assert flow.response is not None
    assert (flow.response.raw_content, "x402.cut" in flow.metadata) == (packed, False)
