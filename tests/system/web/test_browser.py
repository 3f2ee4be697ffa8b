"""mitmweb in a real browser while a stream runs.

`PYTHONPATH=tests python tests/system/web/test_browser.py` writes the pictures of docs/images.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mitmproxy_x402.cli.sandbox import REQUEST
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.sandbox.answers import FREE, PARALLEL
from support.patience import eventually
from support.recording.further import Further, vendor
from support.showing.browser import Browser
from support.showing.mitmweb import Web

IMAGES = Path(__file__).resolve().parents[3] / "docs" / "images"
MOST = 200_000
"""Bytes of a picture."""
WARDROBE = {
    "name": "pack_bag",
    "description": "Put things into the traveller's bag.",
    "parameters": {
        "type": "object",
        "properties": {
            "things": {"type": "array", "items": {"type": "string", "enum": ["umbrella", "rain coat"]}},
            "weight_kg": {"type": "integer", "minimum": 1},
        },
    },
}
BODY: dict[str, Any] = {
    **REQUEST,
    "model": PARALLEL,
    "stream_options": {"include_usage": True},
    "tools": [*REQUEST["tools"], {"type": "function", "function": WARDROBE}],
}
LIST, COMMENTS, VIEW = ".flow-table tbody tr", ".flow-table .col-comment", ".contentview pre"
SEARCH = ".filter-input input"
PATH = "/v1/chat/completions"
FILTERS = {
    "~comment confirmed": 1,
    "~comment ^refused": 1,
    "~comment ^free": 1,
    "~comment tool.call": 3,
    "~marked & ! ~comment ^refused & ! ~c 200": 0,
    "~marked & ! ~comment ^refused": 2,
    "": 4,
}
"""What the page's own search takes, which knows less than mitmproxy (no `~meta`), and how many flows it leaves."""


def ask(web: Web, fault: str = "", **more: Any) -> httpx.Response:
    headers = {"x-sandbox-fault": fault} if fault else {}
    return httpx.post(web.url + PATH, json={**BODY, **more}, headers=headers, timeout=30)


@contextmanager
def screen(folder: Path) -> Iterator[tuple[Web, Browser]]:
    sandbox = Sandbox(SandboxConfig(networks=("base",), settle="before"))
    with sandbox.run_in_thread(), Web(sandbox.url, home=folder) as web, Browser(folder) as browser:
        yield web, browser


def choose_view(browser: Browser, name: str) -> None:
    browser.click(".contentview .controls a", "View:")
    browser.click(".dropdown-menu.show a, .dropdown-menu.is-open a, .dropdown-menu.is-open button", name)
    browser.wait_for_text(f"View: {name}", ".contentview .controls")


def tour(web: Web, browser: Browser, take: Callable[[str], object]) -> None:
    """What somebody does who watches a stream; `take` is called where there is something to see."""
    ask(web, model=FREE)
    ask(web, user="unknown", fault="receipt")
    ask(web, max_tokens=400_000)
    browser.open(web.page)
    browser.wait_for_text("refused over_request_limit: asked 2", COMMENTS)
    browser.wait_for_text("free · 1 tool call", COMMENTS)

    running = threading.Thread(target=ask, args=(web, "slow-chunks;seconds=0.1"))
    running.start()
    browser.wait_for_text("0.00", f"{LIST}:nth-last-child(2) .col-comment")
    browser.wait_for_text(" · first byte", f"{LIST}:nth-last-child(2) .col-comment")

    browser.click(f"{LIST}:nth-last-child(2) td", PATH)
    browser.click(".flow-detail nav a", "Response")
    browser.wait_for_text("LLM stream", ".contentview h5")
    browser.wait_for_text("not finished", VIEW)
    running.join()
    browser.wait_for_text("   finished: tool_calls", VIEW)  # without a click: the page follows the stream
    shown = browser.text(VIEW)
    assert "tool call 1: forecast" in shown
    assert '"city": "Oslo"' in shown
    assert "tool call 2: pack_bag" in shown
    browser.wait_for_text("paid 0", COMMENTS)
    browser.wait_for_text("· 2 tool calls ·", COMMENTS)
    browser.evaluate("document.querySelector('.contentview').scrollIntoView()")
    take("llm-stream")

    browser.evaluate("document.querySelector('.flow-detail section').scrollTo(0, 0)")
    choose_view(browser, "raw")
    browser.wait_for_text('data: {"id":"chatcmpl-', VIEW)
    assert "data: [DONE]" in browser.text(VIEW)
    assert '"city": "Oslo"' not in browser.text(VIEW)
    take("raw-stream")

    choose_view(browser, "x402")
    browser.wait_for_text("-> exact on base: 0.001", VIEW)
    take("handshake")

    choose_view(browser, "auto")
    browser.click(".flow-detail nav a", "Request")
    browser.wait_for_text("Do I need an umbrella in Oslo", VIEW)
    take("request")

    browser.click(".flow-detail .close-button")
    for expression, found in FILTERS.items():
        browser.type(SEARCH, expression)
        browser.wait_for(f"document.querySelectorAll('{LIST} .marker').length === {found}")
    marks = browser.evaluate(f"[...document.querySelectorAll('{LIST} .marker')].map(e => e.innerText.trim())")
    assert marks == ["", "🟡", "⛔", "🟢"]
    browser.evaluate("document.activeElement.blur()")  # it closes the help on filters
    browser.wait_for("!document.querySelector('.popover')")
    take("flow-list")


