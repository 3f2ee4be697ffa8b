"""What a run was made on, and with which versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sysconfig
from pathlib import Path

from .peers import CACHE, FETCH, versions_in


def machine() -> dict[str, str]:
    """Processor, cores, memory, system."""
    found = {
        "Processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
    }
    if hasattr(os, "sysconf"):
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of this environment, and of the peers that are installed."""
    found = {"Python": f"{platform.python_version()}{_build()}"}
    for package in ("mitmproxy", "eth-account", "wallycore", "solders"):
        found[package] = importlib.metadata.version(package)
    for folder, packages in (
        ("blockrun-litellm", ("blockrun-litellm", "blockrun-llm", "litellm")),
        ("x402-httpx-coincurve", ("x402", "httpx")),
    ):
        found |= versions_in(CACHE / folder, packages)
    node = shutil.which("node")
    if node is not None:
        ended = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        found["Node"] = ended.stdout.strip().removeprefix("v")
        found |= _node_packages(CACHE / "x402-fetch")
    return found


def _build() -> str:
    """How this Python was compiled, as far as its time depends on it: pyenv does it plainly, distributions do not."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS")
    if not arguments:  # Windows
        return ""
    return " (compiled with --enable-optimizations)" if "--enable-optimizations" in arguments else " (not optimized)"


def _node_packages(folder: Path) -> dict[str, str]:
    found = {}
    for package in FETCH:
        file = folder / "node_modules" / package / "package.json"
        if file.is_file():
            found[package] = str(json.loads(file.read_text())["version"])
    return found
