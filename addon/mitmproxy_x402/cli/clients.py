"""The verbs `env` and `run`: print, or set for a program, the variables that point a client at the proxy."""

from __future__ import annotations

import http.client
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..command_line import PORT, configured_options, read_arguments
from ..errors import SettingsError

TOKEN_VARIABLE = "X402_CLIENT_TOKEN"
HEALTH_SECONDS = 3

CODEX = """\
# ~/.codex/config.toml
model_provider = "x402"

[model_providers.x402]
name = "x402"
base_url = "{url}/v1"
wire_api = "responses"
env_key = "PROXY_KEY"
"""
"""Codex takes its provider from a file, or from `-c` options of the same meaning."""


def variables(url: str, key: str) -> Mapping[str, Mapping[str, str]]:
    """What each client reads: names and values, `key` being what it presents as its API key."""
    return {
        "codex": {"PROXY_KEY": key},
        # With ANTHROPIC_API_KEY Claude Code asks whether to use it, and its recommended answer is no.
        "claude": {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": key},
        "openai": {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": key},
        "anthropic": {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": key},
        "google": {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": key},
    }


def print_env(arguments: Sequence[str], program: str) -> int:
    """Print the lines for one client. Raises SettingsError: for a client that is not known."""
    given = read_arguments(arguments)
    names = [argument for argument in given.passed_on if not argument.startswith("-") and not argument.isdigit()]
    url = _url(given.options)
    known = variables(url, f"${TOKEN_VARIABLE}" if os.environ.get(TOKEN_VARIABLE) else "any")
    if len(names) != 1 or names[0] not in known:
        raise SettingsError(f"env: name one client of {', '.join(known)}, as in {program} env claude")
    lines = [f"export {name}={_quoted(value)}" for name, value in known[names[0]].items()]
    if names[0] == "claude":
        lines.insert(0, "unset ANTHROPIC_API_KEY")
    if names[0] == "codex":
        lines.append("".join(f"# {line}\n" for line in CODEX.format(url=url).splitlines()).rstrip())
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def run_client(arguments: Sequence[str], program: str) -> int:
    """Become the program behind `--`, with the variables of every client set.

    Raises SettingsError: there is no program, or no proxy answers.
    """
    if "--" not in arguments:
        raise SettingsError(f"run: put the client behind --, as in {program} run -- claude")
    at = list(arguments).index("--")
    ours, command = arguments[:at], list(arguments[at + 1 :])
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
    """The provider as options of Codex's command line, whatever its file says."""
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
        raise SettingsError(f"run: what answers at {url} is no proxy that is ready (status {status}); see its log.")


def _quoted(value: str) -> str:
    return f'"{value}"' if value.startswith("$") else shlex.quote(value)
