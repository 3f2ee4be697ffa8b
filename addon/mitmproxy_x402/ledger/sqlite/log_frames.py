"""Tells whether SQLite's log still holds what was written to it, by the checksums of its frames.

After a sync has failed, the system takes its pages for written, and may drop them from memory. What is read then is
what the disk has: the log has a hole, at which SQLite would end it after a restart, with all that was written since.
The format is that of https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEADER, _FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_MASK = 0xFFFFFFFF


def has_hole(log: Path) -> bool:
    """Whether frames follow behind one that is damaged or missing. Raises OSError.

    The caller keeps writers out, and has committed just before: otherwise a hole at the end shows nowhere. Takes some
    0.1 ms a frame.
    """
    with log.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return True
        magic, _, page_size, _, *salts, first, second = _HEADER.unpack(header)
        order = ">" if magic & 1 else "<"
        sums = _summed(order, header[:24], (0, 0))
        is_broken = sums != (first, second)
        words = f"{order}{page_size // 4 + 2}I"
        while len(frame := file.read(_FRAME.size + page_size)) == _FRAME.size + page_size:
            page, _, *its_salts, first, second = _FRAME.unpack_from(frame)
            if not page or its_salts != salts:
                is_broken = True  # or the end; then only frames of earlier rounds, or zeros, follow
            elif is_broken:
                return True
            else:
                sums = _summed(words, frame[:8] + frame[_FRAME.size :], sums)
                is_broken = sums != (first, second)
    return False


def _summed(words: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    numbers = struct.unpack(words if words[1:] else f"{words}{len(data) // 4}I", data)
    for even, odd in zip(numbers[::2], numbers[1::2], strict=True):
        first = (first + even + second) & _MASK
        second = (second + odd + first) & _MASK
    return first, second
