"""Defines what writers are handed, and the frames in which it goes to the process that writes."""

from __future__ import annotations

import marshal
import struct
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from ..head import Head

Bytes = bytes | memoryview
_SIZES = struct.Struct("<IQ")
"""At the beginning of a frame: the bytes of its description, and of the bodies that follow it."""


class Part(NamedTuple):
    """What is new of one recording, without secrets."""

    number: int
    """Which recording, counted by the proxy."""
    place: tuple[bytes, str] | None = None
    """Of a new recording: the folder that it is made in, and its name there."""
    request: str | None = None
    """The file name extension of the request's body, if that is new."""
    body: Bytes = b""
    """The request's body."""
    answer: tuple[str, str] | None = None
    """The extension of the answer's body and its Content-Encoding, when the answer begins."""
    times: tuple[float, ...] = ()
    """When each chunk of the answer came, in seconds since the request began."""
    sizes: tuple[int, ...] = ()
    """The bytes of each chunk."""
    data: Sequence[Bytes] = ()
    """The chunks, which may be joined."""
    head: Head | None = None
    """The head as it is now, if it has changed."""
    is_over: bool = False
    """Whether the flow is over; without a head, whether nothing more is heard of it."""
    left_out: int = 0
    """Bytes at the end of the request's body that are not recorded, because they found no room."""


def pack(parts: Sequence[Part]) -> list[Bytes]:
    """A frame with `parts`, as buffers to be written one after the other."""
    bodies: list[Bytes] = []
    described = []
    for part in parts:
        number, place, request, body, answer, times, sizes, data, head, is_over, left = part
        if body:
            bodies.append(body)
        bodies += data
        described.append((number, place, request, len(body), answer, times, sizes, head and tuple(head), is_over, left))
    description = marshal.dumps(described)
    return [_SIZES.pack(len(description), sum(map(len, bodies))), description, *bodies]


def read_frame(stream: BinaryIO) -> list[Part] | None:
    """The parts of the next frame; None: there is none, or only half of one."""
    sizes = stream.read(_SIZES.size)
    if len(sizes) < _SIZES.size:
        return None
    described, size = _SIZES.unpack(sizes)
    description, bodies = stream.read(described), stream.read(size)
    if len(description) < described or len(bodies) < size:
        return None
    view, place, found = memoryview(bodies), 0, []
    for number, where, request, body, answer, times, lengths, head, is_over, left in marshal.loads(description):  # noqa: S302  # the proxy is its parent
        middle = place + body
        end = middle + sum(lengths)
        known = None if head is None else Head(*head)
        part = Part(
            *(number, where, request, view[place:middle], answer, times, lengths, (view[middle:end],), known, is_over),
            left_out=left,
        )
        found.append(part)
        place = end
    return found
