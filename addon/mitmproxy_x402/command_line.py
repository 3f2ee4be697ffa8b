"""Reads upstream, ports and options from the user's command line for mitmproxy, and checks them; for `cli` and `check`.

The addon uses its default port, and its warning of an upstream that the wallet cannot pay.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .errors import SettingsError
from .gateways.blockrun import BASE_GATEWAY, SOLANA_GATEWAY
from .protocol.networks import Family
from .settings.options import OPTIONS
from .settings.suggest import is_like_ours, unknown_options
from .settings.values import is_loopback
from .wallet.sources import EVM_VARIABLE, SVM_VARIABLE, Wallets

PORT = 4402
CONFIG_FILES = ("config.yaml", "config.yml")
"""The names that mitmproxy's own file of options may have, in its configuration folder."""

WEB_PORT = 8081
"""The port of mitmweb's page where nobody sets one: mitmproxy's default."""


_PAID_ON: Mapping[str, Family] = {SOLANA_GATEWAY: "svm", BASE_GATEWAY: "evm"}


@dataclass(frozen=True)
class Arguments:
    """The user's command line, and the parts of it that our defaults depend on."""

    upstreams: tuple[str, ...]
    """The values of `--upstream`, which may be repeated."""
    passed_on: tuple[str, ...]
    """All other arguments, which are passed on to mitmproxy."""
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
    """Extract `--upstream` from `arguments`, and note which of mitmproxy's options the rest sets.

    Raises SettingsError: an `--upstream` or an option of ours has no value.
    """
    upstreams: list[str] = []
    passed_on: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--upstream":
            upstream = next(waiting, None)
            if upstream is None:
                raise SettingsError("--upstream: a URL must follow, as in --upstream https://sol.blockrun.ai")
            upstreams.append(upstream)
        elif argument.startswith("--upstream="):
            upstreams.append(argument.partition("=")[2])
        else:
            passed_on.append(argument)
    return Arguments(tuple(upstreams), tuple(passed_on), dict(_options_in(passed_on)))


def _options_in(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, equals, value = argument.partition("=")
        # argparse accepts any unambiguous prefix of a long option.
        long = next((name for name in (*_LONG, "--set") if len(flag) > 3 and name.startswith(flag)), None)
        if long == "--set":
            name, assigned, value = (value if equals else following).partition("=")
            if not assigned and any(option.name == name for option in OPTIONS):
                raise SettingsError(f"--set {name}: a value must follow, as in --set {name}=VALUE")
            yield name, value
        elif long is not None:
            yield _LONG[long], value if equals else following
        elif argument[:2] in _SHORT and not argument.startswith("--"):
            yield _SHORT[argument[:2]], argument[2:].removeprefix("=") or following


def options_set(pairs: Sequence[str], mattering: Sequence[str]) -> dict[str, str]:
    """Options by name, from the values of `--set`. Raises SettingsError: one is neither ours nor among `mattering`."""
    options = dict(read_arguments([part for pair in pairs for part in ("--set", pair)]).options)
    for name in options:
        if any(option.name == name for option in OPTIONS) or name in mattering:
            continue
        if is_like_ours(name):
            raise SettingsError(f"--set: {(unknown_options([name]) or '').rstrip('.')}")
        raise SettingsError(
            f"--set {name:.40}: only options that begin with x402_ matter here, and {', '.join(mattering)}"
        )
    return options


def gateway_for(wallets: Wallets) -> str:
    """The gateway that `wallets` can pay."""
    return BASE_GATEWAY if wallets.svm is None and wallets.evm is not None else SOLANA_GATEWAY


def why_unpayable(upstream: str, wallets: Wallets) -> str:
    """A warning if `upstream` is known to take payment only on networks for which there is no wallet; else empty."""
    paid_on: Family | None = _PAID_ON.get(upstream.rstrip("/").lower())
    if paid_on is None or wallets.for_family(paid_on) is not None or (wallets.evm is None and wallets.svm is None):
        return ""
    wanted, other = (SVM_VARIABLE, BASE_GATEWAY) if paid_on == "svm" else (EVM_VARIABLE, SOLANA_GATEWAY)
    names = {"svm": "Solana", "evm": "Base"}
    return (
        f"{upstream} takes payment on {names[paid_on]}, and the only wallet found pays on "
        f"{names['evm' if paid_on == 'svm' else 'svm']}: it can pay nothing there. Set {wanted}, or use "
        f"--mode reverse:{other}"
    )


def check_upstream(given: str) -> str:
    """`given` in the form that mitmproxy's reverse mode takes. Raises SettingsError: it cannot be paid safely."""
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
            "A path belongs in the client's base URL."
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise SettingsError(
            f"the upstream {given!r:.80} is not encrypted: anyone on the way could set prices and take payments. "
            "Use https; http is for loopback only."
        )
    return given.rstrip("/")


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen on that port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def configured_options(confdir: str | None) -> dict[str, str]:
    """The options with a text value in mitmproxy's own configuration file."""
    folder = Path(confdir or "~/.mitmproxy").expanduser()
    if not any((folder / name).exists() for name in CONFIG_FILES):
        return {}
    from .proxy.startup.mitmproxy_defaults import file_options  # noqa: PLC0415  (imports mitmproxy, which only the real start needs)

    options = file_options(str(folder))
    return {name: value for name, value in options.items() if isinstance(value, str)}
