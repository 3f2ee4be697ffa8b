"""Packages of npm's that tests run, installed once into .bench/."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ..proxy import ROOT


def install(name: str, packages: Mapping[str, str]) -> Path:
    """The folder with `packages` (names and versions) in its node_modules; one installation at a time."""
    npm = shutil.which("npm")
    assert npm is not None, "these tests need Node.js with npm"
    folder = ROOT / ".bench" / name
    folder.mkdir(parents=True, exist_ok=True)
    wanted = json.dumps({"private": True, "dependencies": dict(packages)})
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done.json"
        if not done.exists() or done.read_text() != wanted:
            (folder / "package.json").write_text(wanted)
            command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
            done.write_text(wanted)
    return folder


def beside(folder: Path, script: Path) -> Path:
    """A copy of `script` from where it finds the packages."""
    copy = folder / script.name
    copy.write_bytes(script.read_bytes())
    return copy
