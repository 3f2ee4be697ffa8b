"""Starts mitmdump, mitmweb or mitmproxy with the addon, before the gateway that the wallet at hand can pay."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from . import payer
from .errors import SettingsError
from .settings import OPTIONS, is_loopback, read_settings
from .wallet import EVM_VARIABLE, SVM_VARIABLE, Wallets

PORT = 4402
WEB_PORT = 8081
"""Of mitmweb's page, unless the user says otherwise; mitmproxy's own default."""
SOLANA_GATEWAY = "https://sol.blockrun.ai"
BASE_GATEWAY = "https://blockrun.ai"
QUESTIONS = ("--commands", "--version")
"""Arguments after which mitmproxy prints something and ends: they need neither wallet nor port."""

NO_WALLET = """\
no wallet found, and without one nothing can be paid.

  Pay on Solana: put the key into {svm}, or into ~/.blockrun/.solana-session
  Pay on Base:   put the key into {evm}, or into ~/.blockrun/.session
  A key file or an Ethereum keystore of your own: --set x402_solana_key_file=FILE, x402_evm_key_file, x402_keystore

A few dollars of USDC are enough; keep no more there than you can lose.
To look first, without any wallet: {program} sandbox"""


@dataclass(frozen=True)
class Arguments:
    """The user's command line for mitmproxy, and what of it decides on our defaults."""

    upstream: str | None
    """From `--upstream`."""
    passed_on: tuple[str, ...]
    """Everything else, for mitmproxy."""
    options: Mapping[str, str]
    """Every mitmproxy option that the command line sets to a value, by its name."""


_LONG = {
    "--mode": "mode",
    "--listen-port": "listen_port",
    "--listen-host": "listen_host",
    "--web-port": "web_port",
    "--web-host": "web_host",
}
_SHORT = {"-m": "mode", "-p": "listen_port"}


def read_arguments(arguments: Sequence[str]) -> Arguments:
    """Take `--upstream` out of `arguments`, and see which of mitmproxy's options the rest sets.

    Raises SettingsError: for an `--upstream` without a value.
    """
    upstream: str | None = None
    passed_on: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--upstream":
            upstream = next(waiting, None)
            if upstream is None:
                raise SettingsError("--upstream: a URL must follow, as in --upstream https://sol.blockrun.ai")
        elif argument.startswith("--upstream="):
            upstream = argument.partition("=")[2]
        else:
            passed_on.append(argument)
    return Arguments(upstream, tuple(passed_on), dict(_options_in(passed_on)))


