"""Pages in real browsers that try to spend: from another host name, and from another port of this machine."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import challenges, effort
from support.patience import eventually
from support.proxy import Proxy
from support.showing import browser
from support.wire import Client, Peer, Upstream, request

FOREIGN = "pages.example"
PAGE = """<!doctype html><title>attack</title><link rel="icon" href="data:,"><body><script>
const port = PORT, hosts = ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]"];
const settled = (start) => new Promise((done) => {
  setTimeout(done, 5000);
  try { start(done); } catch (e) { done(); }
});
const element = (name, set) => (url) => settled((done) => {
  const made = document.createElement(name);
  made.onload = made.onerror = done;
  set(made, url);
  document.body.append(made);
});
const form = (method) => (url) => settled((done) => {
  const frame = document.createElement("iframe"), made = document.createElement("form");
  frame.name = "f" + Math.random();
  Object.assign(made, {method, action: url, target: frame.name});
  document.body.append(frame, made);
  frame.onload = done;
  made.submit();
});
const kinds = {
  img: element("img", (made, url) => { made.src = url; }),
  script: element("script", (made, url) => { made.src = url; }),
  style: element("link", (made, url) => { made.rel = "stylesheet"; made.href = url; }),
  iframe: element("iframe", (made, url) => { made.src = url; }),
  sandboxed: element("iframe", (made, url) => { made.sandbox = ""; made.src = url; }),
  form: form("post"),
  formget: form("get"),
  fetch: (url) => fetch(url, {method: "POST", body: "{}", headers: {"content-type": "application/json"}}),
  simple: (url) => fetch(url, {method: "POST", body: "{}", mode: "no-cors"}),
  fetchget: (url) => fetch(url),
  nocors: (url) => fetch(url, {mode: "no-cors", referrerPolicy: "no-referrer", credentials: "omit"}),
  beacon: async (url) => navigator.sendBeacon(url, "{}"),
  events: (url) => settled((done) => { new EventSource(url).onerror = done; }),
  socket: (url) => settled((done) => { new WebSocket(url.replace("http", "ws")).onclose = done; }),
};
(async () => {
  const all = hosts.flatMap((host) => Object.entries(kinds).map(
    ([kind, run]) => settled((done) => run(`http://${host}:${port}/v1/${kind}`).then(done, done))));
  await Promise.all(all);
})();
</script>"""
SURE = (
    "img",
    "script",
    "style",
    "iframe",
    "form",
    "formget",
    "fetch",
    "simple",
    "fetchget",
    "nocors",
    "events",
    "socket",
)
"""What certainly comes as far as the guard, at 127.0.0.1."""
FIREFOX_PREFS = {
    "network.dns.localDomains": FOREIGN,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.enabled": False,
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "http://127.0.0.1:1",
}


def sell(peer: Peer, upstream: Upstream) -> None:
    while True:
        paid = upstream.read(peer).get(b"payment-signature") is not None
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" if paid else challenges.answer())


class Pages(http.server.BaseHTTPRequestHandler):
    """Serves one page, at every name and path."""

    def __init__(self, page: bytes, *arguments: object) -> None:
        self.page = page
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pages(page: str) -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, page.encode())) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def command(kind: str, profile: Path, url: str) -> list[str]:
    if kind == "firefox":
        prefs = "".join(
            f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in FIREFOX_PREFS.items()
        )
        (profile / "user.js").write_text(prefs)
        return [shutil.which("firefox-esr") or "firefox", "--headless", "--no-remote", "--profile", str(profile), url]
    rules = f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
    flags = [flag for flag in browser.FLAGS if not flag.startswith(("--host-resolver-rules", "--remote-debugging"))]
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    return [browser.find(), *flags, *root, rules, f"--user-data-dir={profile}", url]


@contextmanager
def browsing(kind: str, profile: Path, url: str) -> Iterator[None]:
    profile.mkdir()
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen(
            command(kind, profile, url),
            env={**os.environ, "HOME": str(profile), "MOZ_HEADLESS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


KINDS = ["chromium", *(["firefox"] if shutil.which("firefox-esr") or shutil.which("firefox") else [])]


@pytest.mark.parametrize("host", [FOREIGN, "127.0.0.1"], ids=["another host", "another port"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_page_spends_and_the_owner_does(home: Path, tmp_path: Path, kind: str, host: str) -> None:
    with Upstream(sell) as upstream, Proxy(upstream.url, home=home) as proxy:
        with pages(PAGE.replace("PORT", str(proxy.port))) as port:
            with browsing(kind, tmp_path / "profile", f"http://{host}:{port}/"):
                eventually(lambda: not missing(proxy), lambda: (missing(proxy), proxy.log[-3000:]), 60)
        assert upstream.requests == []
        with Client("127.0.0.1", proxy.port) as client:
            assert client.ask(request()).body == b"ok"
        assert len(upstream.requests) == 2


@pytest.mark.parametrize("host", effort.chosen([FOREIGN, "127.0.0.1"], FOREIGN), ids=["another host", "another port"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_link_that_is_followed_spends(home: Path, tmp_path: Path, kind: str, host: str) -> None:
    with Upstream(sell) as upstream, Proxy(upstream.url, home=home) as proxy:
        with pages(f"<script>location.href = 'http://127.0.0.1:{proxy.port}/v1/followed'</script>") as port:
            with browsing(kind, tmp_path / "profile", f"http://{host}:{port}/"):
                eventually(lambda: "(GET /v1/followed)" in proxy.log, lambda: proxy.log[-3000:], 60)
        assert upstream.requests == []


def missing(proxy: Proxy) -> list[str]:
    log = proxy.log
    return [name for name in SURE if f"/v1/{name})" not in log]


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_that_is_allowed_spends_and_reads(home: Path, tmp_path: Path, kind: str) -> None:
    page = """<!doctype html><link rel="icon" href="data:,"><script>
      (async () => {
        const answer = await fetch("http://127.0.0.1:PORT/v1/chat/completions", {
          method: "POST", body: "{}", headers: {"content-type": "application/json", authorization: "Bearer sk-none"}});
        const told = [answer.status, await answer.text(), answer.headers.get("payment-response")];
        await fetch("http://127.0.0.1:PORT/v1/told", {method: "POST", body: JSON.stringify(told)});
      })();
    </script>"""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as holder:  # a port to name beforehand
        own = holder.server_address[1]
    with Upstream(sell_with_receipt) as upstream:
        with Proxy(upstream.url, "--set", f"x402_allow_origins=http://127.0.0.1:{own}", home=home) as proxy:
            made = functools.partial(Pages, page.replace("PORT", str(proxy.port)).encode())
            with http.server.ThreadingHTTPServer(("127.0.0.1", own), made) as server:
                threading.Thread(target=server.serve_forever, daemon=True).start()
                with browsing(kind, tmp_path / "profile", f"http://127.0.0.1:{own}/"):
                    eventually(lambda: told(upstream), lambda: proxy.log[-3000:], 60)
                server.shutdown()
            assert told(upstream) == [200, "ok", "a-receipt"]


def told(upstream: Upstream) -> object:
    bodies = [asked.body for asked in upstream.requests if asked.start.startswith(b"POST /v1/told")]
    return json.loads(bodies[0]) if bodies else None


def sell_with_receipt(peer: Peer, upstream: Upstream) -> None:
    while True:
        asked = upstream.read(peer)
        if asked.start.startswith(b"POST /v1/told") or asked.get(b"payment-signature") is not None:
            peer.send(b"HTTP/1.1 200 OK\r\nPAYMENT-RESPONSE: a-receipt\r\nContent-Length: 2\r\n\r\nok")
        else:
            peer.send(challenges.answer())
