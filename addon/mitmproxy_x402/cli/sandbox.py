"""The verb `sandbox`: a play-money gateway, the real proxy in front of it, and one paid request to watch.

The proxy is a process of its own, started as a user would start it. Nothing of the user's is touched: the wallet is
made here and handed over by environment; configuration and certificates are in a directory that is removed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from ..command_line import PORT, WEB_PORT, port_is_free, read_arguments
from ..errors import SettingsError, X402Error
from ..machine.program import program
from ..protocol.amounts import format_usd
from ..protocol.networks import BUILT_IN
from ..sandbox import Sandbox, SandboxConfig
from ..sandbox.config import Scheme
from ..wallet.sources import EVM_VARIABLE, SVM_VARIABLE
from .terminal import say

SETTLED_LATE = """\
           the gateway settled it after the stream's last byte and could not say so in it. So the proxy calls it "sent,
           not confirmed yet"{then}
"""
CONFIRMED_LATER = """; it asks the sandbox's chain, and writes it down as confirmed within two minutes"""
ENDS_NOW = """ to the end; without --once it would ask the sandbox's chain, and write it down as confirmed"""
CIRCLES_OWN = """: Circle keeps these payments, and no chain has them one by one"""
GATEWAY_PORT = 4420
NETWORKS = {
    "base-sepolia": ("base-sepolia",),
    "solana-devnet": ("solana-devnet",),
    "both": ("base-sepolia", "solana-devnet"),
}
SCHEMES: tuple[Scheme, ...] = ("exact", "upto", "permit2", "gateway")
START_SECONDS = 60
"""A cold start of mitmproxy on a slow disk takes many seconds; more is a hang."""
STOP_SECONDS = 10
SETTLE_SECONDS = 10
"""A stream's payment may settle just after its last byte."""
PAUSE_SECONDS = 0.05
"""Between the events of the demo's stream, so that a person sees it arrive."""

_CHATTER = re.compile(r"(client|server) (dis)?connect|Streaming response|Loading script|content missing")
_CLOCK = re.compile(r"^\[[0-9:.]+\](\[[0-9.:]+\])? *")

QUESTION = "Do I need an umbrella in Oslo this week?"
_PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Bergen", "Oslo"]},
        "days": {"type": "integer", "minimum": 7},
        "unit": {"type": "string", "enum": ["fahrenheit", "celsius"]},
    },
    "required": ["city", "days", "unit"],
}
REQUEST: Mapping[str, Any] = {
    "model": "sandbox-1",
    "stream": True,
    "max_tokens": 256,
    "messages": [{"role": "user", "content": QUESTION}],
    "tools": [
        {
            "type": "function",
            "function": {"name": "forecast", "description": "The weather to come.", "parameters": _PARAMETERS},
        }
    ],
}

PASTE = """\
It runs until Ctrl-C. To try it with a client, in another terminal (Claude Code, Codex or any program):

  {program} run{at} -- claude --model sandbox-1

OpenAI's SDK:

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="any")
  for chunk in client.chat.completions.create(model="sandbox-1", stream=True,
                                              messages=[{{"role": "user", "content": "Hello"}}]):
      print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)

curl:

  curl -N {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "sandbox-1", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

What was paid, and whether your own wallet and limits would do here:

  {program} report --ledger {ledger}
  {there} {program} check
"""


class DemoError(X402Error):
    """A step of the demo failed; the message says which."""

    code = "demo_failed"


@dataclass(frozen=True)
class _Choice:
    """The command line of `sandbox`."""

    once: bool
    verb: str
    """The verb that starts the proxy: `serve` or `web`."""
    networks: tuple[str, ...]
    scheme: Scheme
    """The scheme that the proxy pays by. The gateway sells by it alone, or, if it is `upto`, by `exact`, too."""
    passed_on: tuple[str, ...]


