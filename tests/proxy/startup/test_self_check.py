"""The self-check at the start: internals of mitmproxy that have moved, and versions that were not tested."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from mitmproxy.proxy.layers import http as mhttp
from mitmproxy.proxy.layers.http._base import HttpCommand

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.proxy.startup.self_check import NEEDED, attributes_of, self_check
from support import challenges
from support.proxy import Proxy
from support.wire import Peer, Upstream, request


def sell(peer: Peer, upstream: Upstream) -> None:
    while True:
        if upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("name", [f"{owner.__name__}.{name}" for owner, name, _ in NEEDED])
def test_an_internal_that_moved_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute = next((o, n) for o, n, _ in NEEDED if f"{o.__name__}.{n}" == name)
    self_check()
    monkeypatch.delattr(next(c for c in owner.__mro__ if attribute in vars(c)), attribute)
    with pytest.raises(SettingsError, match=attribute):
        self_check()


def test_of_a_class_only_its_own_attributes_are_known() -> None:
    class Base:
        first: int

        def __init__(self) -> None:
            self.second = 1

    class Derived(Base):
        def third(self) -> None:
            self.fourth = 1

    assert {"first", "second", "third", "fourth"} <= attributes_of(Derived)
    assert "fourth" not in attributes_of(Base)


@pytest.mark.parametrize("version", ["11.0.1", "10.4.2", "8.1.1"])
def test_an_older_mitmproxy_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mitmproxy.version.VERSION", version)
    with pytest.raises(SettingsError, match=r"not supported.*pip install"):
        self_check()


@pytest.mark.parametrize("version", ["12.4.0", "13.0.0.dev", "13.1"])
def test_a_newer_mitmproxy_runs_with_a_warning_unless_it_has_moved_something(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert self_check() == ""
    monkeypatch.setattr("mitmproxy.version.VERSION", version)
    assert self_check().startswith(f"mitmproxy {version} is newer than those tested (11.0.2, 12.2 and 12.3).")
    monkeypatch.delattr(mhttp.HttpStream, "check_killed")
    with pytest.raises(SettingsError, match=r"check_killed.*Tested are 11\.0\.2, 12\.2 and 12\.3"):
        self_check()


def test_a_newer_python_runs_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 17, 0, "final", 0))
    assert self_check().startswith("Python 3.17 is newer than those tested (3.10 to 3.14).")


def test_a_newer_mitmproxy_pays_and_says_that_it_was_not_tested(home: Path) -> None:
    script = home / "newer.py"
    script.write_text("from mitmproxy import version\nversion.VERSION = '12.9.0'\n")
    with Upstream(sell) as upstream:
        proxy = Proxy(upstream.url, home=home)
        proxy.load_first(script)
        with proxy, proxy.client() as client:
            assert client.ask(request()).body == b"ok"
            assert len([line for line in proxy.log.splitlines() if "newer than those tested" in line]) == 1


def test_a_changed_parameter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mhttp.HttpStream, "check_killed", lambda _self, _other: None)
    with pytest.raises(SettingsError, match="check_killed"):
        self_check()


def test_what_parts_of_the_http_layer_newly_ask_of_it_is_noticed() -> None:
    new = type("NewCommand", (HttpCommand,), {"__module__": "mitmproxy.proxy.layers.http"})
    with pytest.raises(SettingsError, match="has changed NewCommand"):
        self_check()
    del new
    gc.collect()
    assert self_check() == ""


def test_a_moved_internal_stops_the_start(home: Path) -> None:
    breaker = home / "breaker.py"
    breaker.write_text("from mitmproxy.proxy.layers.http import HttpStream\ndel HttpStream.check_killed\n")
    with Proxy("http://127.0.0.1:1", home=home, expect_listen=False) as proxy_that_works:
        proxy_that_works.wait_for("x402: upstream")
    proxy_that_works.load_first(breaker)
    done = subprocess.run(
        proxy_that_works.command,
        env=proxy_that_works.environ,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "check_killed" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
