"""Sends one HTTP or JSON-RPC request, bounded in time and size, over verified TLS."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

import certifi
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.simple_httpclient import (
    HTTPStreamClosedError,
    HTTPTimeoutError,
    SimpleAsyncHTTPClient,
    _HTTPConnection,
)

from .. import __version__

MAX_ANSWER = 2 << 20
"""Most bytes of an answer; a long list of models has several hundred thousand."""


class _Connection(_HTTPConnection):
    def _handle_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> bool:
        """Handle an exception as Tornado does, but do not log a TLS handshake that fails after a time-out."""
        return super()._handle_exception(typ, value, tb) or isinstance(value, OSError)  # ssl.SSLError is one


class HttpClient(SimpleAsyncHTTPClient):
    """Tornado's client, without log lines for connections that fail after their request has timed out."""

    def _connection_class(self) -> type:
        return _Connection


class Unreachable(Exception):
    """There was no usable answer. The text says why, without any part of a URL or of the answer."""


class Declined(Unreachable):
    """The server refuses this request: a JSON-RPC error, or an answer above MAX_ANSWER.

    Another request, for example for less data, may succeed.
    """


class TooFar(Unreachable):
    """The server does not search so many blocks; a shorter range may succeed."""


class Busy(Unreachable):
    """The server asks for a pause: HTTP 429, 503, or an error that says so."""


@dataclass(frozen=True)
class Trust:
    """The certificate authorities to trust, by mitmproxy's ssl_verify_upstream_trusted_ca and ..._confdir.

    None: the usual ones.
    """

    ca_file: str | None = None
    ca_folder: str | None = None

    def context(self) -> ssl.SSLContext:
        """The TLS context of a client. Raises Unreachable: the configured file cannot be used."""
        usual = self.ca_file is None and self.ca_folder is None
        try:
            return ssl.create_default_context(
                cafile=certifi.where() if usual else self.ca_file, capath=None if usual else self.ca_folder
            )
        except (OSError, ssl.SSLError):
            raise Unreachable("the authorities in ssl_verify_upstream_trusted_ca cannot be loaded") from None


async def ask(url: str, seconds: float, body: object = None, trust: Trust | None = None) -> HTTPResponse:
    """The answer to a GET, or to a POST of `body` as JSON, whatever its status. Raises Unreachable."""
    client = HttpClient(force_instance=True, max_body_size=MAX_ANSWER, max_buffer_size=MAX_ANSWER)
    headers = {"Accept": "application/json"}
    try:
        request = HTTPRequest(
            url,
            method="GET" if body is None else "POST",
            body=None if body is None else json.dumps(body),
            headers=headers if body is None else {**headers, "Content-Type": "application/json"},
            user_agent=f"mitmproxy-x402/{__version__}",
            connect_timeout=seconds,
            request_timeout=seconds,
            follow_redirects=False,
            ssl_options=(trust or Trust()).context() if url.startswith("https:") else None,
        )
        return await client.fetch(request, raise_error=False)
    except Unreachable:
        raise
    except Exception as error:  # servers can fail in many ways
        if "too long" in str(error) or "too large" in str(error):
            raise Declined(f"its answer has more than {MAX_ANSWER} bytes") from None
        raise Unreachable(_why(error, seconds)) from None
    finally:
        client.close()


def _why(error: Exception, seconds: float) -> str:
    if isinstance(error, HTTPTimeoutError):
        return f"no answer within {seconds:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "it does not speak TLS as it should"
    if isinstance(error, HTTPStreamClosedError):
        return "it closed the connection without an answer"
    if isinstance(error, socket.gaierror):
        return "its name cannot be looked up"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "could not be reached"


def origin(url: str) -> str:
    """Scheme, host and port of `url`, for messages: an API key may be in the rest."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "an unreadable URL"


Call = tuple[str, list[object]]
"""A method and its parameters."""


async def json_rpc(url: str, seconds: float, method: str, parameters: list[object]) -> object:
    """The result of a JSON-RPC 2.0 call. Raises Unreachable; Declined or Busy: the server answered with an error."""
    said = await _post(url, seconds, _question(1, (method, parameters)))
    result = _result(said, method)
    if isinstance(result, Unreachable):
        raise result
    return result


async def json_rpc_batch(url: str, seconds: float, calls: Sequence[Call]) -> list[object]:
    """The results of several calls in one request, in order; a failed call gives its Declined or Busy as a result.

    Raises Unreachable; Declined: the server accepts no batches, or none of this size.
    """
    said = await _post(url, seconds, [_question(number, call) for number, call in enumerate(calls)])
    if not isinstance(said, list):
        result = _result(said, "a batch")
        raise result if isinstance(result, Unreachable) else Declined("it answers no batches")
    by_id = {each["id"]: each for each in said if isinstance(each, dict) and type(each.get("id")) is int}
    return [_result(by_id.get(number), method) for number, (method, _) in enumerate(calls)]


def _question(number: int, call: Call) -> dict[str, object]:
    method, parameters = call
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}


_BUSY_STATUS = frozenset({429, 503})
_BUSY_CODES = frozenset({429, -32005, -32016, -32029})
"""Error codes for too many requests. Some RPCs also use them for too wide a range."""


async def _post(url: str, seconds: float, body: object) -> object:
    response = await ask(url, seconds, body)
    if response.code in _BUSY_STATUS:
        raise Busy(f"HTTP {response.code}")
    try:
        return json.loads(response.body or b"")
    except (ValueError, RecursionError):
        pass
    if response.code == 200:
        raise Unreachable("its answer is not JSON-RPC")
    kind = Declined if response.code in (400, 413) else Unreachable
    raise kind(f"HTTP {response.code}")


def _result(said: object, method: str) -> object:
    """The result of one call, or the Unreachable that describes its failure."""
    if not isinstance(said, dict):
        return Unreachable("its answer is not JSON-RPC")
    error = said.get("error")
    if error is None and "result" in said:
        result: object = said["result"]
        return result
    code = error.get("code") if isinstance(error, dict) else None
    if type(code) is not int:
        return Unreachable("its answer is not JSON-RPC")
    text = f"{method} gives error {code}"
    message = error.get("message") if isinstance(error, dict) else None
    wide = isinstance(message, str) and any(word in message.lower() for word in ("range", "block", "result", "size"))
    return Busy(text) if code in _BUSY_CODES and not wide else Declined(text)
