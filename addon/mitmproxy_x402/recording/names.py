"""Makes names for recordings and their files: sortable by time, descriptive, and safe as file names."""

from __future__ import annotations

import functools
import re
from datetime import datetime, timezone

_LOOKED_AT = 500
"""Most characters of a path that are used to make a name."""
MAX_SLUG = 60
"""Most characters of a path in a name; file systems take names of at most 255 bytes, some only 143."""

_EXTENSIONS = {
    "text/event-stream": "sse",
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/jsonl": "jsonl",
    "application/javascript": "js",
    "application/pdf": "pdf",
    "application/xml": "xml",
    "application/zip": "zip",
    "application/gzip": "gz",
    "application/x-www-form-urlencoded": "txt",
    "audio/mpeg": "mp3",
    "audio/mp4": "m4a",
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/ogg": "ogg",
    "audio/opus": "opus",
    "audio/flac": "flac",
    "audio/aac": "aac",
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/svg+xml": "svg",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "text/html": "html",
    "text/css": "css",
    "text/csv": "csv",
    "text/javascript": "js",
    "text/markdown": "md",
    "text/xml": "xml",
}


@functools.lru_cache(maxsize=64)
def extension(content_type: str) -> str:
    """The file name extension for a content type, without the dot; `bin` if nothing better is known."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _EXTENSIONS:
        return _EXTENSIONS[kind]
    if kind.endswith("+json"):
        return "json"
    if kind.endswith("+xml"):
        return "xml"
    return "txt" if kind.startswith("text/") else "bin"


def moment(when: datetime) -> str:
    """A time to the millisecond that sorts as text: `20250708T091500.123Z`. `when` is in UTC."""
    return f"{when:%Y%m%dT%H%M%S}.{when.microsecond // 1000:03d}Z"


def rfc3339(seconds: float) -> str:
    """Unix `seconds` in RFC 3339, UTC, to the millisecond: `2025-07-08T09:15:00.123Z`."""
    thousandths = int(seconds * 1000 + 4e-4)  # floats of today's size are off by up to that
    return f"{_date_time(thousandths // 1000)}.{thousandths % 1000:03d}Z"


@functools.lru_cache(maxsize=16)  # a busy proxy begins many requests in one second
def _date_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def folder_name(started: str, number: int, method: str, path: str) -> str:
    """The name of a recording's folder: time (from RFC 3339), running number, method, and path without secrets."""
    when = started.replace("-", "").replace(":", "")
    return f"{when}-{number:06d}{_what(method, path[:_LOOKED_AT].partition('?')[0])}"


@functools.lru_cache(maxsize=256)  # agents ask for the same path over and over
def _what(method: str, path: str) -> str:
    parts = [slug(method)[:16], slug(path)[:MAX_SLUG].strip("-.")]
    return "".join(f"-{part}" for part in parts if part)


def slug(text: str) -> str:
    """`text` reduced to ASCII letters, digits, dots, underscores and single hyphens."""
    return _DOTS.sub(".", _OTHER.sub("-", text)).strip("-.")


_OTHER, _DOTS = re.compile(r"[^A-Za-z0-9._]+"), re.compile(r"\.\.+")
