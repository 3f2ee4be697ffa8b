"""Without a dependency: one message that names it and the command for this installation, never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tomli
from mitmproxy.io import FlowWriter
from mitmproxy.test import tflow

from mitmproxy_x402.cli import main as cli
from mitmproxy_x402.machine import installation
from mitmproxy_x402.machine.installation import RECOMMENDED, REQUIRED, missing, remedy_for, what_is_wrong
from support import effort

ROOT = Path(__file__).resolve().parents[2]
DOOR = ROOT / "addon/x402.py"


def run(code: str, *without: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a Python that finds the package, but none of the modules `without`."""
    hidden = "".join(f"sys.modules[{module!r}] = None\n" for module in without)
    start = f"import sys\nsys.path.append({str(ROOT / 'addon')!r})\n{hidden}"
    return subprocess.run(
        [sys.executable, "-I", "-c", start + code],
        cwd=cwd,
        env={"HOME": str(cwd), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_tables_are_what_the_project_declares() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {text.partition(" ;")[0] for text in project["dependencies"]}
    assert declared == {*REQUIRED, *RECOMMENDED}


def test_nothing_is_wrong_with_the_environment_of_the_tests() -> None:
    assert (missing(), missing(RECOMMENDED), what_is_wrong()) == ([], [], None)


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb not in cli.NEED_NOTHING])
@pytest.mark.parametrize("module", effort.chosen(REQUIRED.values(), "eth_account"))
def test_every_verb_says_the_same_of_what_is_missing(verb: str, module: str, tmp_path: Path) -> None:
    ended = run(f"from mitmproxy_x402.cli.main import main; sys.exit(main([{verb!r}]))", module, cwd=tmp_path)
    package = {"eth_account": "eth-account"}.get(module, module)
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert f"{package} is not installed" in line or f"{package} cannot be imported" in line
    assert f"{sys.executable} -m pip install" in line


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["--version"], ["path"]])
def test_what_needs_nothing(arguments: list[str], tmp_path: Path) -> None:
    code = f"from mitmproxy_x402.cli.main import main; sys.exit(main({arguments!r}))"
    ended = run(code, *REQUIRED.values(), cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


class TestFixtures:
    """`pip install --no-deps` is enough for them; called either way, they do the same."""

    CALLS = (
        "from mitmproxy_x402.cli.main import main; sys.exit(main(['fixtures', *{!r}]))",
        "from mitmproxy_x402.fixtures.__main__ import main; sys.exit(main({!r}, 'mitmproxy-x402 fixtures'))",
    )
    RECORDING = str(ROOT / "tests/recordings/chat-tool")
    HIDDEN = (*REQUIRED.values(), "h11")

    def both(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        one, other = (run(call.format(arguments), *self.HIDDEN, cwd=cwd) for call in self.CALLS)
        assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)
        return one

    @pytest.mark.parametrize(
        "arguments",
        [("--help",), ("show", RECORDING), ("show", "--html", "-", RECORDING), ("diff", RECORDING, RECORDING)],
    )
    def test_what_needs_nothing_more(self, arguments: tuple[str, ...], tmp_path: Path) -> None:
        ended = self.both(*arguments, cwd=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")

    def test_the_server_needs_h11(self, tmp_path: Path) -> None:
        ended = self.both("serve", "--port", "0", self.RECORDING, cwd=tmp_path)
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert "h11 is needed for that" in line
        assert line.endswith(f"{sys.executable} -m pip install 'h11>=0.14'")

    def test_flow_files_need_mitmproxy(self, tmp_path: Path) -> None:
        with (tmp_path / "flows.mitm").open("wb") as file:
            FlowWriter(file).add(tflow.tflow(resp=True))
        ended = self.both("show", "flows.mitm", cwd=tmp_path)
        assert ended.returncode == 1
        (line,) = ended.stderr.splitlines()
        assert "mitmproxy is needed for that" in line
        assert line.endswith(f"{sys.executable} -m pip install 'mitmproxy>=11.0.2'")


@pytest.mark.parametrize("tool", effort.chosen(["mitmdump", "mitmweb"], "mitmdump"))
@pytest.mark.parametrize("module", ["eth_account", "solders", "tomli", "eth_hash"])
def test_the_door_ends_a_mitmproxy_that_starts(tool: str, module: str, tmp_path: Path) -> None:
    more = ["--no-web-open-browser", "--web-port", "0"] if tool == "mitmweb" else []
    arguments = ["-q", "-s", str(DOOR), "-p", "0", "--mode", "reverse:http://127.0.0.1:9", *more]
    ended = run(f"from mitmproxy.tools.main import {tool}; {tool}({arguments!r})", module, cwd=tmp_path)
    assert ended.returncode == 1
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert line.startswith("mitmproxy-x402: ")
    assert f"{sys.executable} -m pip install" in line


@pytest.mark.parametrize("module", ["eth_hash.auto", "somebody_elses", "mitmproxy_x402.nowhere"])
def test_no_name_is_advised_that_is_not_in_the_tables(module: str) -> None:
    """A module's name may be another one's package on the index."""
    said = installation.cannot_be_imported(ModuleNotFoundError(f"No module named {module!r}", name=module))
    _, _, advised = said.rpartition("pip install ")
    if module.startswith("mitmproxy_x402"):
        assert "pip install" not in said
        assert "incomplete" in said
    else:
        assert advised.replace("'", "").split() == [*REQUIRED]


def test_a_door_without_its_house(tmp_path: Path) -> None:
    door = tmp_path / "x402.py"
    door.write_text(DOOR.read_text())
    code = f"from mitmproxy.tools.main import mitmdump; mitmdump(['-q', '-s', {str(door)!r}, '-p', '0'])"
    ended = run(code, "mitmproxy_x402", cwd=tmp_path)
    assert ended.returncode == 1
    (line,) = (ended.stdout + ended.stderr).splitlines()
    assert f"{door} stands alone" in line


class TestRemedies:
    """By what each installer leaves in its environment."""

    WANTED = ("eth-account>=0.13", "solders>=0.27")
    QUOTED = "'eth-account>=0.13' 'solders>=0.27'"
    WITH = "--with 'eth-account>=0.13' --with 'solders>=0.27'"

    def command(self, prefix: Path) -> str:
        return remedy_for(list(self.WANTED), prefix).command

    def test_pipx(self, tmp_path: Path) -> None:
        prefix = tmp_path / "pipx/venvs/mitmproxy"
        prefix.mkdir(parents=True)
        (prefix / "pyvenv.cfg").touch()
        (prefix / "pipx_metadata.json").touch()
        assert self.command(prefix) == f"pipx inject mitmproxy {self.QUOTED}"

    def test_uv_tool_keeps_what_came_with_it(self, tmp_path: Path) -> None:
        prefix = tmp_path / "uv/tools/mitmproxy"
        prefix.mkdir(parents=True)
        (prefix / "pyvenv.cfg").touch()
        (prefix / "uv-receipt.toml").write_text(
            "[tool]\n"
            'requirements = [{ name = "mitmproxy" }, { name = "requests" }]\n'
            'entrypoints = [{ name = "mitmdump", install-path = "/root/.local/bin/mitmdump", from = "mitmproxy" }]\n'
        )
        assert self.command(prefix) == f"uv tool install mitmproxy --with requests {self.WITH}"

    def test_a_virtual_environment(self, tmp_path: Path) -> None:
        (tmp_path / "pyvenv.cfg").touch()
        assert self.command(tmp_path) == f"{sys.executable} -m pip install {self.QUOTED}"

    def test_one_without_pip(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "pyvenv.cfg").touch()
        monkeypatch.delitem(sys.modules, "pip", raising=False)
        monkeypatch.setattr(sys, "path", [])
        assert self.command(tmp_path) == f"uv pip install --python {sys.executable} {self.QUOTED}"

    def test_uvx(self, tmp_path: Path) -> None:
        prefix = tmp_path / "uv/archive-v0/sWT2"
        prefix.mkdir(parents=True)
        (prefix / "pyvenv.cfg").touch()
        assert self.command(prefix).startswith(f"uvx --from mitmproxy {self.WITH} ")

    def test_a_frozen_program_takes_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        remedy = remedy_for(list(self.WANTED), tmp_path)
        assert "takes no packages" in remedy.kind
        assert f"uv tool install mitmproxy {self.WITH}" in remedy.command

    def test_homebrew_takes_none(self, tmp_path: Path) -> None:
        prefix = tmp_path / "Cellar/mitmproxy/12.3.1/libexec"
        prefix.mkdir(parents=True)
        assert f"uv tool install mitmproxy {self.WITH}" in self.command(prefix)

    def test_the_systems_own_python(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "EXTERNALLY-MANAGED").touch()
        monkeypatch.setattr(installation.sysconfig, "get_path", lambda _: str(tmp_path))
        assert f"~/x402/bin/pip install mitmproxy {self.QUOTED}" in self.command(tmp_path)
        (tmp_path / "EXTERNALLY-MANAGED").unlink()
        assert self.command(tmp_path) == f"{sys.executable} -m pip install {self.QUOTED}"
