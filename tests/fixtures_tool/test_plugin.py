"""The fixture `x402_recording`, in this pytest and in others."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli

from mitmproxy_x402.fixtures.plugin import Serve
from support.recording.recordings import JSON, write_recording

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "x402_fixtures"


def entry_points() -> dict[str, str]:
    table = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    return {str(name): str(value) for name, value in table.items()}


def post(url: str, body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)


class TestHere:
    def test_it_serves_a_folder_until_the_test_ends(self, x402_recording: Serve, tmp_path: Path) -> None:
        write_recording(tmp_path / "all" / "one", {"n": 1}, [(0, b"[1]")], headers=JSON)
        write_recording(tmp_path / "all" / "two", {"n": 2}, [(0, b"[2]")], headers=JSON)
        everything, one = x402_recording(tmp_path / "all"), x402_recording(str(tmp_path / "all" / "one"), match="order")
        assert everything.startswith("http://127.0.0.1:")
        assert [post(everything, {"n": n}).json() for n in (1, 2)] == [[1], [2]]
        assert post(one, {"whatever": 1}).json() == [1]
        assert everything != one

    def test_a_path_is_found_from_the_rootdir(self, x402_recording: Serve) -> None:
        """Nor need there be any request."""
        with pytest.raises(FileNotFoundError, match="no tests/nowhere beside the test or in"):
            x402_recording("tests/nowhere")


TESTS = """
    import urllib.error
    import urllib.request

    import pytest

    def ask(url, body):
        try:
            return urllib.request.urlopen(f"{url}/v1/chat/completions", body).read()
        except urllib.error.HTTPError as error:
            with error:
                return error.read()

    def test_beside(x402_recording):
        assert ask(x402_recording("recordings"), b'{"n": 1}') == b"[1]"

    def test_from_the_root(x402_recording):
        assert ask(x402_recording("here/recordings/one"), b'{"n": 1}') == b"[1]"

    def test_missed(x402_recording):
        assert b"recording_not_found" in ask(x402_recording("recordings"), b'{"n": 2}')

    @pytest.mark.parametrize("number", range(8))
    def test_many(x402_recording, number):
        assert ask(x402_recording("recordings", match="path"), b"%d" % number) == b"[1]"

    def test_unknown(x402_recording):
        with pytest.raises(Exception, match="expected one of body, path, order"):
            x402_recording("recordings", match="digest")
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    metadata = site / "mitmproxy_x402-0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mitmproxy-x402\nVersion: 0.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points().items()]
    (metadata / "entry_points.txt").write_text("[pytest11]\n" + "\n".join(lines) + "\n")
    return site


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = tmp_path_factory.mktemp("project")
    (project / "pytest.ini").write_text("[pytest]\naddopts = -p no:anyio\nfilterwarnings = error\n")
    write_recording(project / "here" / "recordings" / "one", {"n": 1}, [(0, b"[1]")], headers=JSON)
    lines = TESTS.splitlines()
    (project / "here" / "test_it.py").write_text("\n".join(line.removeprefix("    ") for line in lines))
    return project


def run(site: Path, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(project), "PYTHONPATH": str(site), "NO_COLOR": "1"},
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


class TestInstalled:
    """In a pytest of its own, with the entry point as an installation has it: a folder of metadata on the path."""

    @pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "xdist"])
    def test_tests_find_it_and_those_that_missed_fail(
        self, site: Path, project: Path, arguments: tuple[str, ...]
    ) -> None:
        ended = run(site, project, *arguments)
        assert "12 passed, 1 error in" in ended.stdout, ended.stdout + ended.stderr
        assert "ERROR at teardown of test_missed" in ended.stdout
        assert "No recording matches POST /v1/chat/completions. The nearest is one: n: asked 2, recorded 1." in (
            ended.stdout
        )

    def test_it_is_listed_with_its_help(self, site: Path, project: Path) -> None:
        listed = run(site, project, "--fixtures").stdout
        assert "x402_recording -- " in listed
        assert "Serve recordings to this test" in listed

    def test_this_repository_s_own_tests_find_it_only_once(self, site: Path) -> None:
        """Installed, the entry point is there before tests/conftest.py looks for it."""
        here = [
            f"{__file__}::TestHere",
            "-p",
            "no:randomly",
            "--rootdir",
            str(ROOT),
            "-c",
            str(ROOT / "pyproject.toml"),
        ]
        ended = run(site, ROOT, *here)
        assert "2 passed" in ended.stdout, ended.stdout + ended.stderr


def test_the_entry_point_is_as_documented() -> None:
    assert entry_points() == {ENTRY: "mitmproxy_x402.fixtures.plugin"}


def test_a_pytest_that_does_not_use_it_pays_next_to_nothing() -> None:
    """Every pytest of the environment loads it: nothing but pytest and the standard library comes with it."""
    code = """
import sys, pytest
before = set(sys.modules)
import mitmproxy_x402.fixtures.plugin
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    ended = subprocess.run(
        [sys.executable, "-I", "-c", f"import json{code}"], capture_output=True, text=True, check=True
    )
    assert json.loads(ended.stdout) == [
        "mitmproxy_x402",
        "mitmproxy_x402.fixtures",
        "mitmproxy_x402.fixtures.plugin",
    ]


def test_the_documentation_s_example(site: Path, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "fixtures.md").read_text(), re.DOTALL)
    (tmp_path / "test_example.py").write_text(example)
    shutil.copytree(ROOT / "tests" / "recordings" / "chat-tool", tmp_path / "recordings" / "chat-tool")
    ended = run(site, tmp_path, "-p", "no:anyio")
    assert "1 passed" in ended.stdout, ended.stdout + ended.stderr
