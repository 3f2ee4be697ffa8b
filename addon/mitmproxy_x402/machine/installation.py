"""Finds missing dependencies, and the command that installs them; keeps mitmproxy from starting without them.

The command is the one for the running Python's environment. Imports only the standard library (and mitmproxy, where
mitmproxy calls it), and runs on Pythons that the rest of the package does not support, to say so.
"""

from __future__ import annotations

import asyncio
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
"""The oldest and the newest Python that the tests run on."""

REQUIRED = {
    "mitmproxy>=11.0.2": "mitmproxy",
    "eth-account>=0.13": "eth_account",
    "solders>=0.27": "solders",
    "tomli>=2": "tomli",
}
"""Required dependencies: requirement and the module that it provides."""
RECOMMENDED = {
    "certifi>=2026.10.18": "certifi",
    "backports.zstd>=1": "backports.zstd",
    "brotli>=1.1": "brotli",
    "wallycore>=1.5": "wallycore",
    "jsonschema>=4.23": "jsonschema",
    "segno>=1.6": "segno",
}
"""Recommended dependencies, without which something works less well; installed by the same command."""
OF_FIXTURES = {"h11>=0.14": "h11"}
"""What `fixtures serve` needs; mitmproxy brings it along, and `fixtures` works without that."""
_IN_THE_STANDARD_LIBRARY = {"backports.zstd>=1": (3, 14)}
_NO_WHEEL = {"wallycore>=1.5": (3, 15)}


@dataclass(frozen=True)
class Remedy:
    """How to install packages in one kind of environment."""

    kind: str
    """A description of the environment, such as `installed by pipx`."""
    command: str
    """The command, or what to do if no command can do it."""


def missing(requirements: dict[str, str] = REQUIRED) -> list[str]:
    """The `requirements` that are not installed, or are too old."""
    python = sys.version_info[:2]
    return [
        requirement
        for requirement, module in requirements.items()
        if not _is_there(requirement, module)
        and python < _IN_THE_STANDARD_LIBRARY.get(requirement, (9,))
        and python < _NO_WHEEL.get(requirement, (9,))
    ]


def installed_version(package: str) -> tuple[int, ...] | None:
    """The version of `package` as numbers; None: it is not installed."""
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
    except (ImportError, ValueError):  # the module's parent package is missing
        return False


def _package(requirement: str) -> str:
    return requirement.partition(">=")[0]


def what_is_wrong() -> str | None:
    """Why the addon cannot run, with the command that repairs it; None: nothing is missing."""
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
    """The message for an import that failed although nothing seems to be missing."""
    module = (error.name or "a package").partition(".")[0]
    said = f"{module} cannot be imported by {_python()} ({error})"
    if module == __name__.partition(".")[0]:
        return f"{said}. This copy of mitmproxy-x402 is incomplete: download it again."
    known = {name.partition(".")[0]: requirement for requirement, name in {**REQUIRED, **RECOMMENDED}.items()}
    # Never names a module that is not in the tables: on the index that may be anyone's package. What needs it is
    # in the tables, and brings it along.
    wanted = all_missing() or [known[module]] if module in known else [*all_missing(), *REQUIRED]
    return f"{said}. {advice(list(dict.fromkeys(wanted)))}"


def lacked_by_fixtures(error: ImportError) -> str:
    """The message for what `fixtures` alone cannot import: it works without most of what the proxy needs."""
    module = (error.name or "").partition(".")[0]
    known = {name: requirement for requirement, name in {**REQUIRED, **OF_FIXTURES}.items()}
    if module not in known:
        return cannot_be_imported(error)
    return f"{module} is needed for that, and not installed for {_python()}. {advice([known[module]])}"


def all_missing() -> list[str]:
    """All dependencies that are missing, in the order of the tables."""
    return [*missing(), *missing(RECOMMENDED)]


def advice(requirements: list[str]) -> str:
    """One sentence that says how to install `requirements` here."""
    remedy = remedy_for(requirements)
    return f"It is {remedy.kind}: {remedy.command}"


def remedy_for(requirements: list[str], prefix: Path = Path(sys.prefix)) -> Remedy:
    """How to install `requirements` in the running environment, which is in `prefix`."""
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
    """The name of the uv tool in `prefix`, and the packages that were added to it."""
    receipt = (prefix / "uv-receipt.toml").read_text(encoding="utf8", errors="replace")
    # Searched as text: the TOML parser may be what is missing.
    names = re.findall(r'{ *name *= *"([A-Za-z0-9._-]+)"', receipt.partition("entrypoints")[0])
    tool = names[0] if names else prefix.name
    return tool, [name for name in names[1:] if name != tool]


def _with(requirements: list[str]) -> str:
    return " ".join(f"--with {shlex.quote(requirement)}" for requirement in requirements)


def _python() -> str:
    return f"{sys.executable or sys.argv[0]} (Python {sys.version_info[0]}.{sys.version_info[1]})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def refuse_to_load(why: str, *, ends: bool | None = None) -> None:
    """Log why the addon is not loaded, and end a mitmproxy that is starting: it would relay unpaid and unguarded.

    A mitmproxy that is running already is left alone. `ends` says which of them it is, where that was seen before.
    """
    from mitmproxy import ctx  # noqa: PLC0415  # runs this

    message = f"mitmproxy-x402: {why}"
    if ends or (ends is None and not ctx.master.addons.get("scriptloader").is_running):
        # Not raised here: mitmproxy 11 loads a script with `return` in a `finally`, which swallows it. And not logged,
        # since mitmproxy would open its port and say so before it ends: what is said last is this.
        asyncio.get_running_loop().call_soon(sys.exit, message)
        return
    logging.getLogger(__name__).error(message)
