"""The name of this program, for messages that tell the user what to run."""

from __future__ import annotations

import os


def program() -> str:
    """The command that starts this program: the one that a wrapper such as run.sh has named, else the installed one."""
    return os.environ.get("X402_PROGRAM") or "mitmproxy-x402"
