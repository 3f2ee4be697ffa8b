"""The rules of the house: who may import whom, and how large a room may be."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "addon" / "mitmproxy_x402"
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(page.parent for page in PACKAGE.glob("*/__init__.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LINT = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree_of(path)))


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    environ = {"PYTHONPATH": str(root / "addon"), "PATH": "/usr/bin:/bin"}
    command = [*LINT, "--no-cache", "--config", str(root / "pyproject.toml")]
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "addon", tmp_path / "addon", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "planted"),
    [
        ("protocol/headers.py", "from ..payment import policy"),
        ("payment/policy.py", "import mitmproxy.http"),
        ("payment/policy.py", "from ..proxy import stream"),
        ("sandbox/payments/pricing.py", "from ...payment import policy"),
        ("ledger/interface.py", "from ..report import sums"),
        ("ledger/interface.py", "from . import reading"),
    ],
)
def test_a_planted_import_breaks_a_contract(copy: Path, module: str, planted: str) -> None:
    path = copy / "addon" / "mitmproxy_x402" / module
    path.write_text(f"{path.read_text()}\n{planted}\n")
    result = lint(copy)
    assert result.returncode != 0
    assert "BROKEN" in result.stdout


def imported(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_proxy_imports_the_inside_of_mitmproxy() -> None:
    """import-linter knows no parts of packages that are not ours."""
    elsewhere = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] != "proxy"]
    guilty = [
        f"{path.relative_to(PACKAGE)}: {name}" for path in elsewhere for name in imported(path) if is_inside(name)
    ]
    assert not guilty


def is_inside(name: str) -> bool:
    return name == "mitmproxy.proxy" or name.startswith("mitmproxy.proxy.")


def test_every_package_has_a_first_page() -> None:
    for page in PACKAGE.rglob("__init__.py"):
        docstring = ast.get_docstring(tree_of(page)) or ""
        assert docstring, page
        assert len(docstring.splitlines()) < 50, page


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_first_page_names_the_packages_that_are_used(package: Path) -> None:
    """After the word "Uses", unless it uses everything below."""
    page = ast.get_docstring(tree_of(package / "__init__.py")) or ""
    said = re.search(r"\bUses ([^.;]+)", page)
    if said is not None and "everything" not in said[1]:
        assert set(re.findall("`([a-z]+)`", said[1])) == set(used_by(package))


def used_by(package: Path) -> Iterator[str]:
    """The names of the other packages from which modules of `package` import."""
    for path in package.rglob("*.py"):
        depth = len(path.relative_to(PACKAGE).parts) - 1
        for node in nodes_of(path):
            if isinstance(node, ast.ImportFrom) and node.level == depth + 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                yield from (
                    first for name in names if (first := name.partition(".")[0]) in {one.name for one in PACKAGES}
                )


def test_no_folder_is_crowded_and_no_module_long() -> None:
    every = [*MODULES, *TESTS]
    for folder in {path.parent for path in every}:
        modules = [path for path in folder.glob("*.py") if path.name not in ("__init__.py", "conftest.py")]
        assert len(modules) <= 12, folder
    for path in every:
        assert len(path.read_text().splitlines()) <= 450, path


def test_the_root_folder_holds_little() -> None:
    """The hooks, the errors, the two that Python names, and at most three more."""
    here = {path.stem for path in PACKAGE.glob("*.py")}
    assert here >= {"__init__", "__main__", "addon", "errors"}
    assert len(here) <= 7, here


def test_a_small_module_with_one_user_lives_with_its_user() -> None:
    """Except for the steps of a series, where each has a module: `version_3`."""
    small = [
        path
        for path in MODULES
        if not path.stem.startswith(("__", "version_")) and len(path.read_text().splitlines()) < 40
    ]
    users = {path: {user for user in MODULES if path in modules_used_by(user)} for path in small}
    assert len(small) > 3
    assert not [path for path, its in users.items() if len(its) < 2]


@functools.cache
def modules_used_by(user: Path) -> set[Path]:
    """The modules of ours that `user` imports, or from which it imports names."""
    found: set[Path] = set()
    for node in nodes_of(user):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = user.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found |= {place.with_suffix(".py"), *(place / f"{alias.name}.py" for alias in node.names)}
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_tests_of_a_package_have_its_name(package: Path) -> None:
    assert any((ROOT / "tests" / package.name).rglob("test_*.py"))


def test_no_two_modules_of_tests_have_one_name() -> None:
    """pytest tells them apart by their names alone."""
    names = Counter(path.name for path in TESTS if path.name.startswith("test_"))
    assert names.most_common(1)[0][1] == 1, names.most_common(1)


OF_OTHERS = {"_handle_event", "_replace", "_run"}
"""Names that our classes take over from mitmproxy's, asyncio's and NamedTuple's."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def test_tests_use_no_private_names_of_the_package() -> None:
    ours: set[str] = set()
    for node in (node for path in MODULES for node in nodes_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            ours.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            ours.add(node.attr)
    ours = {name for name in ours if is_private(name)} - OF_OTHERS
    guilty = [f"{path.name}: {name}" for path in TESTS for name in private_names_in(path, ours)]
    assert not guilty


def private_names_in(path: Path, ours: set[str]) -> Iterator[str]:
    """What `path` imports from the package that is private, and attributes of others that it calls as `ours`."""
    yield from (
        name for name in imported(path) if name.startswith("mitmproxy_x402.") and is_private(name.split(".")[-1])
    )
    for node in nodes_of(path):
        own = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if isinstance(node, ast.Attribute) and node.attr in ours and not own:
            yield node.attr


def test_the_map_names_every_package() -> None:
    page = (ROOT / "docs" / "development.md").read_text()
    for first in PACKAGE.glob("*/__init__.py"):
        assert f"`{first.parent.name}/`" in page, first.parent.name
