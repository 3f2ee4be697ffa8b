"""Looks at a flow with the content views."""

from __future__ import annotations

import asyncio
import json

from mitmproxy import http
from mitmproxy.test import tflow, tutils

from mitmproxy_x402.cli.sandbox import REQUEST
from mitmproxy_x402.sandbox.answers import meaning
from mitmproxy_x402.sandbox.vendors import chat
from mitmproxy_x402.views import contentview, reading
from support.patience import eventually
from support.showing.contentviews import Shown, show

EVENTS = "text/event-stream; charset=utf-8"
JSON = "application/json"
STREAM = b"".join(chat.stream(REQUEST, meaning(REQUEST), 0))
ARGUMENTS = '"city": "Oslo"'
"""What no single event of STREAM has in it."""

contentview.register()


def flow(body: bytes = STREAM, kind: str = EVENTS, path: str = "/v1/chat/completions", **headers: str) -> http.HTTPFlow:
    made = tflow.tflow(
        req=tutils.treq(method=b"POST", path=path.encode(), content=json.dumps(REQUEST).encode()),
        resp=tutils.tresp(content=body, headers=http.Headers(content_type=kind, **headers)),
    )
    made.request.headers["content-type"] = JSON
    return made


def look(at: http.HTTPFlow, view: str = "auto") -> Shown:
    async def run() -> Shown:
        return show(at.response, at, view)

    seen: list[Shown] = []
    eventually(lambda: (seen.append(asyncio.run(run())), "are being read" not in seen[-1].text)[1])
    return seen[-1]


def lines_of(text: str) -> list[str]:
    return reading.wrapped(text).split("\n")
