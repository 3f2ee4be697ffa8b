"""Reads single values of the configuration: one typed value, or one line that says what is wrong.

A value comes as text (mitmproxy option, environment) or as TOML typed it. Nothing is rounded, guessed or cut.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit

from ..errors import SettingsError
from ..protocol.amounts import MICRO

T = TypeVar("T")

MAX_USD = 1_000_000
"""No limit above this is believed: a million dollars a request is a slip of the finger."""

_USD = re.compile(r"(?P<whole>[0-9]{1,15})(?:\.(?P<part>[0-9]{1,6}))?")
_WHOLE = re.compile(r"[0-9]{1,9}")
_DECIMAL = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")
_SIZE = re.compile(r"([0-9]{1,10})([kmg]?)b?")
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30}
_FLAGS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
_TOKEN = re.compile(r"[!-~]{8,512}")
_KEY_LIKE = re.compile(r"(?:0x)?[0-9a-fA-F]{64}|[0-9a-fA-F]{128}|[1-9A-HJ-NP-Za-km-z]{43,90}|\[[0-9, ]+\]")
_SHOWN = 60


@dataclass(frozen=True)
class Given:
    """One value as the user wrote it, and where."""

    where: str
    """How an error names it: `x402_max_request`, `/home/me/x402.toml: max_request`, `environment: SOLANA_RPC_URL`."""
    value: object = field(repr=False)
    base: Path
    """Directory that a relative path starts from."""
    home: Path

    def wrong(self, allowed: str, *, show: bool = True) -> SettingsError:
        """The error that names the place, the value (unless it may be a secret: `show=False`) and what is allowed."""
        said = f" = {_shown(self.value)}" if show else ""
        return SettingsError(f"{self.where}{said}: {allowed}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def usd(given: Given) -> int:
    """Decimal dollars as millionths of a dollar."""
    value = given.value
    if isinstance(value, float):
        raise given.wrong(f'write the amount in quotes, as in "{value:.6g}": TOML would round a bare decimal')
    allowed = f"expected dollars such as 1 or 0.25: plain digits, at most six decimals, from 0 to {MAX_USD}"
    found = _USD.fullmatch(_text_or_int(given, allowed))
    if found is None:
        raise given.wrong(allowed)
    micro = int(found["whole"]) * MICRO + int((found["part"] or "").ljust(6, "0"))
    if micro > MAX_USD * MICRO:
        raise given.wrong(allowed)
    return micro


def flag(given: Given) -> bool:
    """A switch: true or false, also on/off, yes/no, 1/0."""
    if isinstance(given.value, bool):
        return given.value
    allowed = "expected true or false"
    text = _text_or_int(given, allowed).lower()
    if text not in _FLAGS:
        raise given.wrong(allowed)
    return _FLAGS[text]


def whole(low: int, high: int, unit: str) -> Callable[[Given], int]:
    """A reader of whole numbers from `low` to `high`."""

    def read(given: Given) -> int:
        allowed = f"expected a whole number of {unit} from {low} to {high}"
        text = _text_or_int(given, allowed)
        if not _WHOLE.fullmatch(text) or not low <= int(text) <= high:
            raise given.wrong(allowed)
        return int(text)

    return read


def one_of(*allowed: str) -> Callable[[Given], str]:
    """A reader of one of these words."""

    def read(given: Given) -> str:
        if given.value not in allowed:
            raise given.wrong(f"expected {', '.join(allowed[:-1])} or {allowed[-1]}")
        return str(given.value)

    return read


def seconds(low: str, high: str) -> Callable[[Given], float]:
    """A reader of a time-out in seconds; decimals are fine, also as TOML floats."""

    def read(given: Given) -> float:
        allowed = f"expected seconds from {low} to {high}"
        text = repr(given.value) if isinstance(given.value, float) else _text_or_int(given, allowed)
        if not _DECIMAL.fullmatch(text) or not Decimal(low) <= Decimal(text) <= Decimal(high):
            raise given.wrong(allowed)
        return float(text)

    return read


def size(given: Given) -> int:
    """Bytes, written as mitmproxy writes sizes: `0`, `512k`, `4m`, `1g`, each 1024 of the one before."""
    allowed = "expected a number of bytes such as 4m, 512k or 0, at most 1g"
    found = _SIZE.fullmatch(_text_or_int(given, allowed).lower())
    if found is None or int(found[1]) << _SHIFTS[found[2]] > 1 << 30:
        raise given.wrong(allowed)
    return int(found[1]) << _SHIFTS[found[2]]


def several(read: Callable[[Given], T], what: str) -> Callable[[Given], tuple[T, ...]]:
    """A reader of lists: comma-separated text, or a TOML array of strings. Repetitions are refused."""

    def read_all(given: Given) -> tuple[T, ...]:
        parts: list[object]
        if isinstance(given.value, str):
            parts = [part for part in given.value.split(",") if part.strip()]
        elif isinstance(given.value, list):
            parts = given.value
        else:
            raise given.wrong(f"expected {what}, separated by commas or as a list of strings", show=False)
        items: list[T] = []
        for part in parts:
            one = Given(given.where, part.strip() if isinstance(part, str) else part, given.base, given.home)
            item = read(one)
            if item in items:
                raise one.wrong("is there twice; keep one", show=False)
            items.append(item)
        return tuple(items)

    return read_all


def path(given: Given) -> Path:
    """A path; `~` is the home directory, a relative one starts at `given.base`."""
    text = given.value
    if not isinstance(text, str) or not text or not text.isprintable():
        raise given.wrong("expected the path of a file", show=False)
    if _KEY_LIKE.fullmatch(text):
        raise given.wrong(
            "expected the path of a file, got what looks like a key itself; keys go into a file", show=False
        )
    if text == "~" or text.startswith("~/"):
        return given.home / text[2:]
    return given.base / text


def command(given: Given) -> tuple[str, ...]:
    """A program with its arguments, split as a shell splits words, or a TOML array of them. Never shown."""
    allowed = "expected a program and its arguments, as in 'pass show x402/evm', or an array of them"
    words = given.value
    if isinstance(words, str):
        try:
            words = shlex.split(words)
        except ValueError:  # a quotation mark that is not closed
            raise given.wrong(allowed, show=False) from None
    if (
        not isinstance(words, list)
        or not words
        or not all(isinstance(word, str) and "\0" not in word for word in words)
    ):
        raise given.wrong(allowed, show=False)
    return tuple(cast(list[str], words))


def printable(given: Given) -> str:
    """A name of printable characters."""
    if not isinstance(given.value, str) or not given.value.isprintable() or len(given.value) > 200:
        raise given.wrong("expected a name of at most 200 printable characters")
    return given.value


def rpc_url(given: Given) -> str:
    """The URL of an RPC: https, or http on loopback. Never shown whole: many carry an API key."""
    allowed = "expected an https:// URL (http:// only for loopback)"
    text = given.value
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or " " in text:
        raise given.wrong(allowed, show=False)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise given.wrong(allowed, show=False) from None
    if not host or parts.fragment or parts.scheme not in {"http", "https"}:
        raise given.wrong(allowed, show=False)
    if parts.scheme == "http" and not is_loopback(host):
        raise given.wrong(
            f"http://{host} is not encrypted: anyone in between could lie to the wallet; {allowed}", show=False
        )
    return text


@functools.lru_cache(maxsize=256)  # asked three times for each request, mostly of the same two
def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without brackets, can only be this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def browser_origin(given: Given) -> str:
    """A browser origin as the `Origin` header spells it: scheme, host, port unless it is the scheme's own."""
    allowed = "expected an origin such as https://chat.example or http://localhost:3000, nothing after the port"
    text = given.value
    if isinstance(text, str) and (text.lower() == "null" or text.lower().startswith("file:")):
        raise given.wrong(
            "every page has this origin that is opened as a file or in a sandboxed frame, so allowing it would let any "
            "web site spend; serve the page from http://localhost:PORT and name that"
        )
    if not isinstance(text, str) or not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s,*]+", text.lower()):
        raise given.wrong(allowed)
    try:
        parts = urlsplit(text.lower())
        port = parts.port
    except ValueError:
        raise given.wrong(allowed) from None
    if not parts.hostname:
        raise given.wrong(allowed)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None and port != default else "")


