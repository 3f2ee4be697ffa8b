"""Starting and stopping as a user does: what is printed, where the port is, what a mistake does."""

from __future__ import annotations

import itertools
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support import challenges, effort
from support.proxy import DOOR, EVM_ADDRESS, EVM_KEY, Proxy, svm_key
from support.wire import Client, Peer, Upstream, free_port, request


def sell(peer: Peer, upstream: Upstream) -> None:
    while True:
        if upstream.read(peer).get(b"payment-signature") is None:
            peer.send(challenges.answer())
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def listening(pid: int) -> set[str]:
    """Addresses in hex on which the process listens, from /proc."""
    inodes = {str(fd.readlink())[8:-1] for fd in Path(f"/proc/{pid}/fd").iterdir() if _is_socket(fd)}
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def _is_socket(fd: Path) -> bool:
    try:
        return str(fd.readlink()).startswith("socket:")
    except FileNotFoundError:
        return False


LOOPBACK = {"0100007F"}
ANY = {"00000000", "0" * 32}


@pytest.mark.parametrize("tool", ["mitmdump", "mitmweb"])
def test_listens_on_loopback_unless_told_otherwise(home: Path, tool: str) -> None:
    web = ("--no-web-open-browser", "--web-port", str(free_port())) if tool == "mitmweb" else ()
    with Proxy("http://127.0.0.1:1", *web, home=home, tool=tool) as proxy:
        assert listening(proxy.process.pid) == LOOPBACK


