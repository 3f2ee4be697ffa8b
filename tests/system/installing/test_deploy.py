"""The examples for supervisors: their commands start the real proxy, their health check tells, their stops are soft."""

from __future__ import annotations

import configparser
import itertools
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.settings.settings import read_settings
from support.proxy import EVM_KEY, ROOT
from support.wire import free_port

DEPLOY = ROOT / "docs" / "deploy"
TOKEN = "a-token-of-the-test"


def compose() -> Any:
    return YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text())["services"]["x402"]


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string((DEPLOY / "mitmproxy-x402.service").read_text().replace("\\\n", " "))
    return parser


def unit_command() -> list[str]:
    return shlex.split(unit()["Service"]["ExecStart"])[1:]


def options(command: Sequence[str]) -> dict[str, str]:
    pairs = itertools.pairwise(command)
    return dict(value.split("=", 1) for flag, value in pairs if flag == "--set")


@pytest.mark.parametrize("command", [compose()["command"], unit_command()], ids=["compose", "systemd"])
def test_the_command_pays_for_who_knows_the_token(tmp_path: Path, command: list[str]) -> None:
    secrets = {"evm_key": EVM_KEY, "client_token": TOKEN}
    for name, secret in secrets.items():
        for path in (tmp_path / name, tmp_path / f"x402_{name}"):
            path.write_text(secret)
            path.chmod(0o600)
    port = free_port()
    with Sandbox(SandboxConfig(networks=("base-sepolia",))).run_in_thread() as sandbox:
        changed = [
            re.sub(r"^https://blockrun.ai$", sandbox.url, part)
            .replace("/run/secrets", str(tmp_path))
            .replace("%d", str(tmp_path))
            for part in command
        ]
        changed = [
            str(port) if before == "--listen-port" else part for before, part in itertools.pairwise(["", *changed])
        ]
        more = [] if "--listen-port" in changed else ["--listen-port", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", "mitmproxy_x402", *changed, *more],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "listening at" in line:
                    break
            assert health(port) == 0
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            body = {"model": "sandbox-1", "messages": [{"role": "user", "content": "hi"}]}
            assert httpx.post(url, json=body, timeout=30).status_code == 401
            paid = httpx.post(url, json=body, headers={"authorization": f"Bearer {TOKEN}"}, timeout=30)
            assert paid.status_code == 200
            assert len(sandbox.settled) == 1
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=20)
            assert process.returncode == 0
            assert "1 payment" in rest
            assert health(port) == 1
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "state" / "mitmproxy-x402" / "ledger.sqlite3").exists()


def health(port: int) -> int:
    """What the health check of the container says of the proxy at `port`."""
    kind, _, *arguments = compose()["healthcheck"]["test"]
    assert kind == "CMD"
    command = [sys.executable, *(argument.replace(":4402/", f":{port}/") for argument in arguments)]
    return subprocess.run(command, capture_output=True, check=False).returncode


@pytest.mark.parametrize("command", [compose()["command"], unit_command()], ids=["compose", "systemd"])
def test_supervisors_wait_longer_than_the_proxy(command: list[str], tmp_path: Path) -> None:
    named = {name: value for name, value in options(command).items() if not name.endswith("_file")}
    drain = read_settings(named, {}, cwd=tmp_path, home=tmp_path).drain
    assert int(compose()["stop_grace_period"].removesuffix("s")) > drain
    assert int(unit()["Service"]["TimeoutStopSec"]) > drain


def test_the_container_is_locked_down() -> None:
    service = compose()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "environment" not in service
    ignored = (ROOT / ".gitignore").read_text().split()
    for secret in YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text())["secrets"].values():
        assert f"docs/deploy/{Path(secret['file']).name}" in ignored
