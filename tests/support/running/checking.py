"""The verb `check`, in a home folder of its own."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from mitmproxy_x402.cli import main as cli
from support.chains.json_rpc import HUSH
from support.proxy import EVM_KEY


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """A home of its own, and `check` as a user types it."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        for name in [n for n in os.environ if n.startswith(("X402_", "XDG_", "SOLANA_", "BLOCKRUN_", "BASE_CHAIN"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.chdir(home)
        self.home, self.environ, self._capsys = home, monkeypatch.setenv, capsys
        self.ledger = home / ".local" / "state" / "mitmproxy-x402" / "ledger.sqlite3"

    def check(self, *arguments: str) -> tuple[int, dict[str, str], str]:
        """The exit code, the lines by subject (the last of each), and everything that was printed."""
        code = cli.main(["check", "-p", str(free_port()), *arguments])
        said = self._capsys.readouterr()
        lines = [line for line in said.out.splitlines() if line[:7] in ("ok     ", "TO DO  ", "-      ")]
        assert code == (1 if said.err or any(line.startswith("TO DO") for line in lines) else 0)
        assert HUSH not in said.out + said.err
        assert EVM_KEY.removeprefix("0x") not in said.out + said.err
        return code, {line[7:19].strip(): line[:7].strip() + ": " + line[19:] for line in lines}, said.out + said.err
