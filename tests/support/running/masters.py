"""mitmproxy's masters, for tests that need one in their own process."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from mitmproxy_x402.proxy.startup import fast_path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that mitmproxy calls
    from mitmproxy.addons.script import ScriptLoader
    from mitmproxy.master import Master
    from mitmproxy.tools.dump import DumpMaster

__all__ = ["DumpMaster", "Master", "ScriptLoader", "fast"]


@contextlib.contextmanager
def fast() -> Iterator[None]:
    """With the fast path in place."""
    assert fast_path.apply() == []
    try:
        yield
    finally:
        fast_path.undo(lambda call: call())