def broken_call() -> list[bytes]:
    """An answer that calls one tool with what is no JSON, and another with what does not fit it."""

    def piece(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        value = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "model": "gpt-5-mini",
            "choices": [choice],
            **more,
        }
        return f"data: {json.dumps(value)}\n\n".encode()

    def call(index: int, fragment: str, **more: Any) -> dict[str, Any]:
        function = {"arguments": fragment, **({"name": more.pop("name")} if more else {})}
        return {"tool_calls": [{"index": index, **more, "function": function}]}

    return [
        piece({"role": "assistant", "content": "Let me look"}),
        piece({"content": " at the weather in Oslo."}),
        piece(call(0, "", id="call_1", type="function", name="forecast")),
        *(piece(call(0, part)) for part in ('{"city": ', '"Oslo", ', '"days": ', "7", "} }")),
        piece(call(1, "", id="call_2", type="function", name="pack_bag")),
        *(piece(call(1, part)) for part in ('{"things": ["umb', 'rella", "boots"], ', '"weight_kg": "two"}')),
        piece({}, "tool_calls", usage={"prompt_tokens": 212, "completion_tokens": 61, "total_tokens": 273}),
        b"data: [DONE]\n\n",
    ]


def broken_tour(folder: Path, browser: Browser, take: Callable[[str], object]) -> None:
    """What somebody sees who looks for why a tool call broke: in mitmweb, and on the page of `show --html`."""
    exchange = Further(PATH, {}, "text/event-stream", broken_call())
    request = {**BODY, "user": "broken"}
    dump = folder / "dump"
    with vendor({"broken": exchange}, 0.15) as url, Web(url, "--set", f"x402_dump={dump}", home=folder) as web:
        httpx.post(web.url + PATH, json=request, timeout=30)
        browser.open(web.page)
        browser.wait_for_text("2 tool calls, 2 broken", COMMENTS)
        browser.click(f"{LIST} td", PATH)
        browser.click(".flow-detail nav a", "Response")
        browser.wait_for_text("does not fit the tools of the request", VIEW)
        shown = browser.text(VIEW)
        assert "^ Extra data  (event 8)" in shown
        assert "/things/1" in shown
        assert "/weight_kg" in shown
        browser.evaluate("document.querySelector('.contentview').scrollIntoView()")
        take("broken-call")
        eventually(lambda: list(dump.glob("*/chunks.jsonl")))
        assert "Traceback" not in web.log
    [name] = [path.parent.name for path in dump.glob("*/flow.json")]
    show = [sys.executable, "-m", "mitmproxy_x402.fixtures", "show", name, "--html", "page.html"]
    subprocess.run(show, cwd=dump, check=True, capture_output=True)
    browser.call("Emulation.setDeviceMetricsOverride", width=1000, height=1420, deviceScaleFactor=1, mobile=False)
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open((dump / "page.html").as_uri())
        browser.wait_for_text("Timeline")
        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
        assert browser.evaluate("document.querySelector('mark').innerText") == "}"
        assert browser.evaluate("document.querySelectorAll('svg rect').length") > 5
        take(f"page-{scheme}")


def test_why_a_call_broke(tmp_path: Path) -> None:
    taken: list[str] = []
    (tmp_path / "profile").mkdir()
    with Browser(tmp_path / "profile") as browser:
        broken_tour(tmp_path, browser, taken.append)
    assert {"broken-call", "page-light", "page-dark"} == set(taken)


def test_a_stream_in_a_browser(tmp_path: Path) -> None:
    taken: list[str] = []
    with screen(tmp_path) as (web, browser):
        tour(web, browser, taken.append)
        assert browser.screenshot().startswith(b"\x89PNG")
        assert "Traceback" not in web.log
    assert set(taken) < {picture.stem for picture in IMAGES.glob("*.png")}
    assert all(picture.stat().st_size < MOST for picture in IMAGES.glob("*.png"))


def write() -> None:
    """Make the pictures anew."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, screen(Path(folder)) as (web, browser):
        tour(web, browser, lambda name: (IMAGES / f"{name}.png").write_bytes(browser.screenshot()))
    with tempfile.TemporaryDirectory() as folder, Browser(Path(folder)) as browser:
        broken_tour(Path(folder), browser, lambda name: (IMAGES / f"{name}.png").write_bytes(browser.screenshot()))


if __name__ == "__main__":
    write()
