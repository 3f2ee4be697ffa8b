"""What mitmweb's API may change while a wallet is loaded, and how its browser is opened."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import challenges
from support.patience import eventually
from support.proxy import Proxy
from support.running.versions import IS_12
from support.showing.mitmweb import Web
from support.wire import Peer, Upstream, free_port, request


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with Upstream(lambda *_: None) as upstream, Web(upstream.url, home=tmp_path_factory.mktemp("home")) as web:
        yield web


def refused(web: Web, **options: Any) -> str:
    with pytest.raises(urllib.error.HTTPError) as caught:
        web.api("options", "PUT", options)
    with caught.value as answer:
        assert answer.code == 400
        return str(answer.read())


@pytest.mark.parametrize(
    "options",
    [
        {"scripts": ["SCRIPT"]},
        {"scripts": []},
        {"save_stream_file": "FILE"},
        {"hardump": "FILE"},
        {"mode": ["regular"]},
        {"listen_host": ""},
        {"ssl_insecure": True},
        {"map_remote": ["|a|b"]},
        {"modify_headers": ["/~q/a/b"]},
        {"web_password": "mine"},
        {"x402_max_request": "5"},
        {"x402_budget": "11/day"},
        {"x402_budget": "10"},
        {"x402_allow_origins": "http://evil.example"},
        {"x402_web_options": "true"},
        {"x402_config": "FILE"},
        {"x402_dump": "FILE"},
        {"x402_ledger": "FILE"},
        {"x402_forward_auth": "true"},
        {"x402_solana_rpc": "https://evil.example"},
        {"view_filter": "~q", "scripts": ["SCRIPT"]},
        {"x402_view_limit": "1g"},
        {"x402_dump_filter": "~m GET"},
        {"x402_forward_names": "x-api-key"},
        {"onboarding": False},
        {"anticache": True},
        {"anticomp": True},
        {"store_streamed_bodies": True},
        {"termlog_verbosity": "error"},
    ],
    ids=json.dumps,
)
def test_what_leads_to_the_key_or_to_more_spending_stays(web: Web, tmp_path: Path, options: dict[str, Any]) -> None:
    if not IS_12 and ("web_password" in options or "store_streamed_bodies" in options):
        return
    script, file = tmp_path / "script.py", tmp_path / "file"
    script.write_text(f"open({str(file)!r}, 'w').close()\n")
    text = json.dumps(options).replace("SCRIPT", str(script)).replace("FILE", str(file))
    before = web.api("options")
    assert "x402_web_options=true" in refused(web, **json.loads(text))
    assert web.api("options") == before
    assert not file.exists()


def test_narrowing_and_looking_are_free(web: Web) -> None:
    for options in (
        {"x402_max_request": "0.5"},
        {"x402_budget": "10/day,1/hour"},
        {"x402_budget": "9/day,1/hour"},
        {"x402_allow_networks": "base"},
        {"x402_view_limit": "1m"},
        {"x402_pay_methods": "POST,GET"},
        {"x402_pay_methods": "POST"},
        {"x402_dry_run": "true"},
        {"view_filter": "~m POST", "intercept": "~q"},
        {"intercept": None},
    ):
        web.api("options", "PUT", options)
    assert "x402_dry_run" in refused(web, x402_dry_run="false")
    assert "x402_max_request" in refused(web, x402_max_request="1")
    assert "x402_pay_methods:" in refused(web, x402_pay_methods="POST,GET")
    assert "x402_budget:" in refused(web, x402_budget="100/day")


@pytest.mark.parametrize("value", [True, 1, 0.5, None, ["true"], {"a": "b"}], ids=json.dumps)
@pytest.mark.parametrize("option", ["x402_dry_run", "x402_max_request", "x402_budget"])
def test_what_is_no_text_is_told_so(web: Web, option: str, value: Any) -> None:
    assert f"{option}: expected text" in refused(web, **{option: value})


def test_a_flow_that_is_sent_to_the_proxy_itself_spends_nothing(home: Path) -> None:
    """The page may edit a flow and replay it: what comes from a replay is no client of this machine."""

    def sell(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(challenges.answer())

    with Upstream(sell) as upstream, Web(upstream.url, "--set", "x402_dry_run=false", home=home) as web:
        with web.client() as client:
            client.ask(request("GET", "/v1/seen", b""))
        flow = web.flows()[-1]["id"]
        upstream.requests.clear()
        # Of its own addresses mitmproxy knows this one as localhost, and takes other spellings for another host.
        own = {"host": "LocalHost", "port": web.port, "path": "/v1/replayed", "headers": [["host", "127.0.0.1"]]}
        web.api(f"flows/{flow}", "PUT", {"request": own})
        web.api(f"flows/{flow}/replay", "POST")
        web.wait_for("refused: client_token_required")
    assert upstream.requests == []


@pytest.mark.parametrize("command", ["script.run", "options.load", "options.save", "save.file", "set", "options.reset"])
def test_commands_lead_nowhere_either(web: Web, command: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    script = tmp_path / "script.py"
    script.write_text(f"open({str(file)!r}, 'w').close()\n")
    arguments = {"set": ["scripts", str(script)], "script.run": ["@all", str(script)], "options.reset": []}
    try:
        answer = web.api(f"commands/{command}", "POST", {"arguments": arguments.get(command, [str(file)])})
    except urllib.error.HTTPError as error:
        with error:
            assert error.code >= 400  # noqa: PT017
    else:
        assert "error" in answer
    assert not file.exists()


def test_an_option_allows_the_rest(home: Path) -> None:
    with Upstream(lambda *_: None) as upstream, Web(upstream.url, "--set", "x402_web_options=true", home=home) as web:
        web.api("options", "PUT", {"x402_max_request": "2"})


def test_the_token_of_the_page_stands_in_no_argument(home: Path) -> None:
    if not IS_12:
        return
    browser = home / "bin" / "x-www-browser"
    browser.parent.mkdir()
    browser.write_text(f'#!/bin/sh\necho "$@" > {home}/arguments\n')
    browser.chmod(0o755)
    with Upstream(lambda *_: None) as upstream:
        proxy = Proxy(upstream.url, "--web-port", str(free_port()), home=home, tool="mitmweb")
        proxy.environ |= {"PATH": str(browser.parent), "DISPLAY": ":1"}
        with proxy:
            eventually((home / "arguments").exists)
            address = (home / "arguments").read_text().strip()
            assert address.startswith("file://")
            assert "token=" not in address
            file = Path(address.removeprefix("file://"))
            assert "?token=" in file.read_text()
            assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o077) == (0o600, 0)
