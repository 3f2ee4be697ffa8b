"""Takes secrets out of recorded headers and queries. Bodies are left as they are.

Rather too much is taken than too little: `protocol.credentials` knows the names. A value that was taken out matches any
other when the recording is served, so what says something else (`page_token`) is let through: else all pages of a list
would be one.
"""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from mitmproxy import http

from ..protocol.credentials import (
    holds_payment,
    is_credential_parameter,
    is_credential_value,
    is_payment,
    is_secret_name,
)
from .format import REDACTED

Fields = tuple[tuple[bytes, bytes], ...]

_REDACTED = REDACTED.encode()
MAX_FIELDS = 1000
"""Most fields of a head that are looked at; of the rest every value is taken out."""
MAX_PARAMETERS = 1000
"""Most parameters in all URLs of a head that are looked at; of a URL beyond that the whole query is taken out."""
_MAX_KNOWN = 2048
_MAX_KNOWN_FIELD = 4096
_MAX_KNOWN_BYTES = 256 << 10
"""Bounds of the fields that are remembered as having no secret, their number, the bytes of one and of all: clients and
gateways send most of them every time, the terms of a challenge among them."""
_LONG_NAME = 20
"""Bytes of a name from which on the name itself may be a secret."""
_WITH_URL = frozenset((b"location", b"content-location", b"referer", b"link", b"refresh", b"operation-location"))


class Redactor:
    """Takes out what is secret by its name, and `client_token` wherever it stands."""

    def __init__(self, client_token: str | None = None) -> None:
        self._token = client_token.encode("utf-8", "surrogateescape") if client_token else None
        self._known: dict[tuple[bytes, bytes], tuple[str, str]] = {}
        self._known_bytes = 0
        """Fields that hold no secret, or no longer, with their text."""

    def fields(self, headers: http.Headers | None) -> Fields:
        """The headers in wire form, secrets replaced."""
        fields = () if headers is None else headers.fields
        return tuple((name, value) for (name, _), value in zip(fields, self._values(fields), strict=True))

    def texts(self, fields: Fields) -> tuple[tuple[str, str], ...]:
        """The headers as text (ISO-8859-1), secrets replaced."""
        known = self._known.get
        texts = [known(field) for field in fields[:MAX_FIELDS]]
        if len(texts) == len(fields) and all(texts):
            return tuple([text for text in texts if text is not None])
        values = self._values(fields)
        return tuple(
            [(name.decode("latin-1"), value.decode("latin-1")) for (name, _), value in zip(fields, values, strict=True)]
        )

    def path(self, path: bytes) -> bytes:
        """A request's path and query, or a URL, without secrets."""
        path, mark, query = path.partition(b"?")
        if not mark and self._token is None:
            return path
        if self._has_token(path):
            path = path.replace(self._token or b"", _REDACTED)
            path = b"/".join(_REDACTED if self._has_token(segment) else segment for segment in path.split(b"/"))
            path = b"/" + _REDACTED if self._has_token(path) else path  # it holds slashes, some of them encoded
        if _separators(query) > MAX_PARAMETERS:
            return path + mark + _REDACTED
        return path + mark + b"&".join(self._part(part) for part in query.split(b"&"))

    def text(self, text: str) -> str:
        """A sentence without the client token."""
        return text if self._token is None else text.replace(self._token.decode("utf-8", "surrogateescape"), REDACTED)

    def reason(self, phrase: bytes) -> bytes:
        """A reason phrase, or all of it taken out."""
        return _REDACTED if self._has_token(phrase) or holds_payment(phrase) else phrase

    def shown(self, fields: Fields) -> list[bytes]:
        """The headers' values as people may see them. Of an `Authorization` that pays, the scheme stays."""
        return [
            real.partition(b" ")[0] + b" " + _REDACTED
            if value is _REDACTED and name.lower() == b"authorization" and is_payment(name, real)
            else value
            for (name, real), value in zip(fields, self._values(fields), strict=True)
        ]

    def knows(self, field: tuple[bytes, bytes]) -> bool:
        """Whether `field` was seen before, and no secret or payment is in its name or its value."""
        name, value = field
        return field in self._known and type(value) is bytes and len(name) <= _LONG_NAME

    def _values(self, fields: Fields) -> list[bytes]:
        """The values of a head's fields, without their secrets."""
        room = MAX_PARAMETERS
        values = []
        for field in fields[:MAX_FIELDS]:
            name, value = field
            if field in self._known:
                values.append(value)
                continue
            low = name.lower()
            if low in _WITH_URL and (count := _separators(value)):
                room -= count
                if room < 0:
                    value = value.partition(b"?")[0] + b"?" + _REDACTED
            seen = self._value(low, value)
            values.append(seen)
            # The parameters of all URLs of a head count together, so each is looked at.
            if seen == field[1] and low not in _WITH_URL and len(name) + len(seen) <= _MAX_KNOWN_FIELD:
                self._remember(name, seen)
        return values + [_REDACTED] * (len(fields) - len(values))

    def _remember(self, name: bytes, seen: bytes) -> None:
        """A field is seen as it came. Of one that was veiled before, no more than what is seen is kept."""
        self._known_bytes += len(name) + len(seen)
        if len(self._known) >= _MAX_KNOWN or self._known_bytes > _MAX_KNOWN_BYTES:
            self._known.clear()
            self._known_bytes = len(name) + len(seen)
        name, seen = bytes(name), bytes(seen)
        self._known[name, seen] = name.decode("latin-1"), seen.decode("latin-1")

    def _value(self, name: bytes, value: bytes) -> bytes:
        if is_secret_name(name) or is_credential_value(value) or holds_payment(value):
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
        return _REDACTED if self._has_token(piece) or holds_payment(unquote_to_bytes(piece)) else piece

    def _has_token(self, text: bytes) -> bool:
        return self._token is not None and (self._token in text or self._token in unquote_to_bytes(text))


def _separators(query: bytes) -> int:
    """How many ampersands and semicolons there are; parameters stand between them."""
    return query.count(b"&") + query.count(b";")