RESOLVES = """
import asyncio, runpy, socket, sys
from asyncio import base_events
later = base_events.BaseEventLoop.getaddrinfo
async def at_once(self, *arguments, **more):
    return socket.getaddrinfo(*arguments, **more)
async def slowly(self, *arguments, **more):
    await asyncio.sleep(0.2)
    return await later(self, *arguments, **more)
base_events.BaseEventLoop.getaddrinfo = {how}
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("how", ["at_once", "later", "slowly"])
@pytest.mark.parametrize("tool", effort.chosen(["mitmdump", "mitmweb"], "mitmdump"))
def test_the_port_that_mitmproxy_begins_to_open_too_early(home: Path, tool: str, how: str) -> None:
    """Before it loads a script, with its own `listen_host`. How far that gets depends on how fast a thread is."""
    web = ("--no-web-open-browser", "--web-port", str(free_port())) if tool == "mitmweb" else ()
    with Upstream(sell) as upstream:
        proxy = Proxy(upstream.url, *web, home=home, tool=tool, own=False)
        proxy.command = [sys.executable, "-I", "-u", "-c", RESOLVES.format(how=how), *proxy.command]
        with proxy, proxy.client() as client:
            assert listening(proxy.process.pid) == LOOPBACK
            assert client.ask(request()).body == b"ok"
            assert listening(proxy.process.pid) == LOOPBACK


def test_no_port_opens_elsewhere_for_a_moment_whatever_other_modes_there_are(home: Path) -> None:
    """Ports of modes that name an address are opened once, and no port at all of those that name none but here."""
    ours, *ports = (free_port() for _ in range(5))
    first = f"reverse:http://127.0.0.1:1@{ours}"
    modes = ["regular", "socks5", f"upstream:http://127.0.0.1:{ours}", f"reverse:http://127.0.0.1:{ours}"]
    others = [part for mode, port in zip(modes, ports, strict=True) for part in ("--mode", f"{mode}@127.0.0.2:{port}")]
    more = [part for _ in range(3) for part in ("--mode", f"reverse:http://127.0.0.1:1@{free_port()}")]
    ready = rf"listening at 127\.0\.0\.1:{ours}"
    with Proxy("http://127.0.0.1:1", "--mode", first, *others, *more, home=home, listening=ready) as proxy:
        assert listening(proxy.process.pid) == {"0100007F", "0200007F"}
        for port in ports:
            proxy.wait_for(rf"listening at 127\.0\.0\.2:{port}")
    assert "listening at *" not in proxy.log
    opened = re.findall(r"listening at (\S+?)\.?\n", proxy.log)
    assert len(opened) == len(set(opened)) == 9, proxy.log


def test_a_port_that_is_taken_ends_the_start(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        proxy = Proxy("http://127.0.0.1:1", "--listen-port", port, home=home, expect_listen=False)
        with proxy:
            assert proxy.wait_for_end() == 1
    assert re.search(rf"failed to listen on \S+:{port} ", proxy.log)
    assert "Traceback" not in proxy.log


def test_listens_elsewhere_when_told(home: Path) -> None:
    with Proxy("http://127.0.0.1:1", "--listen-host", "0.0.0.0", home=home, listening=r"listening at \*") as proxy:
        assert listening(proxy.process.pid) == {"00000000"}
        assert "other machines are refused until X402_CLIENT_TOKEN is set" in proxy.log


def test_listens_elsewhere_when_mitmproxys_own_config_says_so(home: Path) -> None:
    (home / ".mitmproxy").mkdir()
    (home / ".mitmproxy" / "config.yaml").write_text("listen_host: ''\nconnection_strategy: eager\n")
    with Proxy("http://127.0.0.1:1", home=home, listening=r"listening at \*") as proxy:
        assert listening(proxy.process.pid) & ANY


def test_says_who_pays_what(home: Path) -> None:
    keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()}
    with Proxy("http://127.0.0.1:1", "--set", "x402_max_request=0.25", home=home, keys=keys) as proxy:
        log = proxy.log
        assert f"wallet {EVM_ADDRESS} for base, base-sepolia, arc (from BLOCKRUN_WALLET_KEY)" in log
        assert "for solana, solana-devnet (from SOLANA_WALLET_KEY)" in log
        assert "at most 0.25 USDC a request (x402_max_request)" in log
        assert "upstream http://127.0.0.1:1" in log
        for secret in (EVM_KEY, EVM_KEY[2:], svm_key()):
            assert secret not in log


@pytest.mark.parametrize("upstream", ["http://192.0.2.1", "http://192.0.2.1:8080", "https://192.0.2.1"])
def test_says_at_the_start_that_nothing_is_paid_without_tls(home: Path, upstream: str) -> None:
    with Proxy(upstream, home=home) as proxy:
        assert ("is not encrypted, so nothing is paid there: use https" in proxy.log) == upstream.startswith("http:")


def test_a_key_that_others_can_read_is_refused(home: Path) -> None:
    (home / ".blockrun").mkdir()
    key = home / ".blockrun" / ".session"
    key.write_text(EVM_KEY)
    key.chmod(0o644)
    with Proxy("http://127.0.0.1:1", home=home, keys={}, expect_listen=False) as proxy:
        assert proxy.wait_for(f"chmod 600 {key}")
        assert proxy.wait_for_end() == 1
        assert EVM_KEY[2:] not in proxy.log


MISTAKES = {
    "x402_max_request=abc": "x402_max_request",
    "x402_max_request=-1": "x402_max_request",
    "x402_max_reqest=1": "did you mean x402_max_request?",
    "x402_networks=bas": "x402_networks",
    "x402_forward_auth=maybe": "x402_forward_auth",
    "x402_evm_key_file=/nowhere/key": "/nowhere/key",
    "x402_config=/nowhere/x402.toml": "/nowhere/x402.toml",
    "x402_forward_auth": "x402_forward_auth was given no value",
    "x402_max_request=1 --set x402_max_request=2": "x402_max_request was given 2 times",
}


@pytest.mark.parametrize(
    ("mistake", "tool"),
    effort.chosen(
        itertools.product(MISTAKES, ("mitmdump", "mitmweb")),
        ("x402_max_request=abc", "mitmdump"),
        ("x402_max_reqest=1", "mitmweb"),
        ("x402_forward_auth", "mitmdump"),
        ("x402_evm_key_file=/nowhere/key", "mitmdump"),
    ),
)
def test_a_mistake_stops_the_start(home: Path, mistake: str, tool: str) -> None:
    web = ("--no-web-open-browser", "--web-port", str(free_port())) if tool == "mitmweb" else ()
    options = ("--set", *mistake.split())
    with Proxy("http://127.0.0.1:1", *options, *web, home=home, tool=tool, expect_listen=False) as proxy:
        assert proxy.wait_for_end() == 1
        assert "Traceback" not in proxy.log
        assert MISTAKES[mistake] in last_words(proxy)


def last_words(proxy: Proxy) -> str:
    said = proxy.log.splitlines()[-1]
    assert said.startswith("mitmproxy-x402: ")
    return said


def test_a_mistake_in_mitmproxys_own_file_stops_the_start(home: Path) -> None:
    (home / ".mitmproxy").mkdir()
    (home / ".mitmproxy" / "config.yaml").write_text("x402_max_request: 1\n")
    with Proxy("http://127.0.0.1:1", home=home, expect_listen=False) as proxy:
        assert proxy.wait_for_end() == 1
        assert "x402_max_request is int 1" in last_words(proxy)


def test_a_mistake_in_the_file_stops_the_start(home: Path) -> None:
    (home / "x402.toml").write_text("max_request = '1'\nmax_reqest = '2'\n")
    with Proxy("http://127.0.0.1:1", home=home, expect_listen=False) as proxy:
        assert proxy.wait_for_end() == 1
        line = last_words(proxy)
        assert "x402.toml" in line
        assert "max_reqest" in line


def test_an_unreachable_upstream_is_json_and_costs_nothing(home: Path) -> None:
    port = free_port()
    with Proxy(f"http://127.0.0.1:{port}", home=home) as proxy, proxy.client() as client:
        answer = client.ask(request())
        assert (answer.status, answer.get(b"content-type")) == (502, b"application/json")
        body = json.loads(answer.body)
        assert (body["type"], body["error"]["type"]) == ("error", "upstream_error")
        assert f"127.0.0.1:{port}" in body["error"]["message"]
        assert "Nothing was paid" in body["error"]["message"]


def test_options_change_at_run_time_or_are_refused_whole(home: Path) -> None:
    script = home / "changer.py"
    script.write_text(
        "from mitmproxy import ctx, exceptions\n"
        "def request(flow):\n"
        "    value = flow.request.headers.get('x-set')\n"
        "    if value:\n"
        "        try:\n"
        "            ctx.options.set(*value.split())\n"
        "            flow.comment = 'taken'\n"
        "        except exceptions.OptionsError as error:\n"
        "            flow.comment = str(error)\n"
        "def response(flow):\n"
        "    import logging\n"
        "    if flow.comment: logging.info('changer: %s %s', flow.comment, ctx.options.x402_max_request)\n"
    )
    with Upstream(sell) as upstream, Proxy(upstream.url, "-s", str(script), home=home) as proxy:
        with proxy.client() as client:
            assert client.ask(request("POST", "/x", b"", "x-set: x402_max_request=0.01")).status == 400
            proxy.wait_for("changer: taken 0.01")
            assert (
                client.ask(request("POST", "/x", b"", "x-set: x402_max_request=0.02 x402_networks=mars")).status == 400
            )
            line = proxy.wait_for("changer: .*mars")
            assert line.strip().endswith("0.01")
            assert client.ask(request("POST", "/x", b"", "x-set: x402_max_request=0.5")).body == b"ok"


def test_the_door_needs_no_install(home: Path) -> None:
    """From a checkout, with nothing but the dependencies: the package is found beside the door."""
    code = (
        "import sys; sys.path = [p for p in sys.path if not p.endswith('site-packages')] \n"
        "from mitmproxy_x402 import addon"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode != 0
    with Upstream(sell) as upstream, Proxy(upstream.url, home=home) as proxy, proxy.client() as client:
        assert str(DOOR) in proxy.log
        assert client.ask(request()).body == b"ok"


def test_ctrl_c_ends_it(home: Path) -> None:
    with Proxy("http://127.0.0.1:1", home=home) as proxy:
        proxy.process.send_signal(signal.SIGINT)
        assert proxy.wait_for_end() == 0
        assert "Traceback" not in proxy.log


def test_what_asyncio_says_is_shown(home: Path) -> None:
    script = home / "complainer.py"
    script.write_text(
        "import asyncio\n"
        "def running():\n"
        "    asyncio.get_running_loop().default_exception_handler({'message': 'a task was forgotten'})\n"
    )
    with Proxy("http://127.0.0.1:1", "-s", str(script), home=home, own=True, expect_listen=False) as proxy:
        assert proxy.wait_for_end() == 1
        assert "a task was forgotten" in proxy.log
        assert "Traceback" not in proxy.log


def test_a_regular_proxy_pays_nothing(home: Path) -> None:
    with Upstream(sell) as upstream, Proxy(upstream.url, "--mode", "regular", home=home, expect_listen=False) as proxy:
        # two modes would both run: take the reverse one out
        del upstream
        proxy.process.terminate()
    command = [part for part in proxy.command if not part.startswith("reverse:")]
    command.remove("--mode")
    with Upstream(sell) as upstream:
        proxy = Proxy(upstream.url, home=home)
        proxy.command = command
        with proxy, Client("127.0.0.1", proxy.port) as client:
            assert "NOT paying" in proxy.log
            data = request("POST", f"http://127.0.0.1:{upstream.port}/x")
            assert client.ask(data).status == 402
        assert len(upstream.requests) == 1


def test_a_replayed_flow_never_pays(home: Path) -> None:
    saved = home / "flows"
    with Upstream(sell) as upstream:
        with Proxy(upstream.url, "-w", str(saved), home=home) as proxy, proxy.client() as client:
            assert client.ask(request()).body == b"ok"
            proxy.wait_for("<< 200 OK")
        paid = upstream.requests.pop().get(b"payment-signature")
        assert paid is not None
        assert paid not in saved.read_bytes()
        with Proxy(upstream.url, "--client-replay", str(saved), home=home) as proxy:
            proxy.wait_for("<< 402 Payment Required")
        assert [r.get(b"payment-signature") for r in upstream.requests] == [None, None]


@pytest.mark.parametrize("broken", ["mitmproxy_x402.hooks.guard.examine", "mitmproxy_x402.payment.challenge.read"])
def test_a_fault_of_ours_pays_nothing_and_lets_nothing_through(home: Path, broken: str) -> None:
    module, _, name = broken.rpartition(".")
    script = home / "breaker.py"
    script.write_text(f"import {module}\ndef fail(*_):\n    raise KeyError('a secret')\n{module}.{name} = fail\n")
    with Upstream(sell) as upstream, Proxy(upstream.url, "-s", str(script), home=home) as proxy:
        with proxy.client() as client:
            answer = client.ask(request("POST", "/v1/x", b"{}", "Authorization: Bearer sk-mine"))
        assert answer.status == 500
        error = json.loads(answer.body)["error"]
        assert (error["code"], "Nothing was paid" in error["message"]) == ("internal_error", True)
        assert all(sent.get(b"payment-signature") is None for sent in upstream.requests)
        assert all(b"sk-mine" not in sent.head for sent in upstream.requests)
        assert "a secret" not in proxy.log


@pytest.mark.parametrize(
    ("version", "code"), [("2026.7.22", "outdated_authorities"), ("2026.10.18", "insecure_upstream")]
)
def test_with_authorities_one_of_which_has_lost_its_key_nothing_is_paid(home: Path, version: str, code: str) -> None:
    """The gateway is another machine by its name; who stands in for it here does so for every name."""
    with Upstream(sell) as upstream:
        script = home / "elsewhere.py"
        script.write_text(
            "import certifi\n"
            f"certifi.__version__ = {version!r}\n"
            f"def server_connect(data): data.server.address = ('127.0.0.1', {upstream.port})\n"
        )
        proxy = Proxy(f"http://gateway.test:{upstream.port}", home=home)
        proxy.load_first(script)
        with proxy, proxy.client() as client:
            answer = client.ask(request())
            warned = f"certifi {version} still trusts a certificate authority whose private key has leaked"
            assert (warned in proxy.log) == (code == "outdated_authorities")
            assert ("-m pip install 'certifi>=2026.10.18'" in proxy.log) == (code == "outdated_authorities")
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, code)
        assert all(sent.get(b"payment-signature") is None for sent in upstream.requests)


@pytest.mark.parametrize(
    ("keys", "upstream", "said"),
    [
        ({"BLOCKRUN_WALLET_KEY": EVM_KEY}, "https://sol.blockrun.ai", "takes payment on Solana, and the only wallet"),
        ({"SOLANA_WALLET_KEY": svm_key()}, "https://blockrun.ai", "takes payment on Base, and the only wallet"),
        ({"BLOCKRUN_WALLET_KEY": EVM_KEY}, "https://blockrun.ai", ""),
        ({"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()}, "https://sol.blockrun.ai/", ""),
        ({}, "https://sol.blockrun.ai", ""),
    ],
)
def test_says_when_the_wallet_cannot_pay_the_upstream(
    home: Path, keys: dict[str, str], upstream: str, said: str
) -> None:
    with Proxy(upstream, home=home, keys=keys) as proxy:
        log = proxy.log
    assert ("takes payment on" in log) == bool(said)
    assert said in log
