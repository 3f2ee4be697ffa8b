"""Sets options of a proxy while it runs."""

from __future__ import annotations

from pathlib import Path

from .proxy import Proxy
from .wire import request

SCRIPT = """
from mitmproxy import ctx, exceptions

def request(flow):
    text = flow.request.headers.get("x-set")
    if text:
        try:
            ctx.options.set(*text.split("; "))
            flow.request.headers["x-said"] = "taken"
        except exceptions.OptionsError as error:
            flow.request.headers["x-said"] = str(error)

def responseheaders(flow):
    flow.response.headers["x-said"] = flow.request.headers.get("x-said", "")
"""


def script(home: Path) -> tuple[str, str]:
    """The arguments with which a proxy in `home` takes changes."""
    file = home / "changer.py"
    file.write_text(SCRIPT)
    return "-s", str(file)


def set_options(proxy: Proxy, *settings: str, path: str = "/set") -> str:
    """`taken`, or why not. A request for `path` is made, which must be free."""
    with proxy.client() as client:
        answer = client.ask(request("GET", path, b"", "x-set: " + "; ".join(settings)))
    return (answer.get(b"x-said") or b"").decode()
