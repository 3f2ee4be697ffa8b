"""mitmweb as a user starts it, and its API as its page uses it."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..proxy import Proxy
from ..running.versions import IS_12
from ..wire import free_port

PASSWORD = "a-test-password"
PATIENCE = 20

Flow = dict[str, Any]


class Web(Proxy):
    """A `Proxy` with a screen."""

    def __init__(self, upstream: str, *arguments: str, home: Path, **more: Any) -> None:
        self.web_port = free_port()
        options = ["--no-web-open-browser", "--web-port", str(self.web_port)]
        if IS_12:
            options += ["--set", f"web_password={PASSWORD}"]
        super().__init__(upstream, *options, *arguments, home=home, tool="mitmweb", **more)

    def __enter__(self) -> Web:
        super().__enter__()
        self.wait_for("Web server listening")
        return self

    @property
    def page(self) -> str:
        """What a browser opens."""
        return f"http://127.0.0.1:{self.web_port}/" + (f"?token={PASSWORD}" if IS_12 else "")

    def api(self, path: str, method: str = "GET", body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {PASSWORD}", "Content-Type": "application/json"}
        headers |= {"X-XSRFToken": "t", "Cookie": "_xsrf=t; _mitmproxy_xsrf=t"}
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.web_port}/{urllib.parse.quote(path)}"
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers.get_content_type() == "application/json" else content

    def flows(self) -> list[Flow]:
        """As the page gets them."""
        found: list[Flow] = self.api("flows")
        return found

    def clear(self) -> None:
        """Forget all flows."""
        self.api("clear", "POST")

    def wait_for_flow(self, condition: Callable[[Flow], Any], what: str = "") -> Flow:
        """The newest flow, as soon as `condition` is true of it."""
        deadline = time.monotonic() + PATIENCE
        flows: list[Flow] = []
        while time.monotonic() < deadline:
            flows = self.flows()
            if flows and condition(flows[-1]):
                return flows[-1]
            threading.Event().wait(0.02)
        last = [(flow["comment"], flow["marked"], length(flow)) for flow in flows[-1:]]
        raise AssertionError(f"never so {what}: {last}\n{self.log[-3000:]}")

    def matching(self, expression: str) -> list[str]:
        """Comments of the flows that a filter leaves in view."""
        self.api("options", "PUT", {"view_filter": expression})
        try:
            return [str(flow["comment"]) for flow in self.flows()]
        finally:
            self.api("options", "PUT", {"view_filter": ""})

    def content(self, flow: Flow, message: str = "response") -> bytes:
        """The body that mitmproxy has, decoded."""
        content: bytes = self.api(f"flows/{flow['id']}/{message}/content.data")
        return content

    def view(self, flow: Flow, view: str = "auto", message: str = "response") -> str:
        """What a content view shows."""
        shown = self.api(f"flows/{flow['id']}/{message}/content/{view}.json")
        if "lines" in shown:
            return "\n".join("".join(text for _, text in line) for line in shown["lines"])
        return str(shown["text"])


def length(flow: Flow) -> int | None:
    """Of the body that mitmproxy has; None where it has none."""
    found: int | None = flow.get("response", {}).get("contentLength")
    return found
