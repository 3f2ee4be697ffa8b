"""mitmproxy's masters, for tests that need one in their own process."""

from __future__ import annotations

import warnings

import pytest

from mitmproxy_x402.proxy.fast_path import CHEAPER

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that mitmproxy calls
    from mitmproxy.addons.script import ScriptLoader
    from mitmproxy.master import Master
    from mitmproxy.tools.dump import DumpMaster

__all__ = ["DumpMaster", "Master", "ScriptLoader", "lend"]


def lend(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `economise` changes of mitmproxy's classes will be as before when the test has ended."""
    for owner, name, _ in CHEAPER:
        monkeypatch.setattr(owner, name, getattr(owner, name))
