"""Takes the secrets out of what is written about a flow: headers and the query. Bodies are left as they are.

Rather too much is taken than too little: a header or parameter whose name says that it is a credential is one. Only
names that are known to say something else (`sort_key`, `page_token`) are let through: a value that was taken out
matches any other when the recording is served, so all pages of a list would be one.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from mitmproxy import http

from ..protocol.credentials import CREDENTIALS, PAYMENT_HEADERS
from .format import REDACTED

Fields = tuple[tuple[bytes, bytes], ...]

_REDACTED = REDACTED.encode()
_SECRET_HEADERS = frozenset(
    name.encode() for name in (*CREDENTIALS, *PAYMENT_HEADERS, "set-cookie", "x-poll-signature")
)
_SECRET_HEADER = re.compile(
    rb"(.*[-_])?(key|api[-_]?key|token|secret|password|credentials?|auth|authorization|signature|cookie)"
)
_NO_SECRETS = frozenset((b"idempotency-key", b"sec-websocket-key"))
_SECRET_PARAMETER = re.compile(
    rb"(.*[-_])?(key|api[-_]?key|token|accesstoken|authtoken|auth|authorization|sig|signature|secret|clientsecret"
    rb"|password|passwd|pwd|credentials?)"
)
_NO_SECRET_PARAMETER = re.compile(
    rb"(sort|order|group|partition|row|cache|idempotency)[-_]?key"
    rb"|((next[-_]?)?page|next|prev|previous|pagination|continuation|cursor|skip|start)[-_]?(key|token)"
)
_HUMP = re.compile(rb"(?<=[a-z0-9])(?=[A-Z])")
_WITH_URL = frozenset((b"location", b"content-location", b"referer", b"link", b"refresh", b"operation-location"))


class Redactor:
    """Takes out what is secret by its name, and `client_token` wherever it stands."""

    def __init__(self, client_token: str | None = None) -> None:
        self._token = client_token.encode("utf-8", "surrogateescape") if client_token else None

    def fields(self, headers: http.Headers | None) -> Fields:
        """The headers as they came, without their secrets."""
        return (
            () if headers is None else tuple((name, self._value(name.lower(), value)) for name, value in headers.fields)
        )

    def path(self, path: bytes) -> bytes:
        """A request's path and query, or a URL, without secrets."""
        path, mark, query = path.partition(b"?")
        if self._has_token(path):
            path = path.replace(self._token or b"", _REDACTED)
            path = b"/".join(_REDACTED if self._has_token(segment) else segment for segment in path.split(b"/"))
            path = b"/" + _REDACTED if self._has_token(path) else path  # it holds slashes, some of them encoded
        return path + mark + b"&".join(self._parameter(part) for part in query.split(b"&"))

    def text(self, text: str) -> str:
        """A sentence without the client token."""
        return text if self._token is None else text.replace(self._token.decode("utf-8", "surrogateescape"), REDACTED)

    def _value(self, name: bytes, value: bytes) -> bytes:
        if name in _SECRET_HEADERS or (_SECRET_HEADER.fullmatch(name) and name not in _NO_SECRETS):
            return _REDACTED
        if name in _WITH_URL and b"?" in value:
            value = self.path(value)
        return value if self._token is None else value.replace(self._token, _REDACTED)

    def _parameter(self, part: bytes) -> bytes:
        name, equals, value = part.partition(b"=")
        if value and _is_secret_parameter(unquote_to_bytes(name)):
            return name + equals + _REDACTED
        return _REDACTED if self._has_token(part) else part

    def _has_token(self, text: bytes) -> bool:
        return self._token is not None and (self._token in text or self._token in unquote_to_bytes(text))


def _is_secret_parameter(name: bytes) -> bool:
    name = _HUMP.sub(b"_", name).lower()  # sessionToken is session_token
    return bool(_SECRET_PARAMETER.fullmatch(name)) and not _NO_SECRET_PARAMETER.fullmatch(name)
