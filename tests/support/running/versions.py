"""Which mitmproxy the tests run with."""

from __future__ import annotations

from mitmproxy import version

IS_12 = int(version.VERSION.split(".")[0]) >= 12
"""From 12 on mitmweb wants a password, and keeps of a streamed body what `store_streamed_bodies` asks for."""
