"""Writes recordings as HAR 1.2 (http://www.softwareishard.com/blog/har-12-spec/), which browsers can open.

A .har file is one JSON document, so an entry cannot just be appended. For each flow the file is copied with the new
entry, and the copy replaces it: the file is valid at every moment, even if the proxy is killed. To keep this cheap, a
new file is begun beyond MAX_FILE bytes. Bodies are copied from disk to disk, never held in memory.

Beyond the standard an entry has `_chunks` (a list of [seconds since the request began, bytes]), `_x402` (the payment,
and how many requests went upstream) and, if the answer is incomplete, `_error`. `_resourceType` is Chrome's.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_plus

from .. import __version__
from .format import Headers, RecordedResponse, Recording
from .head import to_document

MAX_FILE = 8 << 20
"""Bytes of a file beyond which the next flow goes into a new one."""
BLOCK = 3 << 14
"""Bytes that are copied at once; divisible by three for base64."""

_CREATOR = json.dumps({"name": "mitmproxy-x402", "version": __version__})
_HEAD = f'{{"log": {{"version": "1.2", "creator": {_CREATOR}, "pages": [], "entries": [\n'.encode()
_TAIL = b"\n]}}\n"
_MARK = "\ufdd0"  # a noncharacter that marks where a file's content goes


class HarFiles:
    """The files of one run of the proxy: `<run>-1.har`, `<run>-2.har`, ... in `folder`."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder = folder
        self._run = run
        self._number = 1

    def add(self, recording: Recording) -> None:
        """Add a finished recording. Raises OSError or RecordingError; then the file is unchanged."""
        file = self._file()
        fresh = file.with_name(f".{file.name}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                _copy_entries(file, stream)
                stream.writelines(entry(recording))
                stream.write(_TAIL)
            fresh.replace(file)
        except BaseException:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise

    def _file(self) -> Path:
        while True:
            file = self._folder / f"{self._run}-{self._number}.har"
            if not file.exists() or file.stat().st_size <= MAX_FILE:
                return file
            self._number += 1


def _copy_entries(file: Path, stream: BinaryIO) -> None:
    """Copy the head and all entries of `file` to `stream`, ready for one more."""
    try:
        old = file.open("rb")
    except FileNotFoundError:
        stream.write(_HEAD)
        return
    with old:
        left = os.fstat(old.fileno()).st_size - len(_TAIL)
        while left > 0 and (block := old.read(min(left, 1 << 20))):
            stream.write(block)
            left -= len(block)
    stream.write(b",\n")


def entry(recording: Recording) -> Iterator[bytes]:
    """Yield the entry for `recording` as JSON, in parts of moderate size. Raises OSError or RecordingError."""
    copied: list[Iterator[bytes]] = []  # in the order of their marks in the document
    first_byte, end = recording.first_byte or 0, recording.end or 0
    document: dict[str, Any] = {
        "startedDateTime": recording.started,
        "time": _milliseconds(end),
        "request": _request(recording, copied),
        "response": _response(recording, copied),
        "cache": {},
        "timings": {"send": 0, "wait": _milliseconds(first_byte), "receive": _milliseconds(end - first_byte)},
    }
    document["_resourceType"] = "fetch"  # without it Chrome counts all of them as scripts, which its filters hide
    if recording.error is not None:
        document["_error"] = recording.error.replace(_MARK, "?")
    document["_x402"] = {"payment": to_document(recording)["payment"], "legs": recording.legs}
    document["_chunks"] = _MARK
    copied.append(_chunks(recording))
    first, *others = json.dumps(document, ensure_ascii=False).replace(f'"{_MARK}"', _MARK).split(_MARK)
    yield first.encode("utf-8", "replace")
    for content, part in zip(copied, others, strict=True):
        yield from content
        yield part.encode("utf-8", "replace")


def _milliseconds(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 3)


def _headers(headers: Headers) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in headers]


def _request(recording: Recording, copied: list[Iterator[bytes]]) -> dict[str, Any]:
    request = recording.request
    _, _, query = request.path.partition("?")
    pairs = [part.partition("=") for part in query.split("&") if part]
    found: dict[str, Any] = {
        "method": request.method,
        "url": request.upstream + request.path,
        "httpVersion": request.http_version,
        "cookies": [],
        "headers": _headers(request.headers),
        "queryString": [{"name": unquote_plus(name), "value": unquote_plus(value)} for name, _, value in pairs],
        "headersSize": -1,
        "bodySize": request.size,
    }
    if request.body is not None:
        text = _text(recording.folder / request.body, copied)
        found["postData"] = {"mimeType": request.header("content-type"), "params": [], **text}
    return found


def _response(recording: Recording, copied: list[Iterator[bytes]]) -> dict[str, Any]:
    response = recording.response
    if response is None:  # as browsers write it
        response = RecordedResponse(0, "", "", ())
    content: dict[str, Any] = {"size": response.size, "mimeType": response.header("content-type")}
    name = response.decoded or response.body
    if name is not None:
        file = recording.folder / name
        size = file.stat().st_size
        content |= {"size": size, "compression": size - response.size, **_text(file, copied)}
    return {
        "status": response.status,
        "statusText": response.reason,
        "httpVersion": response.http_version,
        "cookies": [],
        "headers": _headers(response.headers),
        "content": content,
        "redirectURL": response.header("location"),
        "headersSize": -1,
        "bodySize": response.size,
    }


def _text(file: Path, copied: list[Iterator[bytes]]) -> dict[str, str]:
    """The JSON members for a body: its text, or base64 if it is not text."""
    if _is_text(file):
        copied.append(_quoted(file))
        return {"text": _MARK}
    copied.append(_in_base64(file))
    return {"text": _MARK, "encoding": "base64"}


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def _is_text(file: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        texts = [True for block in _blocks(file) if "\0" in decoder.decode(block)]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return not texts


def _quoted(file: Path) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    yield b'"'
    for block in _blocks(file):
        yield json.dumps(decoder.decode(block), ensure_ascii=False)[1:-1].encode()
    yield b'"'


def _in_base64(file: Path) -> Iterator[bytes]:
    yield b'"'
    for block in _blocks(file):
        yield base64.b64encode(block)
    yield b'"'


def _chunks(recording: Recording) -> Iterator[bytes]:
    before = b"["
    for chunk in recording.each_chunk():
        yield b"%s[%.6f,%d]" % (before, chunk.seconds, chunk.size)
        before = b","
    yield b"]" if before == b"," else b"[]"
