"""Reads a whole answer's body, by what its content type says that it may be."""

from __future__ import annotations

from dataclasses import replace

from .draft import MAX_TEXT
from .reading import Reading, Step
from .sse import MAX_EVENT
from .stream import StreamReader

_JSON = "application/json"
_EVENTS = "text/event-stream"
_FRAMES = "application/vnd.amazon.eventstream"
_READ = {"", _EVENTS, _FRAMES, "text/plain", "application/octet-stream", "application/jsonl", "application/json-seq"}
_STREAMS = {_EVENTS, _FRAMES}


def is_stream(content_type: str) -> bool:
    """Whether `content_type` is that of a streamed answer."""
    media = _media(content_type)
    return media in _STREAMS or media.endswith(("ndjson", "jsonl", "stream+json"))


def read_answer(
    content_type: str, body: bytes, *, max_event: int = MAX_EVENT, max_text: int = MAX_TEXT
) -> Reading | None:
    """The answer in `body`, whole or streamed; None: it is no language model's, nor an error of one.

    `content_type` as in the header. What the body is, its first bytes say; where the header says otherwise, that is
    noted. Bounds as of `StreamReader`. Never raises.
    """
    reader = _read(content_type, body, StreamReader(max_event, max_text))
    return None if reader is None else reading_of(reader, content_type)


def read_steps(content_type: str, body: bytes) -> tuple[Reading, list[Step]] | None:
    """The same with what each event added; None: as `read_answer`."""
    reader = _read(content_type, body, StreamReader(traced=True))
    reading = None if reader is None else reading_of(reader, content_type)
    return None if reader is None or reading is None else (reading, reader.steps())


def _media(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _read(content_type: str, body: bytes, reader: StreamReader) -> StreamReader | None:
    media = _media(content_type)
    if media not in _READ and not media.endswith("json"):
        return None
    reader.feed(body)
    reader.end()
    return reader


def reading_of(reader: StreamReader, content_type: str) -> Reading | None:
    """What `reader`, which was fed the whole body, has read. None: as `read_answer`."""
    reading = reader.reading()
    if reading.dialect == "unknown" and reading.error is None:
        return None
    media = _media(content_type)
    expected = {_EVENTS: ("events",), _FRAMES: ("frames",), _JSON: ("array", "object", "lines")}.get(media)
    if expected and reader.form not in expected:
        remark = f"the content type says {media}, and the body is not that"
        reading = replace(reading, irregular=(remark, *reading.irregular))
    return reading