def run(arguments: Sequence[str]) -> int:
    """Show the demo, then serve until Ctrl-C. With --once, return 0 if the request was paid and complete, else 1."""
    choice = _read(arguments)
    signal.signal(signal.SIGTERM, _leave)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, _leave)
    with _gateway(choice) as gateway:
        port = _proxy_port(choice.passed_on)
        with _proxy(gateway.url, port, choice) as (proxy, ledger, listens):
            url = f"http://127.0.0.1:{port}"
            _await_port(port, proxy, listens)
            say(f"\n{_bold('gateway')}  {gateway.url}, takes play money on {' and '.join(choice.networks)}")
            say(f"{_bold('proxy')}    {url}, pays for every client on this machine\n")
            try:
                paid = _show(port, gateway, choice)
            except DemoError:
                with suppress(subprocess.TimeoutExpired):
                    raise DemoError(f"the proxy ended, exit code {proxy.wait(1)}; its reason is above") from None
                raise
            if choice.once:
                return 0 if paid else 1
            at = "" if port == PORT else f" -p {port}"
            rpcs = _rpc_variables(gateway.url, choice.networks)
            there = shlex.join([f"{name}={value}" for name, value in {"X402_UPSTREAM": gateway.url, **rpcs}.items()])
            say(PASTE.format(url=url, at=at, program=program(), ledger=shlex.quote(str(ledger)), there=there))
            if code := proxy.wait():
                time.sleep(0.5)  # Ctrl-C goes to every program of the terminal, and the proxy may be the quicker one
                raise DemoError(f"the proxy ended by itself, exit code {code}")
            say("the proxy was told to end, and so does the sandbox")
            return 0


def _read(arguments: Sequence[str]) -> _Choice:
    once, verb, network, scheme = False, "serve", "base-sepolia", "exact"
    passed_on: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--once":
            once = True
        elif argument == "--web":
            verb = "web"
        elif argument == "--network":
            network = next(waiting, "")
        elif argument.startswith("--network="):
            network = argument.partition("=")[2]
        elif argument == "--scheme":
            scheme = next(waiting, "")
        elif argument.startswith("--scheme="):
            scheme = argument.partition("=")[2]
        else:
            passed_on.append(argument)
    if network not in NETWORKS:
        raise SettingsError(f"--network {network!r:.40}: expected one of {', '.join(NETWORKS)}")
    chosen = next((each for each in SCHEMES if each == scheme), None)
    if chosen is None:
        raise SettingsError(f"--scheme {scheme!r:.40}: expected one of {', '.join(SCHEMES)}")
    if chosen != "exact" and network == "solana-devnet":
        raise SettingsError(f"--scheme {scheme}: Solana is paid by exact only; use --network base-sepolia")
    return _Choice(once, verb, NETWORKS[network], chosen, tuple(passed_on))


