"""How `check` asks a server: one request, bounded in time and size, TLS verified as the proxy verifies it."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import certifi
from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.simple_httpclient import HTTPStreamClosedError, HTTPTimeoutError, SimpleAsyncHTTPClient

from .. import __version__

MAX_ANSWER = 2 << 20
"""Bytes of an answer that are read; a long list of models has some hundred thousand."""


class Unreachable(Exception):
    """No usable answer. The text says why, and repeats nothing of a URL or of the answer."""


@dataclass(frozen=True)
class Trust:
    """Whose certificates are believed: mitmproxy's options of that name. None: the usual authorities."""

    ca_file: str | None = None
    ca_folder: str | None = None

    def context(self) -> ssl.SSLContext:
        """For the client's side. Raises Unreachable: the named file cannot be used."""
        usual = self.ca_file is None and self.ca_folder is None
        try:
            return ssl.create_default_context(
                cafile=certifi.where() if usual else self.ca_file, capath=None if usual else self.ca_folder
            )
        except (OSError, ssl.SSLError):
            raise Unreachable("the authorities in ssl_verify_upstream_trusted_ca cannot be loaded") from None


async def ask(url: str, seconds: float, body: object = None, trust: Trust | None = None) -> HTTPResponse:
    """The answer to a GET, or to a POST of `body` as JSON, whatever its status. Raises Unreachable."""
    client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=MAX_ANSWER, max_buffer_size=MAX_ANSWER)
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
    except Exception as error:  # every server may fail in its own way
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
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "could not be reached"


def origin(url: str) -> str:
    """Scheme, host and port of `url`: an API key may be in its user, path or query."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        return "an unreadable URL"


async def json_rpc(url: str, seconds: float, method: str, parameters: list[object]) -> object:
    """The result of a JSON-RPC 2.0 call. Raises Unreachable, for an error that the server gives too."""
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    response = await ask(url, seconds, question)
    try:
        said = json.loads(response.body or b"")
    except (ValueError, RecursionError):
        said = None
    if isinstance(said, dict) and said.get("error") is None and "result" in said and response.code == 200:
        result: object = said["result"]
        return result
    error = said.get("error") if isinstance(said, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if type(code) is int:
        raise Unreachable(f"{method} gives error {code}")
    raise Unreachable(f"HTTP {response.code}" if response.code != 200 else "its answer is no JSON-RPC")
