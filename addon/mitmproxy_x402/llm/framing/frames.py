"""Reads Amazon's event stream (application/vnd.amazon.eventstream): binary frames with headers and checksums.

A frame is its length, the length of its headers, a CRC-32 of these two, the headers, the payload, and a CRC-32 of all
before; numbers are big-endian.
"""

from __future__ import annotations

import json
import struct
from binascii import a2b_base64
from collections.abc import Iterator
from zlib import crc32

from ..sse import MAX_EVENT, Notes
from . import Framed

_PRELUDE = struct.Struct(">III")
_CRC = struct.Struct(">I")
_LEAST = _PRELUDE.size + _CRC.size
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of a header's value, by its type: booleans, numbers, a time, a UUID."""
_BYTES, _STRING = 6, 7
MAX_HEADERS = 128 * 1024
"""Bytes of the headers of a frame, as the format bounds them."""
MAX_TOLD = 100_000
"""Characters after which no more frames are told as text."""


def begins_frame(data: bytes) -> bool | None:
    """Whether `data` begins with a frame; None: there is too little of it to tell."""
    if len(data) < _PRELUDE.size:
        return None if data[:1] in (b"", b"\0", b"\1") else False
    return length_at(data) > 0


def length_at(data: bytes, at: int = 0) -> int:
    """The length of the frame that begins at `at`; 0: none does, or there is too little to tell."""
    if len(data) - at < _PRELUDE.size:
        return 0
    total, headers, check = _PRELUDE.unpack_from(data, at)
    is_one = total >= _LEAST and headers <= total - _LEAST and crc32(data[at : at + 8]) == check
    return int(total) if is_one else 0


def split_frame(frame: bytes) -> tuple[dict[str, str], bool, bytes]:
    """The headers of a frame as far as they can be read, whether these are all of them, and its payload."""
    _, length, _ = _PRELUDE.unpack_from(frame)
    end = _PRELUDE.size + length
    return *_headers(frame[_PRELUDE.size : end]), frame[end : -_CRC.size]


class Frames:
    """Splits Amazon's event stream into frames, each with event type and payload."""

    def __init__(self, max_frame: int = MAX_EVENT) -> None:
        self._notes = Notes()
        self._max_frame = max_frame
        self._kept = bytearray()
        self._position = 0
        self._left_out = 0
        self._frames = 0
        self._lost = False

    @property
    def irregular(self) -> list[str]:
        """Anomalies so far, described for people; bounded."""
        return self._notes.texts()

    def feed(self, data: bytes) -> Iterator[Framed]:
        """The frames that `data` completes."""
        if self._left_out:
            skipped = min(self._left_out, len(data))
            self._left_out -= skipped
            self._position += skipped
            data = data[skipped:]
        if self._lost or not data:
            return
        self._kept += data
        at = 0
        while len(self._kept) - at >= _PRELUDE.size:
            total, headers, check = _PRELUDE.unpack_from(self._kept, at)
            if crc32(memoryview(self._kept)[at : at + 8]) != check or headers + _LEAST > total:
                self._lose("the beginning of a frame has a wrong checksum: what follows is not read")
                return
            if total > self._max_frame:
                self._notes.add(f"a frame is larger than {self._max_frame} bytes and is dropped")
                there = len(self._kept) - at
                self._position += at + min(total, there)
                self._left_out = max(0, total - there)
                del self._kept[: at + total]
                at = 0
                self._frames += 1
                continue
            if len(self._kept) - at < total:
                break
            yield from self._frame(bytes(memoryview(self._kept)[at : at + total]), headers, self._position + at)
            at += total
        del self._kept[:at]
        self._position += at

    def end(self) -> None:
        """End the input."""
        if self._kept or self._left_out:
            self._notes.add("the stream ends in the middle of a frame, which is discarded")

    def _lose(self, why: str) -> None:
        self._notes.add(why)
        self._lost = True
        self._kept.clear()

    def _frame(self, frame: bytes, length: int, begin: int) -> Iterator[Framed]:
        self._frames += 1
        (check,) = _CRC.unpack_from(frame, len(frame) - _CRC.size)
        if crc32(memoryview(frame)[: -_CRC.size]) != check:
            self._notes.add(f"frame {self._frames} has a wrong checksum; it is read all the same")
        if length > MAX_HEADERS:
            self._notes.add(f"frame {self._frames} has more than {MAX_HEADERS} bytes of headers and is dropped")
            return
        headers, is_whole, payload = split_frame(frame)
        if not is_whole:
            self._notes.add(f"the headers of frame {self._frames} cannot be read")
            headers = {}
        kind = headers.get(":event-type", "")
        if headers.get(":message-type", "event") != "event":
            kind = "error"
            what = headers.get(":exception-type") or headers.get(":error-code", "")
            payload = _failure(what, headers.get(":error-message", ""), payload)
        yield Framed(kind, payload, begin, begin + len(frame))


def text_of_frames(data: bytes) -> str:
    """A line for each frame in `data`: its event type and its payload, packed bytes unpacked. Empty: it has none."""
    if not begins_frame(data):
        return ""
    frames, lines, size = Frames(), [], 0
    for kind, payload, _, _ in frames.feed(data):
        lines.append(f"{kind or 'frame'}: {_unpacked(payload)}")
        size += len(lines[-1])
        if size > MAX_TOLD:
            return "\n".join([*lines, "(...)"])
    frames.end()
    return "\n".join([*lines, *(f"({remark})" for remark in frames.irregular)])


def _unpacked(payload: bytes) -> str:
    """A payload as text; `bytes` in base64, as Bedrock's agents send theirs, as the text that they are."""
    text = payload.decode("utf-8", "replace")
    try:
        value = json.loads(text)
        if isinstance(value, dict) and isinstance(value.get("bytes"), str):
            return f"{a2b_base64(value['bytes']).decode()}  {text}"
    except (ValueError, RecursionError):
        pass
    return text


def _failure(kind: str, message: str, payload: bytes) -> bytes:
    """The error in an exception's frame, as JSON."""
    try:
        said = json.loads(payload) if payload else {}
    except (ValueError, RecursionError):
        said = {"payload": payload[:2000].decode("utf-8", "replace")}
    if not isinstance(said, dict):
        said = {"payload": said}
    error = {"type": kind, **({"message": message} if message else {}), **said}
    return json.dumps({"error": error}).encode()


def _headers(data: bytes) -> tuple[dict[str, str], bool]:
    """The headers with text values as far as they can be read, and whether these are all of them."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            name = data[at + 1 : at + 1 + data[at]].decode("utf-8", "replace")
            at += 1 + data[at]
            kind = data[at]
            at += 1
            if kind in (_BYTES, _STRING):
                (size,) = struct.unpack_from(">H", data, at)
                at += 2
                found[name] = data[at : at + size].decode("utf-8", "replace")
            else:
                size = _SIZES[kind]
            at += size
    except (IndexError, KeyError, struct.error):
        return found, False
    return found, at == len(data)
