"""Reads where the ledger is: a SQLite file, or a PostgreSQL database that many proxies share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from .options import PREFIX
from .values import Given, is_loopback, path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HOST = r"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.%]+\])?(?::[0-9]{1,5})?"
_URL = re.compile(
    r"postgres(?:ql)?://"
    r"(?:(?P<user>[^/?#@:\s]*)(?::(?P<password>[^/?#@\s]*))?@)?"
    rf"(?P<hosts>{_HOST}(?:,{_HOST})*)"
    r"(?:/(?P<database>[^/?#@:\s]*))?"
    r"(?:\?(?P<parameters>[a-z_]+=[^?#\s&]*(?:&[a-z_]+=[^?#\s&]*)*))?"
)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")


@dataclass(frozen=True)
class PostgresUrl:
    """A database, as libpq names it: `postgresql://user@host/database?sslmode=verify-full`. Shown without secrets."""

    url: str = field(repr=False)
    """May hold a password: for libpq alone, never for people."""

    def __str__(self) -> str:
        parts, more = self._parts, self.parameters
        user = more.get("user") or unquote(parts["user"] or "")
        hosts = ",".join(quote(host, safe=":,") for host in more["host"].split(",")) if "host" in more else ""
        port = f":{more['port']}" if "port" in more else ""
        database = more.get("dbname") or unquote(parts["database"] or "")
        at = f"{quote(user, safe='')}@" if user else ""
        return f"postgresql://{at}{hosts or parts['hosts']}{port}/{quote(database, safe='')}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The passwords, in each form in which an error of libpq might show them."""
        given = [self._parts["password"] or "", *(self.parameters.get(key, "") for key in ("password", "sslpassword"))]
        return tuple(dict.fromkeys(form for text in given if text for form in (text, unquote(text))))

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters behind the question mark, decoded."""
        return dict(parse_qsl(self._parts["parameters"] or "", keep_blank_values=True))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names, addresses and folders of sockets; empty where libpq is to look itself."""
        named = self.parameters.get("hostaddr") or self.parameters.get("host")
        if named:
            return tuple(named.split(","))
        hosts = [re.sub(r":[0-9]{1,5}$", "", host) for host in self._parts["hosts"].split(",") if host]
        return tuple(unquote(host).strip("[]") for host in hosts if host)

    @property
    def _parts(self) -> Mapping[str, str]:
        found = _URL.fullmatch(self.url)
        assert found is not None
        return found.groupdict()


LedgerPlace = Path | PostgresUrl
"""Its text is fit for people."""


def ledger_place(given: Given) -> LedgerPlace:
    """A file's path, or a PostgreSQL URL. Nothing that looks like a URL is ever shown: it may hold a password."""
    text = given.value
    if not isinstance(text, str) or not _SCHEME.match(text):
        return path(given)
    if not text.isascii() or not _URL.fullmatch(text) or _BAD_ESCAPE.search(text):
        raise given.wrong(
            "expected the path of a file, or postgresql://USER@HOST/DATABASE?sslmode=verify-full; within user and "
            "password, characters such as @ : / ? # % are written as %40 %3A %2F %3F %23 %25",
            show=False,
        )
    return PostgresUrl(text)


def ledger_warnings(given: Given, place: LedgerPlace, environ: Mapping[str, str]) -> Iterator[str]:
    """What the user should know about `place`, which was read from `given`."""
    if not isinstance(place, PostgresUrl):
        return
    if place.secrets and given.where.startswith(PREFIX):
        yield (
            f"{given.where} holds a password, and mitmweb and the list of processes show options: set X402_LEDGER "
            "instead, or keep the password in ~/.pgpass"
        )
    away = [host for host in place.hosts if not host.startswith(("/", "@")) and not is_loopback(host)]
    if away and "sslmode" not in place.parameters and not environ.get("PGSSLMODE"):
        yield (
            f"the connection to the ledger on {', '.join(away)} is not verified: add ?sslmode=verify-full to its URL "
            "(sslmode=disable says that the network is trusted)"
        )
