"""mitmproxy's rooms in a process of the tests: its own libraries, in their newest versions, warn of it."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mitmproxy import contentviews, flowfilter, io
    from mitmproxy.addons.proxyserver import Proxyserver
    from mitmproxy.command import CommandManager
    from mitmproxy.test import taddons

__all__ = ["CommandManager", "Proxyserver", "contentviews", "flowfilter", "io", "taddons"]
