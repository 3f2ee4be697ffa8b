"""Starts mitmdump, mitmweb or mitmproxy with the addon, in front of a gateway that the wallet can pay."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..command_line import (
    PORT,
    WEB_PORT,
    Arguments,
    check_upstream,
    configured_options,
    gateway_for,
    port_is_free,
    read_arguments,
)
from ..errors import SettingsError
from ..payment import payer
from ..settings.options import OPTIONS
from ..settings.settings import read_settings
from ..wallet.sources import Wallets

QUESTIONS = ("--commands", "--version")
"""Arguments that make mitmproxy print something and end: they need neither wallet nor port."""


def mitmproxy_arguments(
    script_path: Path, upstreams: Sequence[str], given: Arguments, configured: Mapping[str, str]
) -> list[str]:
    """The command line for mitmproxy: our defaults, unless the user's own (`given`) or mitmproxy's file says otherwise.

    Each of several upstreams gets a port of its own, in a row.
    """
    ours = ["-s", str(script_path)]
    first = given.options.get("listen_port") or configured.get("listen_port") or str(PORT)
    for number, upstream in enumerate(upstreams):
        ours += ["--mode", f"reverse:{upstream}" + (f"@{int(first) + number}" if len(upstreams) > 1 else "")]
    if "listen_port" not in given.options:
        ours += ["--listen-port", str(PORT)]
    # The addon sets this by itself, but on some versions of Python only once the port is open.
    if "listen_host" not in {*given.options, *configured}:
        ours += ["--listen-host", "127.0.0.1"]
    return [*ours, *given.passed_on]


def serve(tool: str, arguments: Sequence[str], *, script_path: Path, program: str) -> int:
    """Run `tool` of mitmproxy until it ends; returns its exit code. Raises X402Error: it cannot be started."""
    given = read_arguments(arguments)
    if "--options" in given.passed_on:
        return _list_options(tool, given.passed_on)
    if any(question in given.passed_on for question in QUESTIONS):
        return run_tool(tool, ["-s", str(script_path), *given.passed_on])
    configured = configured_options(given.options.get("confdir"))
    upstreams: list[str] = []
    if "mode" not in given.options:
        named = given.upstreams or tuple(filter(None, [os.environ.get("X402_UPSTREAM")]))
        upstreams = [check_upstream(each) for each in named]
        wallets = find_wallets({**configured, **given.options})
        upstreams = upstreams or [gateway_for(wallets)]
    elif given.upstreams:
        raise SettingsError("--upstream and --mode both say where requests go: leave one of them out")
    _check_ports({**configured, **given.options}, max(len(upstreams), 1), program)
    if tool == "mitmweb":
        _check_web_login()
        _check_web_port(given.options, program)
    return run_tool(tool, mitmproxy_arguments(script_path, upstreams, given, configured))


def find_wallets(options: Mapping[str, str]) -> Wallets:
    """The wallets that the addon will find, perhaps none. Raises SettingsError."""
    home = Path.home()
    ours = {option.name: options.get(option.name, "") for option in OPTIONS}
    settings = read_settings(ours, os.environ, cwd=Path.cwd(), home=home)
    return payer.find_wallets(settings, os.environ, home)


def _check_ports(options: Mapping[str, str], count: int, program: str) -> None:
    """Raises SettingsError if one of `count` ports in a row cannot be opened."""
    first = options.get("listen_port", str(PORT))
    host = options.get("listen_host") or "127.0.0.1"
    if not (first.isascii() and first.isdigit()):
        return  # mitmproxy says what it expects
    for port in range(int(first), int(first) + count):
        if 0 < port < 65536 and not port_is_free(host, port):
            raise SettingsError(
                f"port {port} on {host} is in use, or may not be used; perhaps a proxy is running already. "
                f"To use another port: {program} -p {port + 1}"
            )


def _check_web_login() -> None:
    """Raises SettingsError if mitmweb's page has no login: every user of the machine could open it."""
    from mitmproxy import version  # noqa: PLC0415  (slow to import)

    if int(version.VERSION.partition(".")[0]) < 12:
        raise SettingsError(
            f"mitmweb {version.VERSION} has no login, so every user and program of this machine could read the "
            "requests and change options beside the key. Use Python 3.12 or later, whose mitmproxy has one, as in "
            "X402_PYTHON=python3.12; or run without the page."
        )


def _check_web_port(options: Mapping[str, str], program: str) -> None:
    """Raises SettingsError if mitmweb's port is in use; mitmweb itself would end with a traceback."""
    from ..proxy.startup.mitmproxy_defaults import file_options  # noqa: PLC0415  (imports mitmproxy, which only the real start needs)

    mine = {**file_options(options.get("confdir", "~/.mitmproxy")), **options}
    host, port = str(mine.get("web_host", "127.0.0.1")), str(mine.get("web_port", WEB_PORT))
    if port.isascii() and port.isdigit() and 0 < int(port) < 65536 and not port_is_free(host, int(port)):
        raise SettingsError(
            f"port {port} on {host}, for mitmweb's page, is in use, or may not be used; perhaps another mitmweb is "
            f"running. To use another port: {program} web --web-port {int(port) + 1}"
        )


def run_tool(tool: str, arguments: Sequence[str]) -> int:
    """Run mitmproxy in this process: Ctrl-C, output and exit code are its own."""
    sys.argv = [tool, *arguments]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log that is piped is read while it grows
    logging.getLogger("asyncio").addFilter(_says_something)
    from mitmproxy.tools import main  # noqa: PLC0415  (slow to import)

    from ..proxy.startup import mitmproxy_defaults  # noqa: PLC0415  (the same)

    mitmproxy_defaults.own_process = True
    tools = {"mitmdump": main.mitmdump, "mitmweb": main.mitmweb, "mitmproxy": main.mitmproxy}
    return tools[tool](list(arguments)) or 0


def _says_something(record: logging.LogRecord) -> bool:
    """Filters out what asyncio logs at the end about every open connection."""
    if record.getMessage().startswith("Task was destroyed but it is pending!"):
        return False
    return not record.exc_info or record.exc_info[0] is not asyncio.CancelledError  # asyncio itself passes False


def _list_options(tool: str, arguments: Sequence[str]) -> int:
    """Print mitmproxy's options, then ours in the same form: mitmproxy 11 loads no scripts for its list."""
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
