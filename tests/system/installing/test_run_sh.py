"""run.sh: finds a Python that works, knows when nothing is to be installed, and never takes what is not its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tomli
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
RUN_SH = ROOT / "run.sh"
PYTHON = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
VERSION = f"3.{sys.version_info.minor}"


def bash(script: str, *, home: Path, path: str = "/usr/bin:/bin", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `script` with run.sh's functions defined, in an environment that holds nothing else."""
    return subprocess.run(
        ["bash", "-c", f". {RUN_SH}\n{script}"],
        env={"HOME": str(home), "PATH": path, "X402_PROGRAM": "./run.sh", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A directory to be the whole of PATH: the programs that run.sh uses, and no Python."""
    directory = tmp_path / "tools"
    directory.mkdir()
    for name in ("bash", "cat", "cmp", "cp", "dirname", "mkdir", "mv", "rm", "sleep", "tail"):
        found = shutil.which(name)
        assert found is not None
        (directory / name).symlink_to(found)
    return directory


class TestFinding:
    def test_the_version_of_a_working_python(self, home: Path) -> None:
        assert PYTHON.exists()
        assert bash(f"python_version {PYTHON}", home=home).stdout == f"{VERSION}\n"

    @pytest.mark.parametrize(
        "text",
        [
            'echo "pyenv: python3.13: command not found" >&2; exit 127',
            "exit 0",
            "echo 3.12",
            "echo works 3.9",
            "echo works 3.20",
            "echo works 3.130",
            "cat",
        ],
    )
    def test_a_shim_that_only_looks_like_one(self, home: Path, tmp_path: Path, text: str) -> None:
        shim = program(tmp_path / "python3.13", text)
        answer = bash(f"python_version {shim}", home=home)
        assert (answer.returncode, answer.stdout, answer.stderr) == (1, "", "")

    def test_a_python_without_venv_is_none(self, home: Path, tmp_path: Path) -> None:
        """As on a Debian without python3-venv."""
        hidden = "import sys; sys.modules['ensurepip'] = None"
        poor = program(
            tmp_path / "python3.13",
            f'[ "$2" = -c ] && exec {PYTHON} -I -c "{hidden}\n$3"\nexec {PYTHON} "$@"',
        )
        assert bash(f"python_version {poor}", home=home).returncode == 1
        poor.write_text(poor.read_text().replace("ensurepip", "nothing"))
        assert bash(f"python_version {poor}", home=home).stdout == f"{VERSION}\n"

    def test_the_newest_that_works_is_taken(self, home: Path, tools: Path) -> None:
        """A broken shim for the newest on PATH; working ones for others elsewhere."""
        program(tools / "python3.13", "echo pyenv: version not installed >&2; exit 127")
        answers = {"3.12": "echo works 3.12", "3.11": "echo works 3.11"}
        program(tools / "python3.11", answers["3.11"])
        pyenv = program(home / ".pyenv/versions/3.12.7/bin/python3.12", answers["3.12"])
        # What the machine itself has at the usual places is of no concern here.
        script = f'python_candidates() {{ bash_candidates | grep -E "^({tools}|{home})"; }}\nfind_python'
        copy = 'eval "bash_candidates() $(declare -f python_candidates | tail -n +2)"\n'
        answer = bash(copy + script, home=home, path=f"{tools}:/usr/bin:/bin")
        assert answer.stdout == f"{pyenv}\n"
        pyenv.unlink()
        assert bash(copy + script, home=home, path=f"{tools}:/usr/bin:/bin").stdout == f"{tools}/python3.11\n"

    @pytest.mark.parametrize(
        "place",
        [".pyenv/versions/3.13.1/bin", ".local/share/uv/python/cpython-3.13.1-linux-x86_64-gnu/bin", ".local/bin"],
    )
    def test_the_places_that_version_managers_use(self, home: Path, tools: Path, place: str) -> None:
        python = program(home / place / "python3.13", "echo works 3.13")
        assert str(python) in bash("python_candidates", home=home, path=str(tools)).stdout.splitlines()

    def test_places_with_spaces(self, tmp_path: Path, tools: Path) -> None:
        home = tmp_path / "my home"
        python = program(home / ".pyenv/versions/3.13.1/bin/python3.13", "echo works 3.13")
        assert bash("find_python", home=home, path=str(tools)).stdout == f"{python}\n"

    def test_a_plain_python3_of_a_good_version_will_do(self, home: Path, tools: Path) -> None:
        program(tools / "python3", "echo works 3.11")
        script = "python_candidates() { type -aP python3 python; }\nfind_python"
        assert bash(script, home=home, path=str(tools)).stdout == f"{tools}/python3\n"

    def test_none_at_all_says_what_to_do(self, home: Path, tools: Path) -> None:
        answer = bash("python_candidates() { :; }\nfind_python", home=home, path=str(tools))
        assert answer.returncode == 1
        assert "no working Python 3.10 or later was found" in answer.stderr
        assert "X402_PYTHON" in answer.stderr

    def test_why_those_that_are_there_will_not_do(self, home: Path, tmp_path: Path, tools: Path) -> None:
        old = program(tmp_path / "old/python3", f'exec {PYTHON} -I -c "import sys; sys.version_info = (3, 9, 2)\n$3"')
        poor = program(tmp_path / "poor/python3", f"exec {PYTHON} -I -c \"import sys; sys.modules['ssl'] = None\n$3\"")
        gone = program(tmp_path / "gone/python3", "echo pyenv: python3: command not found >&2; exit 127")
        script = f'python_candidates() {{ printf "%s\\n" {old} {poor} {gone}; }}\nfind_python'
        answer = bash(script, home=home, path=str(tools))
        assert answer.returncode == 1
        assert f"{old} is cpython 3.9\n" in answer.stderr
        assert f"{poor} is Python {VERSION} without ssl\n" in answer.stderr
        assert f"{gone} pyenv: python3: command not found\n" in answer.stderr

    def test_a_python_that_was_never_tested_comes_last(self, home: Path, tools: Path) -> None:
        newer = program(tools / "python3.15", "echo works 3.15")
        own = 'eval "all() $(declare -f python_candidates | tail -n +2)"\n'
        own += f'python_candidates() {{ all | grep "^{tools}"; }}\n'
        path = f"{tools}:/usr/bin:/bin"
        assert bash(own + "find_python", home=home, path=path).stdout == f"{newer}\n"
        tested = program(tools / "python3.10", "echo works 3.10")
        assert bash(own + "find_python", home=home, path=path).stdout == f"{tested}\n"

    def test_the_one_that_the_user_names(self, home: Path, tmp_path: Path) -> None:
        assert bash("find_python", home=home, X402_PYTHON=str(PYTHON)).stdout == f"{PYTHON}\n"
        answer = bash("find_python", home=home, X402_PYTHON=str(tmp_path / "nothing"))
        assert answer.returncode == 1
        assert "X402_PYTHON=" in answer.stderr


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock that needs nothing: installing it takes a second and no network."""
    file = tmp_path / "empty.lock"
    file.write_text("# nothing\n")
    return file


class TestInstalling:
    def install(self, venv: Path, lock: Path, home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
        return bash(f'ensure_venv "{venv}" "{lock}"', home=home, **{"X402_PYTHON": str(PYTHON), **environ})

    def test_once_and_then_no_more(self, tmp_path: Path, lock: Path, home: Path) -> None:
        venv = tmp_path / "a venv"
        first = self.install(venv, lock, home)
        assert first.returncode == 0, first.stderr
        assert "this happens once" in first.stderr
        found = subprocess.run(
            [
                venv / "bin/python",
                "-I",
                "-c",
                "import mitmproxy_x402, sys; print(mitmproxy_x402.__file__, sys.path[-1])",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert found[0] == str(ROOT / "addon/mitmproxy_x402/__init__.py")
        # Last: it must hide nothing that is installed.
        assert found[1] == str(ROOT / "addon")
        assert not (tmp_path / "a venv.busy").exists()

        second = self.install(venv, lock, home)
        assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
        assert bash(f'is_ready "{venv}" "{lock}"', home=home, X402_PYTHON=str(PYTHON)).returncode == 0
        assert bash(f'is_ready "{venv}" "{lock}"', home=home).returncode == 0
        assert bash(f'is_ready "{venv}" "{lock}"', home=home, X402_PYTHON="another").returncode == 1
        (venv / "bin/python").unlink()
        assert bash(f'is_ready "{venv}" "{lock}"', home=home).returncode == 1

    @pytest.mark.thorough
    def test_another_lock_or_an_interrupted_installation_begins_anew(
        self, tmp_path: Path, lock: Path, home: Path
    ) -> None:
        venv = tmp_path / "a venv"
        assert self.install(venv, lock, home).returncode == 0
        lock.write_text("# nothing, but otherwise\n")
        assert "this happens once" in self.install(venv, lock, home).stderr
        (venv / "x402-installed.lock").unlink()
        (venv / "left-over").touch()
        assert "this happens once" in self.install(venv, lock, home).stderr
        assert not (venv / "left-over").exists()
        assert bash(f'is_ready "{venv}" "{lock}"', home=home).returncode == 0

    def test_a_hash_that_does_not_fit_stops_it(self, tmp_path: Path, lock: Path, home: Path) -> None:
        wheel = tmp_path / "nothing-1-py3-none-any.whl"
        wheel.write_bytes(b"not what was locked")
        lock.write_text(f"nothing @ {wheel.as_uri()} --hash=sha256:{'0' * 64}\n")
        answer = self.install(tmp_path / "venv", lock, home, PIP_NO_INDEX="1")
        assert answer.returncode == 1
        assert "DO NOT MATCH THE HASHES" in answer.stderr
        assert "the installation failed; its whole output is in" in answer.stderr
        assert bash(f'is_ready "{tmp_path}/venv" "{lock}"', home=home).returncode != 0

    def test_a_directory_of_somebody_else_stays(self, tmp_path: Path, lock: Path, home: Path) -> None:
        venv = tmp_path / "venv"
        venv.mkdir()
        (venv / "precious").touch()
        answer = self.install(venv, lock, home)
        assert answer.returncode == 1
        assert "was not created by run.sh" in answer.stderr
        assert (venv / "precious").exists()

    def test_the_mark_of_a_killed_installation_is_no_obstacle(self, tmp_path: Path, lock: Path, home: Path) -> None:
        gone = subprocess.Popen(["true"])
        gone.wait()
        busy = tmp_path / "venv.busy"
        busy.mkdir()
        (busy / "pid").write_text(str(gone.pid))
        answer = bash(f'make_venv() {{ echo made; }}\nensure_venv "{tmp_path}/venv" "{lock}"', home=home)
        assert (answer.returncode, answer.stdout) == (0, "made\n")
        assert not busy.exists()

    def test_a_second_installation_waits_for_the_first(self, tmp_path: Path, lock: Path, home: Path) -> None:
        """The first is this process, as the mark says; it ends by taking the mark away."""
        busy = tmp_path / "venv.busy"
        busy.mkdir()
        (busy / "pid").write_text(str(os.getpid()))
        script = f'sleep() {{ rm -r "{busy}"; }}\nmake_venv() {{ echo made; }}\nensure_venv "{tmp_path}/venv" "{lock}"'
        answer = bash(script, home=home)
        assert (answer.returncode, answer.stdout) == (0, "made\n")
        assert "is running; waiting for it" in answer.stderr


class TestHandingOver:
    def run(self, *arguments: str, home: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(RUN_SH), *arguments],
            env={
                "HOME": str(home),
                "PATH": "/usr/bin:/bin",
                "X402_PYTHON": str(PYTHON),
                "X402_VENV": str(home / "venv"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=cwd,
            check=False,
        )

    @pytest.mark.parametrize("arguments", [["--help"], ["web", "--help"], ["sandbox", "-h"], ["--version"]])
    def test_the_help_needs_nothing_installed(self, tmp_path: Path, home: Path, arguments: list[str]) -> None:
        answer = self.run(*arguments, home=home, cwd=tmp_path)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert not (home / "venv").exists()

    def test_path_from_any_directory(self, tmp_path: Path, home: Path) -> None:
        assert self.run("path", home=home, cwd=tmp_path).stdout == f"{ROOT}/addon/x402.py\n"

    def test_nothing_of_the_current_directory_is_imported(self, tmp_path: Path, home: Path) -> None:
        for name in ("mitmproxy_x402.py", "difflib.py", "pathlib.py"):
            (tmp_path / name).write_text("raise SystemExit('hijacked')")
        assert self.run("--help", home=home, cwd=tmp_path).returncode == 0


def test_the_locks_agree_and_every_line_has_hashes() -> None:
    def versions(name: str) -> set[str]:
        text = (ROOT / name).read_text()
        pinned = text.replace(" \\\n    ", " ").splitlines()
        assert all("--hash=sha256:" in line for line in pinned)
        assert "://" not in text
        return {line.partition(" ")[0] for line in pinned}

    run, test = versions("requirements.lock"), versions("requirements-test.lock")
    assert run <= test
    assert "mitmproxy==11.0.2" in run
    assert {line for line in run if line.startswith("mitmproxy==12.3.")}


MACHINES = [
    {"sys_platform": platform, "platform_system": system, "os_name": "posix", "platform_machine": machine}
    for platform, system in (("linux", "Linux"), ("darwin", "Darwin"))
    for machine in ("x86_64", "arm64")
]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-test.lock"])
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"])
@pytest.mark.parametrize("implementation", ["cpython", "pypy"])
def test_a_lock_has_a_line_for_each_dependency_on_every_python(name: str, version: str, implementation: str) -> None:
    """pip exits with 0 where every line's marker says no, and has installed nothing."""
    text = (ROOT / name).read_text().replace(" \\\n    ", " ")
    lines = [Requirement(line.partition(" --hash")[0]) for line in text.splitlines()]
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    for machine in MACHINES:
        where = {
            **machine,
            "python_version": version,
            "python_full_version": f"{version}.1",
            "implementation_name": implementation,
            "platform_python_implementation": {"cpython": "CPython", "pypy": "PyPy"}[implementation],
        }
        found = Counter(
            canonicalize_name(line.name) for line in lines if not line.marker or line.marker.evaluate(where)
        )
        for requirement in wanted:
            if not requirement.marker or requirement.marker.evaluate(where):
                assert found[canonicalize_name(requirement.name)] == 1, (requirement, machine)
