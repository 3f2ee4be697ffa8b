"""The verbs `env` and `run`: print, or set for a program, the variables that point a client at the proxy."""

from __future__ import annotations

import http.client
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..command_line import PORT, configured_options, read_arguments
from ..errors import SettingsError
from ..machine.program import program

TOKEN_VARIABLE = "X402_CLIENT_TOKEN"
HEALTH_SECONDS = 3
_VALUED = ("-p", "--listen-port", "--set")
"""Arguments whose value is the next argument."""
_TAKEN = ("-p", "--listen-port=", "--set=")
"""Beginnings of arguments that hold their value themselves, as in `-p4402`."""
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")

CODEX = """\
{model}model_provider = "x402"

[model_providers.x402]
name = "x402"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "PROXY_KEY"
"""
"""Codex's configuration in ~/.codex/config.toml; its `-c` options set the same keys."""


def variables(url: str, key: str) -> Mapping[str, Mapping[str, str]]:
    """The environment variables of each client; `key` is what it presents as its API key."""
    return {
        "codex": {"PROXY_KEY": key},
        # With ANTHROPIC_API_KEY Claude Code asks whether to use it, and its recommended answer is no.
        "claude": {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": key},
        "openai": {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key},
        "anthropic": {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": key},
        "google": {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": key},
    }


def print_env(arguments: Sequence[str], program: str) -> int:
    """Print the lines for one client. Raises SettingsError: the command line names no known client."""
    given = _read(arguments)
    known = variables(given.url, f"${TOKEN_VARIABLE}" if os.environ.get(TOKEN_VARIABLE) else "any")
    if given.client not in known:
        what = f"{given.client!r:.40} is none" if given.client else "name one"
        raise SettingsError(f"env: {what} of {', '.join(known)}, as in {program} env claude")
    if given.toml:
        if given.client != "codex":
            raise SettingsError(f"env: --toml prints a file of Codex's; {given.client} reads variables only")
        model = f'model = "{given.model}"' if given.model else f'model = "MODEL"  # one of: curl {given.url}/v1/models'
        sys.stdout.write(CODEX.format(url=given.url, model=f"{model}\n"))
        return 0
    sys.stdout.write("\n".join(_lines(given, known[given.client])) + "\n")
    sys.stdout.flush()
    # Not on stdout: zsh takes no comments where a person types, and `eval` there takes none either.
    sys.stderr.write("".join(f"{hint}\n" for hint in _hints(given, program)))
    return 0


@dataclass(frozen=True)
class _Given:
    """The command line of `env`."""

    client: str
    model: str
    toml: bool
    url: str
    """Where the proxy listens."""
    at: str
    """The `-p` argument for that URL; empty: the default port."""


def _read(arguments: Sequence[str]) -> _Given:
    """Parse the command line of `env`. Raises SettingsError."""
    clients, model, rest, toml = [], "", [], False
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--model":
            model = next(waiting, "")
        elif argument.startswith("--model="):
            model = argument.partition("=")[2]
        elif argument == "--toml":
            toml = True
        elif argument in ("-p", "--listen-port") or argument == "--set":
            rest += [argument, next(waiting, "")]
        elif argument.startswith(_TAKEN):
            rest.append(argument)
        elif argument.startswith("-"):
            raise SettingsError(f"env: {argument!r:.60} is not expected. See {program()} env --help.")
        else:
            clients.append(argument)
            continue
        if argument.startswith("--model") and not _MODEL.fullmatch(model):
            raise SettingsError(f"env: --model {model!r:.60}: expected the name of a model")
    if model and clients and clients[0] not in ("codex", "claude"):
        raise SettingsError(f"env: --model is for codex and claude; {clients[0]:.40} is told its model by your program")
    if len(clients) > 1:
        raise SettingsError(f"env: one client at a time, not {' and '.join(clients):.60}")
    options = read_arguments(rest).options
    at = f" -p {options['listen_port']}" if "listen_port" in options else ""
    return _Given(clients[0] if clients else "", model, toml, _url(options), at)


def _lines(given: _Given, values: Mapping[str, str]) -> list[str]:
    """The lines for a shell: variables, and a function for what the client does not read from variables."""
    lines = [f"export {name}={_quoted(value)}" for name, value in values.items()]
    if given.client == "claude":
        lines.insert(0, "unset ANTHROPIC_API_KEY")
        lines += [f"export ANTHROPIC_MODEL={shlex.quote(given.model)}"] if given.model else []
    if given.client == "codex":
        options = codex_options(given.url) + (["-c", f'model="{given.model}"'] if given.model else [])
        lines.append(f'codex() {{ command codex {shlex.join(options)} "$@"; }}')
    return lines


def _hints(given: _Given, program: str) -> list[str]:
    """Hints for the user, which are printed on stderr."""
    hints = []
    if given.client == "codex":
        hints.append(f"The same as lines for ~/.codex/config.toml: {program} env codex --toml{given.at}")
    if given.client in ("claude", "codex") and not given.model:
        flag = "--model" if given.client == "claude" else "-m"
        hints.append(f"Then run: {given.client} {flag} MODEL (curl {given.url}/v1/models lists the models)")
    return hints


def run_client(arguments: Sequence[str], program: str) -> int:
    """Run the program after `--` in place of this process, with variables that point every client at the proxy.

    Raises SettingsError: there is no program, or no proxy answers.
    """
    if "--" not in arguments:
        raise SettingsError(f"run: put -- and the client at the end, as in {program} run -- claude")
    at = list(arguments).index("--")
    ours, command = arguments[:at], list(arguments[at + 1 :])
    for argument, before in zip(ours, ["", *ours], strict=False):
        if before not in _VALUED and argument not in _VALUED and not argument.startswith(_TAKEN):
            raise SettingsError(f"run: {argument!r:.60} is not expected before --. See {program} run --help.")
    url = _url(read_arguments(ours).options)
    found = shutil.which(command[0]) if command else None
    if found is None:
        which = f"there is no program {command[0]!r:.60}" if command else "a program must follow --"
        raise SettingsError(f"run: {which}")
    _see_that_it_runs(url, program)
    environ = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    for client in ("codex", "openai", "google", "claude"):
        environ |= variables(url, os.environ.get(TOKEN_VARIABLE) or "any")[client]
    environ["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY", ""), "127.0.0.1,localhost"]))
    if Path(command[0]).name == "codex":
        command[1:1] = codex_options(url)
    sys.stdout.flush()
    os.execve(found, command, environ)  # noqa: S606  (no shell is wanted)


def codex_options(url: str) -> list[str]:
    """Options of Codex's command line that set its provider; they override its file."""
    provider = f'{{name="x402", base_url="{url}/v1", wire_api="responses", env_key="PROXY_KEY"}}'
    return ["-c", 'model_provider="x402"', "-c", f"model_providers.x402={provider}"]


def _url(options: Mapping[str, str]) -> str:
    """Where the proxy of these options listens. Raises SettingsError."""
    port = {**configured_options(options.get("confdir")), **options}.get("listen_port", str(PORT))
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SettingsError(f"-p {port!r:.40}: expected a port from 1 to 65535")
    return f"http://127.0.0.1:{int(port)}"


def _see_that_it_runs(url: str, program: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=HEALTH_SECONDS)
    try:
        connection.request("GET", "/x402/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException):
        raise SettingsError(f"run: no proxy answers at {url}. Start it in another terminal: {program}") from None
    finally:
        connection.close()
    if status != 200:
        raise SettingsError(f"run: what answers at {url} is not a proxy that is ready (status {status}); see its log.")


def _quoted(value: str) -> str:
    return f'"{value}"' if value.startswith("$") else shlex.quote(value)
