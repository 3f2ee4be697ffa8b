"""mitmproxy's masters, for tests that need one in their own process."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that mitmproxy calls
    from mitmproxy.addons.script import ScriptLoader
    from mitmproxy.master import Master
    from mitmproxy.tools.dump import DumpMaster

__all__ = ["DumpMaster", "Master", "ScriptLoader"]
