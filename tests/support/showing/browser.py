"""A real browser without a window: Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = (
    "no Chromium found for the browser tests. Install it (Debian: apt-get install chromium; .ci/run does so when it "
    "may), or name one in X402_BROWSER."
)
WIDTH, HEIGHT = 1280, 800
FLAGS = (
    *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run"),
    *("--no-default-browser-check", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
    *("--remote-debugging-port=0", f"--window-size={WIDTH},{HEIGHT}", "--force-color-profile=srgb", "--lang=en"),
)
_PATIENCE = 30


def find() -> str:
    """The browser to use. Fails the test where there is none."""
    named = os.environ.get("X402_BROWSER")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    assert found is not None, MISSING
    return found


class Browser:
    """Starts on entering with one empty page, ends on leaving. `folder` takes its profile."""

    def __init__(self, folder: Path) -> None:
        self._profile = folder / "browser"
        self._id = 0
        self._sockets = contextlib.ExitStack()

    def __enter__(self) -> Browser:
        self._profile.mkdir()
        root = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to be root in its sandbox
        self._log = (self._profile / "log").open("wb")
        self._process = subprocess.Popen(
            [find(), *FLAGS, *root, f"--user-data-dir={self._profile}", "about:blank"],
            env={**os.environ, "HOME": str(self._profile)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # so that its many processes end together
        )
        try:
            self._socket = self._connect()
        except BaseException:
            self._end()
            raise
        self.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
        self.call("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._sockets.close()
        finally:
            self._end()

    def _end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _connect(self) -> ClientConnection:
        port = self._port()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_PATIENCE) as answer:
            page = next(target for target in json.load(answer) if target["type"] == "page")
        return self._sockets.enter_context(connect(page["webSocketDebuggerUrl"], max_size=None, proxy=None))

    def _port(self) -> int:
        """Chromium writes it into its profile once it listens."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                text = (self._profile / "DevToolsActivePort").read_text()
            except FileNotFoundError:
                text = ""
            if "\n" in text:
                return int(text.splitlines()[0])
            threading.Event().wait(0.02)
        raise AssertionError(f"the browser did not start:\n{(self._profile / 'log').read_text(errors='replace')}")

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol; its result."""
        self._id += 1
        self._socket.send(json.dumps({"id": self._id, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=_PATIENCE))
            if answer.get("id") == self._id:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def open(self, url: str) -> None:
        """Go there; the page may still be loading."""
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The value of `script` as soon as it is true."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if value := self.evaluate(script):
                return value
            threading.Event().wait(0.05)
        raise AssertionError(f"never came true: {script}\n{self.text()}")

    def wait_for_text(self, text: str, selector: str = "body") -> None:
        """Until an element shows `text`."""
        self.wait_for(f"!!({_found(selector, text)})")

    def text(self, selector: str = "body") -> str:
        """What the first such element shows; empty where there is none."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str, text: str = "") -> None:
        """Click the first such element that shows `text`, once it is there."""
        self.wait_for_text(text, selector)
        self.evaluate(f"({_found(selector, text)}).click()")

    def type(self, selector: str, text: str) -> None:
        """Put `text` into a field in the place of what is there, as a keyboard does."""
        self.evaluate(f"(e => (e.focus(), e.select()))(document.querySelector({json.dumps(selector)}))")
        self.evaluate("document.execCommand('delete')")
        self.call("Input.insertText", text=text)

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def _found(selector: str, text: str) -> str:
    elements = f"[...document.querySelectorAll({json.dumps(selector)})]"
    return f"{elements}.find(e => e.innerText.includes({json.dumps(text)}))"
