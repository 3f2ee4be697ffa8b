"""Finds which dependencies are missing, and the command that adds them to this very installation.

Imports nothing but the standard library, and runs on Pythons that the rest does not run on: it is what tells.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shlex
import sys
import sysconfig
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

OLDEST_PYTHON = (3, 10)
TESTED_PYTHONS = ((3, 10), (3, 14))
"""The first and the last that the tests run on."""

REQUIRED = {
    "mitmproxy>=11.0.2": "mitmproxy",
    "eth-account>=0.13": "eth_account",
    "solders>=0.27": "solders",
    "tomli>=2": "tomli",
}
"""What nothing works without: requirement and module."""
RECOMMENDED = {
    "certifi>=2026.10.18": "certifi",
    "backports.zstd>=1": "backports.zstd",
    "brotli>=1.1": "brotli",
    "wallycore>=1.5": "wallycore",
    "jsonschema>=4.23": "jsonschema",
    "segno>=1.6": "segno",
}
"""What is done worse or not at all without it; also part of the command that adds what is missing."""
_IN_THE_STANDARD_LIBRARY = {"backports.zstd>=1": (3, 14)}
_NO_WHEEL = {"wallycore>=1.5": (3, 15)}


@dataclass(frozen=True)
class Remedy:
    """How packages get into one kind of installation."""

    kind: str
    """What it is, as in `installed by pipx`."""
    command: str
    """The command, or what to do where no command can."""


def missing(requirements: dict[str, str] = REQUIRED) -> list[str]:
    """Those of `requirements` that are not installed, or too old."""
    python = sys.version_info[:2]
    return [
        requirement
        for requirement, module in requirements.items()
        if not _is_there(requirement, module)
        and python < _IN_THE_STANDARD_LIBRARY.get(requirement, (9,))
        and python < _NO_WHEEL.get(requirement, (9,))
    ]


def installed_version(package: str) -> tuple[int, ...] | None:
    """The numbers of the installed version of `package`, None without it."""
    try:
        return tuple(int(number) for number in re.findall(r"\d+", metadata.version(package)))
    except metadata.PackageNotFoundError:
        return None


def _is_there(requirement: str, module: str) -> bool:
    if not _is_importable(module):
        return False
    package, _, oldest = requirement.partition(">=")
    version = installed_version(package)
    # A frozen program has modules without metadata.
    return version is None or version >= tuple(int(number) for number in oldest.split("."))


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # of the package that it is in
        return False


def _package(requirement: str) -> str:
    return requirement.partition(">=")[0]


def what_is_wrong() -> str | None:
    """Why nothing can run here, with the one command that mends it; None where all is there."""
    if sys.version_info < OLDEST_PYTHON:
        return f"{_python()} is too old: 3.{OLDEST_PYTHON[1]} or later is needed."
    lacking = missing()
    if not lacking:
        return None
    absent = [_package(requirement) for requirement in lacking if not _is_importable(REQUIRED[requirement])]
    old = [_package(requirement) for requirement in lacking if _is_importable(REQUIRED[requirement])]
    found = [f"{name} {metadata.version(name)} is too old" for name in old]
    if absent:
        found.insert(0, f"{_listed(absent)} {'is' if len(absent) == 1 else 'are'} not installed")
    return f"{' and '.join(found)} in the mitmproxy of {_python()}. {advice(all_missing())}"


def cannot_be_imported(error: ImportError) -> str:
    """What to say of an import that failed although everything seems to be there."""
    module = (error.name or "a package").partition(".")[0]
    said = f"{module} cannot be imported by {_python()} ({error})"
    if module == __name__.partition(".")[0]:
        return f"{said}. This copy of mitmproxy-x402 is not whole: get it anew."
    known = {name.partition(".")[0]: requirement for requirement, name in {**REQUIRED, **RECOMMENDED}.items()}
    # Never the name of a module that is not in the tables: on the index that may be anybody's package. What needs it is
    # in the tables, and brings it along.
    wanted = all_missing() or [known[module]] if module in known else [*all_missing(), *REQUIRED]
    return f"{said}. {advice(list(dict.fromkeys(wanted)))}"


def all_missing() -> list[str]:
    """Everything declared that is missing, in the order of the tables."""
    return [*missing(), *missing(RECOMMENDED)]


def advice(requirements: list[str]) -> str:
    """How `requirements` get into this installation, in one sentence."""
    remedy = remedy_for(requirements)
    return f"It is {remedy.kind}: {remedy.command}"


def remedy_for(requirements: list[str], prefix: Path = Path(sys.prefix)) -> Remedy:
    """How `requirements` get into the installation in `prefix`, which is the running one."""
    packages = " ".join(shlex.quote(requirement) for requirement in requirements)
    elsewhere = (
        f"install mitmproxy with them in a place of its own: uv tool install mitmproxy {_with(requirements)} "
        "(or use ./run.sh, which installs everything by itself)"
    )
    python = shlex.quote(str(sys.executable or "python3"))
    if getattr(sys, "frozen", False):
        return Remedy("a standalone binary, which brings its own Python and takes no packages", elsewhere)
    if "Cellar" in prefix.parts:
        return Remedy("installed by Homebrew, which takes no packages", elsewhere)
    if (prefix / "pipx_metadata.json").is_file():
        return Remedy("installed by pipx", f"pipx inject {shlex.quote(prefix.name)} {packages}")
    if (prefix / "uv-receipt.toml").is_file():
        tool, others = _of_uv(prefix)
        return Remedy("installed by uv", f"uv tool install {shlex.quote(tool)} {_with([*others, *requirements])}")
    if (prefix / "pyvenv.cfg").is_file():
        if "archive-v0" in prefix.parts or any(part.startswith("environments-v") for part in prefix.parts):
            return Remedy("run by uvx", f"uvx --from mitmproxy {_with(requirements)} {Path(sys.argv[0]).name} ...")
        if importlib.util.find_spec("pip") is None:
            return Remedy("in a virtual environment without pip", f"uv pip install --python {python} {packages}")
        return Remedy("in a virtual environment", f"{python} -m pip install {packages}")
    if Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").is_file():
        return Remedy(
            "installed by the system's package manager",
            f"make an environment for it: python3 -m venv ~/x402 && ~/x402/bin/pip install mitmproxy {packages}, "
            "and run ~/x402/bin/mitmdump",
        )
    return Remedy("installed by pip", f"{python} -m pip install {packages}")


def _of_uv(prefix: Path) -> tuple[str, list[str]]:
    """The name of the tool in uv's `prefix`, and what else was installed with it."""
    receipt = (prefix / "uv-receipt.toml").read_text(encoding="utf8", errors="replace")
    # Not parsed: what parses TOML may be among what is missing.
    names = re.findall(r'{ *name *= *"([A-Za-z0-9._-]+)"', receipt.partition("entrypoints")[0])
    tool = names[0] if names else prefix.name
    return tool, [name for name in names[1:] if name != tool]


def _with(requirements: list[str]) -> str:
    return " ".join(f"--with {shlex.quote(requirement)}" for requirement in requirements)


def _python() -> str:
    return f"{sys.executable or sys.argv[0]} (Python {sys.version_info[0]}.{sys.version_info[1]})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def refuse_to_load(why: str) -> None:
    """Say why the addon is not loaded, and end a mitmproxy that starts: it would relay unpaid and unguarded.

    A mitmproxy that runs already goes on as it was.
    """
    from mitmproxy import ctx  # noqa: PLC0415  # runs this

    message = f"mitmproxy-x402: {why}"
    if not ctx.master.addons.get("scriptloader").is_running:
        sys.exit(message)
    logging.getLogger(__name__).error(message)
