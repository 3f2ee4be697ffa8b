"""What requests in tests have in common: a picture, a tool, a call."""

from __future__ import annotations

import base64
import json
from typing import Any

from mitmproxy_x402.llm import RequestReading, Tool, ToolCall, read_request

PIXEL = b"\x89PNG" + bytes(64)
PIXEL64 = base64.b64encode(PIXEL).decode()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "K"]}},
    "required": ["city"],
}
SHORT = 'city: string, days?: integer, unit?: "C" | "K"'
TOOL = Tool("weather", "Says how it is.", SHORT)
CALL = ToolCall("call_1", "weather", '{"city":"Zürich"}', {"city": "Zürich"})


def read(path: str, value: Any, kind: str = "application/json") -> RequestReading:
    found = read_request(path, kind, json.dumps(value).encode())
    assert found is not None
    return found
