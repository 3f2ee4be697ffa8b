"""Decides whether a paid answer is complete, so that the client has what was paid for.

An answer can fail inside a 200: by an error event, by a stream that ends early, by no data at all. Its end shows it. So
a bounded tail of each paid answer is kept as it passes and read once, when the answer is over (`tail`). Before that,
only events that look like errors are read. Compressed data is decoded as it arrives, within bounds.

A stream (server-sent events, lines of JSON, Amazon's frames: `events`) is complete if it has the end of its dialect and
no error there (`stream_ends`). The dialect follows from its events (`dialects`), and for some from the request's path.

Any other answer is complete if it arrived in full, to the end of its coding, and is not empty. It is incomplete if it
is broken JSON or JSON that reports a failure, if the client asked for a stream, or if the client sent JSON and got a
page of HTML. Of JSON that is longer than the tail, an outline (`outline`) is read as it passes: the keys of
its upper level, in an event those of the upper two.
"""

from __future__ import annotations

from .events import MAX_TAIL
from .tail import Expected, Tail, expected, has_all

__all__ = ["MAX_TAIL", "Expected", "Tail", "expected", "has_all"]
