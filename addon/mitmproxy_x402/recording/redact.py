"""Replaces secrets in recorded headers and queries by `[redacted]`. Bodies are left as they are.

`protocol.credentials` decides by name and value, and redacts too much rather than too little. A redacted value
matches any other when the recording is served, so harmless names such as `page_token` are exempt: else all pages of a
list would look equal.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from ..protocol.credentials import (
    is_credential_value,
    is_payment,
    is_secret_field,
    is_secret_name,
    is_secret_parameter,
)
from ..protocol.payment_echoes import holds_payment
from .format import REDACTED
from .head import header_line

if TYPE_CHECKING:  # importing it takes half a second, which showing a file does not need
    from mitmproxy import http

Fields = tuple[tuple[bytes, bytes], ...]

_REDACTED = REDACTED.encode()
MAX_FIELDS = 1000
"""Most headers of a message that are examined; the values of all further ones are redacted."""
MAX_PARAMETERS = 100
"""Most parameters in all URLs of a message's headers that are examined; beyond that, whole queries are redacted. Each
takes up to a tenth of a millisecond of the event loop."""
_MAX_KNOWN = 2048
_MAX_KNOWN_FIELD = 4096
_MAX_KNOWN_BYTES = 256 << 10
"""Bounds of the cache of headers without a secret: their number, the bytes of one, and the bytes of all. Clients and
gateways repeat most headers with each message."""
_MAX_SECRETS = 100
_LONG_NAME = 20
"""Longest name in bytes that cannot itself be a secret."""
_WHOLE = frozenset((b"location", b"content-location", b"referer", b"operation-location"))
"""Headers whose value is one URL, in which blanks may stand."""
_WITH_URL = _WHOLE | {b"link", b"refresh"}
"""Headers whose URLs differ from message to message, so that they are not worth a place in the cache."""
_WORDS = re.compile(rb"([\s<>\"]+)")
"""Separates the URLs of any other header, as of `Link`, `Refresh`, JSON or a Content-Security-Policy."""
_QUERY_OF_WHOLE = re.compile(rb"[?#].*", re.DOTALL)
_QUERY_OF_WORD = re.compile(rb"[?#][^\s<>\"]*")
_AFTER_WORD = b",'\\)}"
"""What stands behind a URL, not in it. No bracket: what was redacted before ends in one."""

_TO_HOST = rb"([/\\]\t*[/\\]|(?i:\b(?:https?|wss?|ftp):)[/\\]*)"
_USER = re.compile(_TO_HOST + rb"[^/\\?#<>\" ]+@")
"""Name and password before the host of a URL. Browsers take backslashes, and one slash or none, for two."""
_USER_IN_WHOLE = re.compile(_TO_HOST + rb"[^/\\?#]+@")
_USER_WITHIN = re.compile(rb"([/\\]{2})[^/\\?#<>\" &]+(@|%40)")
_USER_ENCODED = re.compile(
    rb"(%(?P<n>(?:25){0,2})(?:2f|5c)%(?P=n)(?:2f|5c))(?:(?!%(?P=n)(?:2f|5c|3f|23|20))[^/\\?#<>\" &])+(@|%(?P=n)40)",
    re.IGNORECASE,
)
"""The same in a URL that is a parameter of another: once or several times with percent signs, all alike."""
_MAY_HOLD_URL = re.compile(rb"[%/?\\#]")
_QUERY_WITHIN = re.compile(rb"[?#]|%(?:25){0,2}(?:3f|23)", re.IGNORECASE)
_SLASH_WITHIN = re.compile(rb"/|%(?:25){0,2}2f|=\Z", re.IGNORECASE)
_SEPARATOR_WITHIN = re.compile(rb"([?#&;]|%(?:25){0,2}(?:3f|23|26|3b|20))", re.IGNORECASE)
_EQUALS_WITHIN = re.compile(rb"=|%(?:25){0,2}3d", re.IGNORECASE)


class Redactor:
    """Redacts values with secret names or forms, and `client_token` wherever it occurs."""

    def __init__(self, client_token: str | None = None) -> None:
        self._token = client_token.encode("utf-8", "surrogateescape") if client_token else None
        self._in_base64 = _in_base64(self._token or b"")
        self._known: dict[tuple[bytes, bytes], tuple[str, str]] = {}
        self._known_bytes = 0
        """Bytes of the headers in `_known`, which maps headers without a secret to their text."""
        self._lines: dict[tuple[bytes, bytes], str] = {}
        """The same headers in JSON."""
        self._secrets: dict[bytes, str] = {}
        """Names whose values are always secret, with the header in JSON."""

    def with_token(self, client_token: str | None) -> Redactor:
        """This redactor, which knows many headers by now, or a new one for another token."""
        other = Redactor(client_token)
        return self if other._token == self._token else other

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

    def lines(self, fields: Fields) -> list[str]:
        """The headers in JSON (ISO-8859-1), secrets replaced."""
        lines, secrets = self._lines, self._secrets
        found: list[str] = []
        for field in fields:
            line = lines.get(field) or secrets.get(field[0]) or self._line(field)
            if not line or len(found) == MAX_FIELDS:
                return [header_line(name, value) for name, value in self.texts(fields)]
            found.append(line)
        return found

    def _line(self, field: tuple[bytes, bytes]) -> str:
        """One header in JSON; empty: it must be seen together with the others."""
        name = field[0]
        low = name.lower()
        if low in _WITH_URL or (_parameters(low, field[1]) and field not in self._known):
            return ""
        (value,) = self._values((field,))
        line = header_line(name.decode("latin-1"), value.decode("latin-1"))
        if field in self._known:
            if len(self._lines) >= _MAX_KNOWN:
                self._lines.clear()
            self._lines[bytes(name), bytes(field[1])] = line  # of a veiled one, only the visible value
        elif is_secret_name(low) and len(name) <= _LONG_NAME and len(self._secrets) < _MAX_SECRETS:
            self._secrets[bytes(name)] = line
        return line

    def path(self, path: bytes) -> bytes:
        """A request's path and query, or a URL, without secrets. OAuth's tokens may stand in a fragment, too."""
        if b"#" in path:
            path, _, fragment = path.partition(b"#")
            return self.path(path) + b"#" + self._query(fragment)
        path, mark, query = path.partition(b"?")
        if b"@" in path:
            path = _USER.sub(rb"\1" + _REDACTED + b"@", path)
        if not mark and self._token is None:
            return path
        if self._has_token(path):
            path = path.replace(self._token or b"", _REDACTED)
            path = b"/".join(_REDACTED if self._has_token(segment) else segment for segment in path.split(b"/"))
            path = b"/" + _REDACTED if self._has_token(path) else path  # the token holds slashes, some of them encoded
        return path + mark + self._query(query)

    def _query(self, query: bytes) -> bytes:
        if _separators(query) > MAX_PARAMETERS:
            return _REDACTED
        seen = [self._part(part) for part in query.split(b"&")]
        return b"&".join(_within(seen) if _MAY_HOLD_URL.search(query) else seen)

    def text(self, text: str) -> str:
        """`text` without the client token."""
        return text if self._token is None else text.replace(self._token.decode("utf-8", "surrogateescape"), REDACTED)

    def reason(self, phrase: bytes) -> bytes:
        """A reason phrase; redacted as a whole if it holds the client token, a payment or a credential."""
        if self._has_token(phrase):
            return _REDACTED
        return self._value(b"", phrase, has_parameters=0 < _parameters(b"", phrase) <= MAX_PARAMETERS)

    def shown(self, fields: Fields) -> list[bytes]:
        """The values of `fields` as people may see them. An `Authorization` that pays keeps its scheme."""
        return [
            real.partition(b" ")[0] + b" " + _REDACTED
            if value is _REDACTED and name.lower() == b"authorization" and is_payment(name, real)
            else value
            for (name, real), value in zip(fields, self._values(fields), strict=True)
        ]

    def knows(self, field: tuple[bytes, bytes]) -> bool:
        """Whether `field` is in the cache of headers without a secret, and its name is short."""
        name, value = field
        return field in self._known and type(value) is bytes and len(name) <= _LONG_NAME

    def _values(self, fields: Fields) -> list[bytes]:
        """The values of `fields`, with secrets replaced."""
        room = MAX_PARAMETERS
        values = []
        for field in fields[:MAX_FIELDS]:
            name, value = field
            if field in self._known:
                values.append(value)
                continue
            low = name.lower()
            if count := _parameters(low, value):
                room -= count
                if room < 0:
                    value = _queries(low).sub(lambda found: found[0][:1] + _REDACTED, value)
            seen = self._value(low, value, has_parameters=count > 0 <= room)
            values.append(seen)
            if seen == field[1] and low not in _WITH_URL and len(name) + len(seen) <= _MAX_KNOWN_FIELD:
                self._remember(name, seen)
        return values + [_REDACTED] * (len(fields) - len(values))

    def _remember(self, name: bytes, seen: bytes) -> None:
        """Cache a header without a secret; of a veiled one, only the visible value is kept."""
        self._known_bytes += len(name) + len(seen)
        if len(self._known) >= _MAX_KNOWN or self._known_bytes > _MAX_KNOWN_BYTES:
            self._known.clear()
            self._lines.clear()
            self._known_bytes = len(name) + len(seen)
        name, seen = bytes(name), bytes(seen)
        self._known[name, seen] = name.decode("latin-1"), seen.decode("latin-1")

    def _value(self, name: bytes, value: bytes, *, has_parameters: bool = False) -> bytes:
        if is_secret_field(name, value) or is_credential_value(value) or holds_payment(value, name):
            return _REDACTED
        if b"@" in value:
            value = (_USER_IN_WHOLE if name in _WHOLE else _USER).sub(rb"\1" + _REDACTED + b"@", value)
        if has_parameters:
            value = _queries(name).sub(self._query_of_url, value)
        if self._token is None:
            return value
        value = value.replace(self._token, _REDACTED)
        for coded in self._in_base64:
            if coded in value:
                value = value.replace(coded, _REDACTED)
        if b"%" in value and self._has_token(value):
            value = b"".join(map(self.path, _WORDS.split(value)))
        return value

    def _query_of_url(self, found: re.Match[bytes]) -> bytes:
        query = found[0]
        kept = query.rstrip(_AFTER_WORD)
        return self.path(kept) + query[len(kept) :]

    def _part(self, part: bytes) -> bytes:
        """Redact the text between two ampersands; some servers also separate parameters by semicolons."""
        if self._has_token(part):
            return self._parameter(part)
        return b";".join(map(self._parameter, part.split(b";"))) if b";" in part else self._parameter(part)

    def _parameter(self, piece: bytes) -> bytes:
        name, equals, value = piece.partition(b"=")
        if value and is_secret_parameter(piece):
            return name + equals + _REDACTED
        return _REDACTED if self._has_token(piece) or holds_payment(piece, name) else piece

    def _has_token(self, text: bytes) -> bool:
        if self._token is None:
            return False
        return (
            self._token in text or self._token in unquote_to_bytes(text) or any(map(text.__contains__, self._in_base64))
        )


def _in_base64(token: bytes) -> tuple[bytes, ...]:
    """What is in base64 of anything with `token` in it, wherever that begins; nothing of a short one."""
    if len(token) < _SHORTEST_IN_BASE64:
        return ()
    coded = [b64encode(bytes(n) + token)[-(-4 * n // 3) : (n + len(token)) * 4 // 3] for n in range(3)]
    return tuple({*coded, *[each.translate(_FOR_URLS) for each in coded]})


_SHORTEST_IN_BASE64 = 8
_FOR_URLS = bytes.maketrans(b"+/", b"-_")


def _separators(query: bytes) -> int:
    """The number of ampersands and semicolons, which separate parameters."""
    return query.count(b"&") + query.count(b";")


def _parameters(name: bytes, value: bytes) -> int:
    """How many parameters the URLs of a header have, at most."""
    count = value.count(b"?") + value.count(b"#")
    if not count or (b"=" not in value and name not in _WITH_URL):
        return 0
    if count > MAX_PARAMETERS:
        return count
    return count + _separators(b"".join(_queries(name).findall(value)))


def _queries(name: bytes) -> re.Pattern[bytes]:
    """What finds the queries and fragments in the header `name`."""
    return _QUERY_OF_WHOLE if name in _WHOLE else _QUERY_OF_WORD


def _within(parts: list[bytes]) -> list[bytes]:
    """The parameters of a query, without secrets of the URLs in them."""
    room = MAX_PARAMETERS
    seen = []
    for part in parts:
        one = _USER_WITHIN.sub(rb"\1" + _REDACTED + rb"\2", part)
        one = _USER_ENCODED.sub(rb"\1" + _REDACTED + rb"\3", one)
        mark = _QUERY_WITHIN.search(one)
        if mark is not None and _SLASH_WITHIN.search(one, 0, mark.start()):
            pieces = _SEPARATOR_WITHIN.split(one[mark.start() :], room)
            room = max(1, room - len(pieces) // 2)
            one = one[: mark.start()] + b"".join(map(_piece_within, pieces))
        seen.append(one)
    return seen


def _piece_within(piece: bytes) -> bytes:
    if _SEPARATOR_WITHIN.search(piece):  # itself one, or more than are examined
        return piece if _SEPARATOR_WITHIN.fullmatch(piece) else _REDACTED
    equals = _EQUALS_WITHIN.search(piece)
    if equals is None:
        return _REDACTED if is_secret_parameter(piece) else piece
    name, value = piece[: equals.start()], piece[equals.end() :]
    is_secret = bool(value) and is_secret_parameter(unquote_to_bytes(unquote_to_bytes(name)) + b"=" + value)
    return piece[: equals.end()] + _REDACTED if is_secret else piece
