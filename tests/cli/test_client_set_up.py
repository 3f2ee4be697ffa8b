"""`env` and `run`: a client that is started with them talks to the proxy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import tomli

from support.running import warm
from support.wire import free_port

COMMAND = warm.VERB


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/x402/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxy() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], **more}
    return warm.run([*COMMAND, *arguments], environ, home)


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("claude", {"ANTHROPIC_BASE_URL": "http://127.0.0.1:4402", "ANTHROPIC_AUTH_TOKEN": "any"}),
        ("openai", {"OPENAI_BASE_URL": "http://127.0.0.1:4402/v1", "OPENAI_API_KEY": "any"}),
        ("anthropic", {"ANTHROPIC_BASE_URL": "http://127.0.0.1:4402", "ANTHROPIC_API_KEY": "any"}),
        ("google", {"GOOGLE_GEMINI_BASE_URL": "http://127.0.0.1:4402", "GEMINI_API_KEY": "any"}),
        ("codex", {"PROXY_KEY": "any"}),
    ],
)
def test_a_shell_takes_the_lines(tmp_path: Path, client: str, expected: dict[str, str]) -> None:
    lines = run(tmp_path, "env", client).stdout
    show = f"import json, os; print(json.dumps({{n: os.environ.get(n) for n in {[*expected, 'ANTHROPIC_API_KEY']!r}}}))"
    script = f'export ANTHROPIC_API_KEY=old\n{lines}\n"{sys.executable}" -c "$1"'
    done = subprocess.run(["sh", "-c", script, "sh", show], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    kept = expected.get("ANTHROPIC_API_KEY", None if client == "claude" else "old")
    assert seen == {"ANTHROPIC_API_KEY": kept, **expected}


def test_codex_in_a_shell_gets_its_provider(tmp_path: Path) -> None:
    codex = tmp_path / "codex"
    codex.write_text(
        f"#!{sys.executable}\nimport json, os, sys; print(json.dumps([os.environ['PROXY_KEY'], *sys.argv[1:]]))\n"
    )
    codex.chmod(0o755)
    lines = run(tmp_path, "env", "codex", "-p", "5000", "--model", "some/model")
    assert "#" not in lines.stdout  # zsh takes no comments where a person types
    path = f"{tmp_path}:{os.environ['PATH']}"
    script = f"{lines.stdout}\ncodex exec 'two words'"
    done = subprocess.run(["sh", "-c", script], env={"PATH": path}, capture_output=True, text=True, check=True)
    key, *arguments = json.loads(done.stdout)
    assert key == "any"
    assert arguments[-2:] == ["exec", "two words"]
    given = tomli.loads("\n".join(arguments[1:-2:2]))
    assert given["model"] == "some/model"
    provider = given["model_providers"]["x402"]
    assert provider["base_url"] == "http://127.0.0.1:5000/v1"
    file = tomli.loads(run(tmp_path, "env", "codex", "-p", "5000", "--model", "some/model", "--toml").stdout)
    assert file == given
    assert tomli.loads(run(tmp_path, "env", "codex", "--toml").stdout)["model"] == "MODEL"


def test_another_port_and_the_client_token(tmp_path: Path) -> None:
    lines = run(tmp_path, "env", "openai", "-p", "5000", X402_CLIENT_TOKEN="long-secret").stdout
    assert "http://127.0.0.1:5000/v1" in lines
    assert "long-secret" not in lines
    assert 'OPENAI_API_KEY="$X402_CLIENT_TOKEN"' in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name one of codex, claude, openai"),
        (("nobody",), "'nobody' is none of codex, claude, openai"),
        (("claude", "codex"), "one client at a time"),
        (("claude", "--model"), "expected the name of a model"),
        (("codex", "--model", "a'; rm -rf ~"), "expected the name of a model"),
        (("claude", "--prot", "1"), "'--prot' is not expected. See"),
        (("openai", "--model", "m"), "--model is for codex and claude"),
        (("claude", "--toml"), "--toml prints a file of Codex's"),
    ],
)
def test_what_env_does_not_know(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    answer = run(tmp_path, "env", *arguments)
    assert answer.returncode == 1
    assert said in answer.stderr
    assert not answer.stdout


SHOW = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]])); sys.exit(7)"


def test_a_client_is_started(tmp_path: Path) -> None:
    with proxy() as port:
        answer = run(
            tmp_path, "run", "-p", str(port), "--", sys.executable, "-c", SHOW, "--help", ANTHROPIC_API_KEY="old"
        )
    environ, arguments = json.loads(answer.stdout)
    assert answer.returncode == 7  # the client's own
    assert arguments == ["--help"]
    assert environ["ANTHROPIC_BASE_URL"] == f"http://127.0.0.1:{port}"
    assert environ["OPENAI_BASE_URL"] == f"http://127.0.0.1:{port}/v1"
    assert environ["ANTHROPIC_AUTH_TOKEN"] == "any"
    assert "ANTHROPIC_API_KEY" not in environ
    assert "127.0.0.1" in environ["NO_PROXY"]


def test_codex_gets_its_provider(tmp_path: Path) -> None:
    codex = tmp_path / "codex"
    codex.write_text(f"#!{sys.executable}\nimport json, sys; print(json.dumps(sys.argv[1:]))\n")
    codex.chmod(0o755)
    with proxy() as port:
        answer = run(tmp_path, "run", "-p", str(port), "--", str(codex), "exec", "hello")
    arguments = json.loads(answer.stdout)
    assert arguments[-2:] == ["exec", "hello"]
    assert f'base_url="http://127.0.0.1:{port}/v1"' in arguments[3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("claude",), "put -- and the client at the end"),
        (("--",), "a program must follow"),
        (("--", "no-such-program"), "there is no program 'no-such-program'"),
        (("-p", "0", "--", "sh"), "expected a port"),
        (("--prot", "4402", "--", "sh"), "'--prot' is not expected before --"),
        (("4402", "--", "sh"), "'4402' is not expected before --"),
    ],
)
def test_what_cannot_be_run(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    answer = run(tmp_path, "run", *arguments)
    assert answer.returncode == 1
    assert said in answer.stderr


def test_no_proxy_runs(tmp_path: Path) -> None:
    answer = run(tmp_path, "run", "-p", str(free_port()), "--", "sh", "-c", "echo started")
    assert answer.returncode == 1
    assert "no proxy answers" in answer.stderr
    assert "started" not in answer.stdout