def token(given: Given) -> str:
    """A client token: it travels as an API key, so printable ASCII without spaces. Never shown."""
    if not isinstance(given.value, str) or not _TOKEN.fullmatch(given.value):
        raise given.wrong("expected 8 to 512 printable ASCII characters without spaces", show=False)
    return given.value


def _text_or_int(given: Given, allowed: str) -> str:
    if isinstance(given.value, bool) or not isinstance(given.value, str | int):
        raise given.wrong(allowed)
    return str(given.value).strip(" \t") if isinstance(given.value, str) else str(given.value)


FORMATS = ("native", "har", "mitm")


NEVER_PAID = ("HEAD", "OPTIONS", "TRACE", "CONNECT")
"""Methods whose answers hold nothing that a payment could buy (RFC 9110, section 9.3)."""


def method(given: Given) -> str:
    """An HTTP method whose requests may be paid for."""
    name = given.value.strip().upper() if isinstance(given.value, str) else ""
    if not re.fullmatch(r"[A-Z][A-Z-]{0,29}", name) or name in NEVER_PAID:
        raise given.wrong(f"expected methods such as POST, none of {', '.join(NEVER_PAID)}, which deliver nothing")
    return name


def dump_format(given: Given) -> str:
    """A format of recordings."""
    if given.value not in FORMATS:
        raise given.wrong(f"expected {', '.join(FORMATS)}, or several of them separated by commas")
    return str(given.value)


def field_name(given: Given) -> bytes:
    """A header's or query parameter's name, in lower case."""
    if not isinstance(given.value, str) or not re.fullmatch(r"[!-~]{1,100}", given.value):
        raise given.wrong("expected names of headers or query parameters, as in sig, hash_key")
    return given.value.lower().encode()


def filter_expression(given: Given) -> str:
    """A filter expression that mitmproxy can parse."""
    from mitmproxy import flowfilter  # noqa: PLC0415  # slow, and seldom needed

    allowed = (
        "expected a filter expression of mitmproxy, as in '~u /v1/ & ~m POST' (https://docs.mitmproxy.org, filters)"
    )
    if not isinstance(given.value, str):
        raise given.wrong(allowed)
    try:
        flowfilter.parse(given.value)
    except Exception:  # also a nesting too deep for the parser
        raise given.wrong(allowed) from None
    return given.value