def _leave(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _gateway(choice: _Choice) -> Iterator[Sandbox]:
    config = SandboxConfig(
        networks=choice.networks,
        port=GATEWAY_PORT,
        chunk_seconds=PAUSE_SECONDS,
        schemes=("upto", "exact") if choice.scheme == "upto" else (choice.scheme,),
        decoys=choice.scheme == "exact",
    )
    with ExitStack() as stack:
        try:
            gateway = stack.enter_context(Sandbox(config).run_in_thread())
        except OSError:
            gateway = stack.enter_context(Sandbox(replace(config, port=0)).run_in_thread())
            say(f"port {GATEWAY_PORT} is in use; the gateway uses another: {gateway.url}")
        yield gateway


def _proxy_port(passed_on: Sequence[str]) -> int:
    named = read_arguments(passed_on).options.get("listen_port")
    if named is not None:
        if not (named.isascii() and named.isdigit() and 0 < int(named) < 65536):
            raise SettingsError(f"-p {named!r:.40}: expected a port from 1 to 65535")
        if not port_is_free("127.0.0.1", int(named)):
            raise SettingsError(f"-p {named}: this port is in use; without -p a free one is chosen")
        return int(named)
    return _port_or_another(PORT, "the proxy")


def _port_or_another(port: int, who: str) -> int:
    if port_is_free("127.0.0.1", port):
        return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        another = int(probe.getsockname()[1])
    say(f"port {port} is in use; {who} uses another: {another}")
    return another


@contextmanager
def _proxy(
    upstream: str, port: int, choice: _Choice
) -> Iterator[tuple[subprocess.Popen[bytes], Path, threading.Event]]:
    """The proxy as a child process, which is stopped at the end of the block, and its ledger, which goes with it.

    The event is set as soon as it says that it listens.
    """
    directory = Path(tempfile.mkdtemp(prefix="mitmproxy-x402-"))
    (directory / "x402.toml").touch()
    command = [sys.executable, "-u", *(["-I"] if sys.flags.isolated else []), "-m", "mitmproxy_x402", choice.verb]
    command += ["--upstream", upstream, "-p", str(port), "--set", f"confdir={directory}"]
    if choice.verb == "web" and "web_port" not in read_arguments(choice.passed_on).options:
        command += ["--web-port", str(_port_or_another(WEB_PORT, "mitmweb's page"))]
    command += _scheme_options(choice, upstream)
    environment = _environment(directory, upstream, choice.networks)
    process = subprocess.Popen(  # noqa: S603  (our own program)
        [*command, *choice.passed_on],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    listens = threading.Event()
    if "termlog_verbosity" in read_arguments(choice.passed_on).options:  # it may not say so
        listens.set()
    threading.Thread(target=_relay, args=(process.stdout, listens), name="proxy's output", daemon=True).start()
    try:
        yield process, directory / "mitmproxy-x402" / "ledger.sqlite3", listens
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _scheme_options(choice: _Choice, upstream: str) -> list[str]:
    """Options that make the proxy pay by the chosen scheme; all but `exact` are off by default."""
    if choice.scheme == "exact":
        return []
    if choice.scheme == "gateway":
        return ["--set", "x402_gateway=true"]
    rpcs = [f"{name}={upstream}/v1/rpc/{name}" for name in choice.networks if name in NETWORKS["base-sepolia"]]
    wanted = "upto" if choice.scheme == "upto" else "auto"
    networks = ",".join(dict.fromkeys(("base-sepolia", *choice.networks)))
    return ["--set", f"x402_schemes={wanted}", "--set", f"x402_evm_rpc={rpcs[0]}", "--set", f"x402_networks={networks}"]


def _relay(output: IO[bytes], listens: threading.Event) -> None:
    """Print the proxy's log without the lines about connections, which hide what matters."""
    with output:
        for line in output:
            if b"proxy to http" in line and b"listening at" in line:
                listens.set()
            text = line.decode(errors="replace").rstrip()
            if text and not _CHATTER.search(text):
                with suppress(OSError):  # the demo itself says so, where it prints; the proxy must not wait for us
                    say(_dim(f"proxy      {_CLOCK.sub('', text)}"))


def _environment(directory: Path, gateway: str, networks: Sequence[str]) -> Mapping[str, str]:
    """The environment without the user's settings, with the RPCs of the sandbox's chains.

    It holds a wallet of each family, so that none of the user's key files is read.
    """
    from solders.keypair import Keypair  # noqa: PLC0415  (the demo alone makes keys)

    kept = {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("X402_") and name != "SOLANA_RPC_URL") or name == "X402_PROGRAM"
    }
    ours = {
        **_rpc_variables(gateway, networks),
        EVM_VARIABLE: f"0x{secrets.token_hex(32)}",
        SVM_VARIABLE: str(Keypair()),
        "X402_CONFIG": str(directory / "x402.toml"),
        "XDG_STATE_HOME": str(directory),  # its ledger is removed with it
    }
    return {**kept, **ours}


def _rpc_variables(gateway: str, networks: Sequence[str]) -> dict[str, str]:
    rpcs = {name: f"{gateway}/v1/rpc/{name}" for name in networks}
    solana = [url for name, url in rpcs.items() if name.startswith("solana")]
    evm = [f"{name}={url}" for name, url in rpcs.items() if url not in solana]
    named = {"X402_EVM_RPC": ",".join(evm), "SOLANA_RPC_URL": ",".join(solana)}
    return {name: value for name, value in named.items() if value}


def _await_port(port: int, process: subprocess.Popen[bytes], listens: threading.Event) -> None:
    """Wait until `process` listens on `port`: another program may have taken that in the meantime."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the proxy did not start, exit code {process.returncode}; its reason is above")
        if not listens.is_set():
            time.sleep(0.02)  # and not `listens.wait`, which Ctrl-C can end in a RuntimeError
            continue
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise DemoError(f"the proxy did not open port {port} within {START_SECONDS} seconds")


def _show(port: int, gateway: Sandbox, choice: _Choice) -> bool:
    """Send a streamed request with a tool call, and print it as it arrives. Returns whether it is complete and paid."""
    say(f'POST /v1/chat/completions, streamed, with a tool to call: "{QUESTION}"\n')
    connection = HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
    started = time.monotonic()
    try:
        body = json.dumps(REQUEST)
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            say(f"answered {response.status}: {_message(response.read())}")
            return False
        call = _print_events(response, started)
    except (OSError, HTTPException) as error:
        raise DemoError(f"the request through the proxy failed: {type(error).__name__}: {error}") from None
    finally:
        connection.close()
    say(f"\n{_bold('tool call')}  {call or 'incomplete: the stream ended early'}")
    return _say_what_was_paid(gateway, choice) and call is not None


def _message(body: bytes) -> str:
    """The message in an error's body, in any of the usual shapes."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body[:400].decode(errors="replace")
    error = answer.get("error")
    return str((error.get("message") if isinstance(error, dict) else None) or answer.get("message") or error)


def _print_events(response: HTTPResponse, started: float) -> str | None:
    """Print every line of the stream with its time. Returns the whole tool call, or None if the stream was cut."""
    name, fragments, complete = "", [], False
    width = shutil.get_terminal_size((120, 24)).columns - 12
    for line in response:
        text = line.decode().rstrip("\r\n")
        if not text:
            continue
        say(f"{_dim(f'{time.monotonic() - started:8.3f} s')}  {_shortened(text, width)}")
        if text == "data: [DONE]":
            complete = True
        elif text.startswith("data: "):
            for function in _functions(json.loads(text[6:])):
                name += function.get("name") or ""
                fragments.append(function.get("arguments") or "")
    if not complete or not name:
        return None
    return f"{name}({json.dumps(json.loads(''.join(fragments)), ensure_ascii=False)})"


def _shortened(line: str, width: int) -> str:
    """`line` cut to `width`; an event that is too long begins with its choices, since the rest is in every event."""
    start = line.find('"choices"')
    if len(line) > width and start > 0:
        line = f"data: {{...{line[start:]}"
    return line if len(line) <= width else f"{line[: max(width - 3, 20)]}..."


def _functions(event: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for choice in event.get("choices", []):
        for call in choice.get("delta", {}).get("tool_calls") or []:
            yield call.get("function", {})


def _say_what_was_paid(gateway: Sandbox, choice: _Choice) -> bool:
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline and any(payment.state == "held" for payment in gateway.payments):
        time.sleep(0.02)
    payments = list(gateway.payments)
    for payment in payments:
        row = BUILT_IN.get(payment.network)
        asset = None if row is None else row.asset(payment.asset)
        amount = f"{payment.amount} units" if asset is None else f"{format_usd(asset.micro_usd(payment.amount))} USDC"
        place = payment.network if row is None else row.name
        if payment.scheme == "upto" and payment.charged is not None and asset is not None:
            say(f"{_bold('paid')}       at most {amount}, the ceiling that the wallet signed and the proxy reserved")
            amount = f"{format_usd(asset.micro_usd(payment.charged))} USDC"
            say(f"{_bold('charged')}    {amount} on {place} from {payment.payer}, by the answer's length")
        else:
            say(f"{_bold('paid')}       {amount} on {place} by {payment.payer}")
        say(f"           {payment.state}, transaction {payment.transaction or 'none'}")
        late = row is not None and row.family == "evm" and payment.state == "settled"
        say(SETTLED_LATE.format(then=_what_follows(choice)) if late else "")
    return len(payments) == 1 and payments[0].state == "settled" and bool(payments[0].transaction)


def _what_follows(choice: _Choice) -> str:
    if choice.scheme == "gateway":
        return CIRCLES_OWN
    return ENDS_NOW if choice.once else CONFIRMED_LATER


def _styled(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def _bold(text: str) -> str:
    return _styled(text, "1")


def _dim(text: str) -> str:
    return _styled(text, "2")
