"""Takes secrets out of recorded headers and queries. Bodies are left as they are.

Rather too much is taken than too little: `protocol.credentials` knows the names. A value that was taken out matches any
other when the recording is served, so what says something else (`page_token`) is let through: else all pages of a list
would be one.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from mitmproxy import http

from ..protocol.credentials import is_credential_parameter, is_credential_value, is_payment, is_secret_name
from .format import REDACTED

Fields = tuple[tuple[bytes, bytes], ...]

_REDACTED = REDACTED.encode()
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

    def texts(self, fields: Fields) -> tuple[tuple[str, str], ...]:
        """The same, one character a byte."""
        return tuple(
            [(name.decode("latin-1"), self._value(name.lower(), value).decode("latin-1")) for name, value in fields]
        )

    def path(self, path: bytes) -> bytes:
        """A request's path and query, or a URL, without secrets."""
        path, mark, query = path.partition(b"?")
        if self._has_token(path):
            path = path.replace(self._token or b"", _REDACTED)
            path = b"/".join(_REDACTED if self._has_token(segment) else segment for segment in path.split(b"/"))
            path = b"/" + _REDACTED if self._has_token(path) else path  # it holds slashes, some of them encoded
        return path + mark + b"&".join(self._part(part) for part in query.split(b"&"))

    def text(self, text: str) -> str:
        """A sentence without the client token."""
        return text if self._token is None else text.replace(self._token.decode("utf-8", "surrogateescape"), REDACTED)

    def shown(self, name: bytes, value: bytes) -> bytes:
        """A header's value as people may see it. Of an `Authorization` that pays, the scheme stays."""
        low = name.lower()
        if is_payment(name, value) and low == b"authorization":
            return value.partition(b" ")[0] + b" " + _REDACTED
        return self._value(low, value)

    def _value(self, name: bytes, value: bytes) -> bytes:
        if is_secret_name(name) or is_credential_value(value):
            return _REDACTED
        if name in _WITH_URL and b"?" in value:
            value = self.path(value)
        return value if self._token is None else value.replace(self._token, _REDACTED)

    def _part(self, part: bytes) -> bytes:
        """What stands between two ampersands; some servers take semicolons for the same."""
        if self._has_token(part):
            return self._parameter(part)
        return b";".join(map(self._parameter, part.split(b";"))) if b";" in part else self._parameter(part)

    def _parameter(self, piece: bytes) -> bytes:
        name, equals, value = piece.partition(b"=")
        if value and (is_secret_name(unquote_to_bytes(name)) or is_credential_parameter(piece)):
            return name + equals + _REDACTED
        return _REDACTED if self._has_token(piece) else piece

    def _has_token(self, text: bytes) -> bool:
        return self._token is not None and (self._token in text or self._token in unquote_to_bytes(text))
