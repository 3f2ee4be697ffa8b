"""Loaded by the proxy behind the door: a hold after the addon has signed."""

from __future__ import annotations

from hold import hold
from mitmproxy import http


async def x402_challenge(flow: http.HTTPFlow) -> None:
    await hold(flow, "signed")
