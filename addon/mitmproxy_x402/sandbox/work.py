"""Finds what a request asks for (`Route`), and makes the answer (`Work`): models in four dialects, bytes, an echo."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from .answers import FREE, MODELS, Meaning, dump, meaning
from .records import ReceivedPayment, ReceivedRequest
from .vendors import chat, gemini, messages, responses
from .wire import Pairs

_GEMINI = re.compile(r"/v1(?:beta)?/models/([^/:]+):(generateContent|streamGenerateContent)")
_BLOB_PIECE = 64 * 1024

Dialect = Any
"""A module of `vendors`: it has `answer`, `stream` and `failure`."""

_COUNT = "/v1/messages/count_tokens"
_MODEL_PATHS: Mapping[str, tuple[str, Dialect]] = {
    "/v1/chat/completions": ("openai", chat),
    "/v1/messages": ("anthropic", messages),
    "/v1/responses": ("openai", responses),
}


@dataclass(frozen=True)
class Work:
    """An answer that is ready to be sent: whole, or piece by piece."""

    status: int
    headers: Pairs
    body: bytes = b""
    pieces: Iterator[bytes] | None = None
    """The events of a stream; None when the answer is `body`."""
    failure: Callable[[int], bytes] = lambda _: b""
    """What the vendor would say in the middle of a stream that fails, as its n-th event."""
    charge: bool = True
    """Whether this is what was paid for; False: money moves later, or has moved already."""


@dataclass(frozen=True)
class Route:
    """What a request is for. `work` takes Unix seconds."""

    free: bool
    vendor: str
    """The vendor in whose form errors are: `openai`, `anthropic`, `google`."""
    work: Callable[[int], Work]
    paid: Callable[[int, ReceivedPayment, str], Work] | None = None
    """Replaces `work` if the answer depends on the payment and on when its money moves: `before` the work,
    `after` it, or in `parallel`. Raises Rejected."""


def plain_path(path: str) -> str:
    """`/api/v1/...` and `/v1/...` are the same."""
    return path.removeprefix("/api") if path.startswith(("/api/v1/", "/api/v1beta/", "/api/health")) else path


def find_route(request: ReceivedRequest) -> Route | None:
    """The route of `request`, or None where there is nothing."""
    path = plain_path(request.path)
    if path in ("/health", "/v1/health"):
        return Route(True, "openai", lambda _: json_work({"status": "ok", "service": "mitmproxy-x402 sandbox"}))
    if path in ("/v1/models", "/v1beta/models") and request.method in ("GET", "HEAD"):
        return Route(True, "openai", _models)
    model = _model_route(request, path)
    if model is not None:
        return model
    if not path.startswith(("/v1/", "/v1beta/")):
        return None
    free = "/free/" in path or request.json.get("model") == FREE
    if path.endswith("/blob"):
        return Route(free, "openai", lambda _: _blob(request))
    return Route(free, "openai", lambda _: _echo(request))


def _model_route(request: ReceivedRequest, path: str) -> Route | None:
    body = request.json
    if request.method != "POST":
        return None
    if not body and (path in _MODEL_PATHS or _GEMINI.fullmatch(path)):
        refused = error_work("openai", 400, "The body is not a JSON object.")
        return Route(True, "openai", lambda _: refused)
    found = _GEMINI.fullmatch(path)
    if found:
        said = meaning(body, unquote(found[1]))
        return Route(said.model == FREE, "google", lambda _: _gemini(request, said, found[2]))
    if path == _COUNT:
        counted = meaning(body)
        return Route(counted.model == FREE, "anthropic", lambda _: json_work(messages.count(counted)))
    if path not in _MODEL_PATHS:
        return None
    vendor, dialect = _MODEL_PATHS[path]
    return Route(body.get("model") == FREE, vendor, lambda now: _model_work(body, dialect, now))


def _model_work(body: Mapping[str, Any], dialect: Dialect, now: int) -> Work:
    said = meaning(body)
    if body.get("stream") is True:
        return _events(dialect.stream(body, said, now), dialect)
    return json_work(dialect.answer(body, said, now))


def _gemini(request: ReceivedRequest, said: Meaning, verb: str) -> Work:
    if verb == "generateContent":
        return json_work(gemini.answer(request.json, said, 0))
    if parse_qs(request.query).get("alt") == ["sse"]:
        return _events(gemini.stream(request.json, said, 0), gemini)
    headers = [("Content-Type", "application/json; charset=UTF-8")]
    return Work(200, headers, pieces=gemini.array(request.json, said, 0), failure=gemini.array_failure)


def _events(pieces: Iterator[bytes], dialect: Dialect) -> Work:
    headers = [("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache")]
    return Work(200, headers, pieces=pieces, failure=dialect.failure)


def _models(now: int) -> Work:
    data = [
        {"id": name, "object": "model", "created": now, "owned_by": "sandbox", "description": what}
        for name, what in MODELS.items()
    ]
    return json_work({"object": "list", "data": data})


_PAYMENTS = frozenset({"payment-signature", "x-payment"})


def _echo(request: ReceivedRequest) -> Work:
    """Everything that arrived except payments, so that a test can see what a proxy changed."""
    seen: dict[str, Any] = {"method": request.method, "path": request.path, "query": request.query}
    headers = [[name, "(a payment)" if name.lower() in _PAYMENTS else value] for name, value in request.headers]
    seen |= {"headers": headers, "length": len(request.body)}
    seen["sha256"] = hashlib.sha256(request.body).hexdigest()
    if len(request.body) <= 4096:
        seen["body"] = base64.b64encode(request.body).decode()
    odd = [("X-Echo", "one"), ("x-ECHO", "two"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
    return Work(200, [("Content-Type", "application/json"), *odd], dump(seen).encode())


def _blob(request: ReceivedRequest) -> Work:
    """`?bytes=N` of a repeating pattern; chunked unless `&whole=1`."""
    query = parse_qs(request.query)
    try:
        length = int(query.get("bytes", ["1024"])[0])
    except ValueError:
        return json_work({"error": {"message": "bytes must be a whole number."}}, 400)
    headers = [("Content-Type", "application/octet-stream")]
    if "whole" in query:
        headers.append(("Content-Length", str(length)))
    return Work(200, headers, pieces=blob(length))


def blob(length: int) -> Iterator[bytes]:
    """The bytes that `/v1/blob?bytes=LENGTH` answers."""
    block = bytes(range(256)) * (_BLOB_PIECE // 256)
    for start in range(0, length, _BLOB_PIECE):
        yield block[: length - start]


def json_work(value: Mapping[str, Any], status: int = 200) -> Work:
    """An answer in JSON."""
    return Work(status, [("Content-Type", "application/json")], json.dumps(value, ensure_ascii=False).encode())


_KINDS = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}


def error_work(vendor: str, status: int, message: str, headers: Pairs = ()) -> Work:
    """An error in the shape of the vendor's own."""
    kind = _KINDS.get(status, "api_error" if vendor == "anthropic" else "server_error")
    body: Mapping[str, Any]
    if vendor == "anthropic":
        body = {"type": "error", "error": {"type": kind, "message": message}}
    elif vendor == "google":
        body = {"error": {"code": status, "message": message, "status": kind.upper()}}
    else:
        body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    work = json_work(body, status)
    return Work(status, [*work.headers, *headers], work.body)