def _options_in(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, equals, value = argument.partition("=")
        # argparse takes any unambiguous beginning of a long option.
        long = next((name for name in (*_LONG, "--set") if len(flag) > 3 and name.startswith(flag)), None)
        if long == "--set":
            name, _, value = (value if equals else following).partition("=")
            yield name, value
        elif long is not None:
            yield _LONG[long], value if equals else following
        elif argument[:2] in _SHORT and not argument.startswith("--"):
            yield _SHORT[argument[:2]], argument[2:].removeprefix("=") or following


def gateway_for(wallets: Wallets) -> str:
    """The gateway that `wallets` can pay."""
    return BASE_GATEWAY if wallets.svm is None and wallets.evm is not None else SOLANA_GATEWAY


def check_upstream(given: str) -> str:
    """`given` as mitmproxy's reverse mode wants it. Raises SettingsError: for one that cannot be paid safely."""
    try:
        parts = urlsplit(given)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if "@" in given:
        raise SettingsError("the upstream must not hold a user name or a password: mitmproxy has no use for them")
    if (
        not host
        or parts.scheme not in {"http", "https"}
        or parts.path not in {"", "/"}
        or parts.query
        or parts.fragment
    ):
        raise SettingsError(
            f"the upstream {given!r:.80} is not a gateway's URL: expected https://HOST or https://HOST:PORT. "
            "A path belongs into the client's base URL."
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise SettingsError(
            f"the upstream {given!r:.80} is not encrypted: anyone on the way could set prices and take payments. "
            "Use https; http is for loopback only."
        )
    return given.rstrip("/")


def mitmproxy_arguments(door: Path, upstream: str | None, given: Arguments, configured: Mapping[str, str]) -> list[str]:
    """The command line for mitmproxy, where neither the user's own (`given`) nor mitmproxy's file says otherwise."""
    ours = ["-s", str(door)]
    if "mode" not in given.options and upstream is not None:
        ours += ["--mode", f"reverse:{upstream}"]
    if "listen_port" not in given.options:
        ours += ["--listen-port", str(PORT)]
    # The addon sees to these by itself, but only once the port is open already.
    if "listen_host" not in {*given.options, *configured}:
        ours += ["--listen-host", "127.0.0.1"]
    return [*ours, *given.passed_on]


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def serve(tool: str, arguments: Sequence[str], *, door: Path, program: str) -> int:
    """Run `tool` of mitmproxy until it ends; returns its exit code. Raises X402Error: for what stops the start."""
    given = read_arguments(arguments)
    if "--options" in given.passed_on:
        return _list_options(tool, given.passed_on)
    if any(question in given.passed_on for question in QUESTIONS):
        return run_tool(tool, ["-s", str(door), *given.passed_on])
    configured = configured_options(given.options.get("confdir"))
    named = given.upstream or os.environ.get("X402_UPSTREAM") or None
    upstream = None
    if "mode" not in given.options:
        if named is not None:
            upstream = check_upstream(named)
        wallets = find_wallets({**configured, **given.options}, program)
        upstream = upstream or gateway_for(wallets)
    elif given.upstream is not None:
        raise SettingsError("--upstream and --mode both say where requests go; keep one")
    _check_port({**configured, **given.options}, program)
    if tool == "mitmweb":
        _check_web_port(given.options, program)
    return run_tool(tool, mitmproxy_arguments(door, upstream, given, configured))


def find_wallets(options: Mapping[str, str], program: str) -> Wallets:
    """The wallets that the addon will find. Raises SettingsError: when there is none to pay with, with what to do."""
    home = Path.home()
    ours = {option.name: options.get(option.name, "") for option in OPTIONS}
    settings = read_settings(ours, os.environ, cwd=Path.cwd(), home=home)
    wallets = payer.find_wallets(settings, os.environ, home)
    if wallets.evm is None and wallets.svm is None and not settings.dry_run:
        raise SettingsError(NO_WALLET.format(svm=SVM_VARIABLE, evm=EVM_VARIABLE, program=program))
    return wallets


def configured_options(confdir: str | None) -> dict[str, str]:
    """The options with a text value in mitmproxy's own config file."""
    from .hosting import file_options  # noqa: PLC0415  (imports mitmproxy, which only the real start needs)

    options = file_options(confdir or "~/.mitmproxy")
    return {name: value for name, value in options.items() if isinstance(value, str)}


def _check_port(options: Mapping[str, str], program: str) -> None:
    port = options.get("listen_port", str(PORT))
    host = options.get("listen_host") or "127.0.0.1"
    if port.isascii() and port.isdigit() and 0 < int(port) < 65536 and not port_is_free(host, int(port)):
        raise SettingsError(
            f"port {port} of {host} is taken or not ours to take; perhaps a proxy is running already. "
            f"Another port: {program} -p {int(port) + 1}"
        )


def _check_web_port(options: Mapping[str, str], program: str) -> None:
    """mitmweb itself ends with a traceback."""
    from .hosting import file_options  # noqa: PLC0415  (imports mitmproxy, which only the real start needs)

    mine = {**file_options(options.get("confdir", "~/.mitmproxy")), **options}
    host, port = str(mine.get("web_host", "127.0.0.1")), str(mine.get("web_port", WEB_PORT))
    if port.isascii() and port.isdigit() and 0 < int(port) < 65536 and not port_is_free(host, int(port)):
        raise SettingsError(
            f"port {port} of {host}, for mitmweb's page, is taken or not ours to take; perhaps another mitmweb is "
            f"running. Another port: {program} web --web-port {int(port) + 1}"
        )


def run_tool(tool: str, arguments: Sequence[str]) -> int:
    """Hand the process over to mitmproxy: from here on Ctrl-C, output and exit code are its own."""
    sys.argv = [tool, *arguments]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log that is piped is read while it grows
    logging.getLogger("asyncio").addFilter(_says_something)
    from mitmproxy.tools import main  # noqa: PLC0415  (slow to import)

    from . import hosting  # noqa: PLC0415  (the same)

    hosting.own_process = True
    tools = {"mitmdump": main.mitmdump, "mitmweb": main.mitmweb, "mitmproxy": main.mitmproxy}
    return tools[tool](list(arguments)) or 0


def _says_something(record: logging.LogRecord) -> bool:
    """At the end every connection that is open may say that it was cancelled, or that it has not ended."""
    if record.getMessage().startswith("Task was destroyed but it is pending!"):
        return False
    return not record.exc_info or record.exc_info[0] is not asyncio.CancelledError  # asyncio itself passes False


def _list_options(tool: str, arguments: Sequence[str]) -> int:
    """mitmproxy's options, then ours in the same form: mitmproxy 11 does not load scripts for its list."""
    try:
        run_tool(tool, arguments)
    except SystemExit as ended:
        if ended.code:
            raise
    from mitmproxy import optmanager  # noqa: PLC0415  (slow to import)

    ours = optmanager.OptManager()
    for option in OPTIONS:
        ours.add_option(option.name, str, option.default, option.help)
    optmanager.dump_defaults(ours, sys.stdout)
    return 0
