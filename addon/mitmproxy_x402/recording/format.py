"""The format of a recorded flow: a folder of files that people and programs can read, also while it is being written.

    flow.json         the head, replaced as a whole whenever more of it is known
    request.json      the request's body (.txt, .bin, ... by its content type); missing if there is none
    response.sse      the answer's body, byte for byte as it came (.json, .mp3, ... by its content type)
    response.decoded.sse   the same without its Content-Encoding, if it has one
    chunks.jsonl      a line for each chunk as it came: [seconds since the request began, bytes]; a short answer's are
                      in flow.json instead, under timing.chunks

A recording is `open` until the flow is over, then `complete` or `incomplete`; one that stays open was interrupted
(the proxy was killed), and holds what had arrived by then. Method, path and headers are the bytes of the wire, one
character a byte (ISO-8859-1), with `REDACTED` in place of secrets.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import Undecodable
from ..protocol.strict_json import decode_json
from .table import Headers, RecordingError, Table

__all__ = [
    "CHUNKS",
    "FORMAT",
    "HEAD",
    "REDACTED",
    "Chunk",
    "Headers",
    "RecordedPayment",
    "RecordedRequest",
    "RecordedResponse",
    "Recording",
    "RecordingError",
    "read_chunk",
    "read_recording",
    "read_recordings",
]

FORMAT = 1
"""Version of the format; readers refuse versions that they do not know."""
HEAD = "flow.json"
CHUNKS = "chunks.jsonl"
REDACTED = "[redacted]"
MAX_HEAD = 16 << 20
"""Most bytes of a flow.json that is read."""
MAX_BODY = 256 << 20
"""Most bytes of a body that is read into memory."""
MAX_CHUNKS = 64 << 20
"""Most bytes of a chunks.jsonl that is read into memory, which are some three million chunks."""
_MAX_LINE = 256
_BLOCK = 1 << 20


class Chunk(NamedTuple):
    """One chunk of the answer as it came."""

    seconds: float
    """Seconds since the request began."""
    size: int
    """Bytes of the chunk."""


@dataclass(frozen=True)
class RecordedRequest:
    """The client's request, without its secrets."""

    method: str
    path: str
    """Path and query."""
    http_version: str
    headers: Headers
    upstream: str = ""
    """Origin of the upstream: `https://host:port`."""
    body: str | None = None
    """Name of the file in the folder."""
    size: int = 0
    """Bytes of the body."""
    sha256: str | None = None
    """Digest of the body in hex; None: there is no body."""

    def header(self, name: str) -> str:
        """The value of the first header `name`; empty: there is none."""
        return _header(self.headers, name)


@dataclass(frozen=True)
class RecordedResponse:
    """The answer that the client got."""

    status: int
    reason: str
    http_version: str
    headers: Headers
    trailers: Headers = ()
    body: str | None = None
    """Name of the file in the folder with the bytes as they came."""
    decoded: str | None = None
    """Name of the file with the decoded body; None: it has no Content-Encoding, or could not be decoded."""
    size: int = 0
    """Bytes of the body as it came."""
    sha256: str | None = None
    """Digest of the received body in hex; None: nothing was received, or the recording is open."""

    def header(self, name: str) -> str:
        """The value of the first header `name`; empty: there is none."""
        return _header(self.headers, name)


@dataclass(frozen=True)
class RecordedPayment:
    """The payment for the answer."""

    state: str
    """As `x402.state` in `views.flow_metadata`: `settled`, `unknown`, `rejected`, `refused`, ..."""
    amount: str = ""
    """USDC, decimal."""
    network: str = ""
    pay_to: str = ""
    transaction: str = ""
    refused: str = ""
    """The code of the refusal."""


@dataclass(frozen=True)
class Recording:
    """One flow. The bodies stay on disk until they are asked for."""

    folder: Path
    id: str
    started: str
    """RFC 3339, UTC."""
    state: str
    """`open`, `complete` or `incomplete`; `read_recording` never returns `open`."""
    error: str | None
    """Why it is incomplete."""
    request: RecordedRequest
    response: RecordedResponse | None
    first_byte: float | None = None
    """Seconds from the request's beginning to the answer's head."""
    end: float | None = None
    """Seconds from the request's beginning to the answer's end."""
    payment: RecordedPayment | None = None
    """None: no payment was asked for."""
    legs: int = 1
    """Requests sent upstream for this one."""
    notes: tuple[str, ...] = ()
    """Remarks for readers, for example that the body could not be decoded."""
    in_head: tuple[Chunk, ...] | None = None
    """The chunks, if flow.json lists them, as for a short answer; None: they are in chunks.jsonl."""

    @property
    def complete(self) -> bool:
        """Whether the whole answer was recorded."""
        return self.state == "complete"

    def request_body(self) -> bytes:
        """The request's body. Raises RecordingError."""
        request = self.request
        if request.body is not None and request.sha256 is None and not self._file(request.body).exists():
            return b""  # a full disk did not take it
        return self._content(request.body)

    def body(self) -> bytes:
        """The answer's body as it came. Raises RecordingError."""
        return self._content(None if self.response is None else self.response.body)

    def decoded_body(self) -> bytes:
        """The answer's body, without its Content-Encoding if it could be decoded. Raises RecordingError."""
        response = self.response
        return self._content(None if response is None else response.decoded or response.body)

    def beginning(self) -> tuple[bytes, bool]:
        """What is shown of `decoded_body()`, and whether that is all: a few bytes decode to any number of them.

        Raises RecordingError.
        """
        if self.response is None or self.response.decoded is None:
            return self.decoded_body(), True
        file = self._file(self.response.decoded)
        try:
            with file.open("rb") as stream:
                return stream.read(MAX_BODY), not stream.read(1)
        except OSError as error:
            raise _unreadable(file, error) from None

    def chunks(self) -> tuple[Chunk, ...]:
        """Time and size of each chunk of the answer. Raises RecordingError."""
        if self.in_head is not None:
            return self.in_head
        file = self._file(CHUNKS)
        if file.exists():
            _refuse_size(file, file.stat().st_size, MAX_CHUNKS)
        return tuple(self.each_chunk())

    def each_chunk(self) -> Iterator[Chunk]:
        """Yield the same, one after the other, however many there are. Raises RecordingError."""
        return iter(self.in_head) if self.in_head is not None else _read_chunks(self._file(CHUNKS))

    def pieces(self) -> Iterator[tuple[float, bytes]]:
        """Yield (seconds, bytes) for each chunk. Together they are `body()`, even if chunks.jsonl has wrong sizes."""
        body, start, seconds = self.body(), 0, 0.0
        for chunk in self.chunks():
            piece = body[start : start + chunk.size]
            if piece:
                yield chunk.seconds, piece
            start, seconds = start + len(piece), chunk.seconds
        if body[start:]:
            yield seconds, body[start:]

    def open_body(self) -> BinaryIO:
        """The file with the answer's body as it came, which there must be. Raises RecordingError."""
        assert self.response is not None
        assert self.response.body is not None
        try:
            return self._file(self.response.body).open("rb")
        except OSError as error:
            raise _unreadable(self.folder / self.response.body, error) from None

    def _content(self, name: str | None) -> bytes:
        if name is None:
            return b""
        return read_within(self._file(name), MAX_BODY)

    def _file(self, name: str) -> Path:
        return own_file(self.folder, name)


def _header(headers: Headers, name: str) -> str:
    return next((value for key, value in headers if key.lower() == name), "")


# Reading. Errors name the place of a wrong value; nothing outside the folder is ever read.


def own_file(folder: Path, name: str) -> Path:
    """The file `name` in `folder`, which need not be there. Raises RecordingError: it is a link, a pipe, a device."""
    file = folder / name
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise RecordingError(f"{file}: cannot be read: expected a file, and no link to one elsewhere")
    return file


def read_within(file: Path, limit: int) -> bytes:
    """The bytes of `file`. Raises RecordingError: it cannot be read, or has more than `limit` bytes."""
    parts, size = [], 0
    try:
        with file.open("rb") as stream:
            _refuse_size(file, os.fstat(stream.fileno()).st_size, limit)
            while block := stream.read(_BLOCK):
                size += len(block)
                _refuse_size(file, size, limit)  # it may grow, or say of itself that it is empty
                parts.append(block)
    except OSError as error:
        raise _unreadable(file, error) from None
    return b"".join(parts)


def _unreadable(file: Path, error: OSError) -> RecordingError:
    return RecordingError(f"{file}: cannot be read: {error.strerror or type(error).__name__}")


class TooLarge(RecordingError):
    """A file is valid, as far as is known, and has more bytes than are read."""


def _refuse_size(file: Path, size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(
            f"{file}: is too large to be shown: it has {size:,} bytes or more, and at most {limit:,} are read; look at "
            "it with another program, or cut it"
        )


def read_recordings(folder: Path) -> list[Recording]:
    """The recordings in `folder`, oldest first (by name), or the one that `folder` itself is.

    Raises RecordingError: one of them is damaged, or there is none.
    """
    if (folder / HEAD).exists():
        return [read_recording(folder)]
    return [read_recording(child) for child in recording_folders(folder)]


def files_in(folder: Path) -> list[Path]:
    """The HAR and flow files in `folder`, sorted by name; of one run of the proxy, which has both, the flow files.

    Raises RecordingError.
    """
    try:
        found = sorted(
            file
            for file in folder.iterdir()
            if file.suffix.lower() in (".har", ".mitm") and file.is_file() and not file.is_symlink()
        )
    except OSError as error:
        raise _unreadable(folder, error) from None
    found = [file for file in found if file.is_file() and not file.is_symlink()]
    runs = {file.stem for file in found if file.suffix.lower() == ".mitm"}
    return [file for file in found if file.suffix.lower() == ".mitm" or file.stem.rpartition("-")[0] not in runs]


def recording_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that hold a recording, sorted by name. Raises RecordingError: there is none."""
    try:
        found = sorted(child for child in folder.iterdir() if (child / HEAD).exists())
    except OSError as error:
        raise _unreadable(folder, error) from None
    if not found and files_in(folder):
        raise RecordingError(f"{folder}: no recordings here, but HAR or flow files, which only `show` and `diff` read")
    if not found:
        raise RecordingError(f"{folder}: no recordings here: expected folders with a {HEAD}, as x402_dump writes them")
    return found


def read_recording(folder: Path) -> Recording:
    """Read the recording in `folder`. Raises RecordingError."""
    file = own_file(folder, HEAD)
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_HEAD + 1)
    except OSError as error:
        raise _unreadable(file, error) from None
    if len(content) > MAX_HEAD:
        raise RecordingError(f"{file}: larger than {MAX_HEAD} bytes; is it the right file?")
    try:
        document, _ = decode_json(content)
    except Undecodable:
        raise RecordingError(f"{file}: not valid JSON") from None
    top = Table(file, "", document)
    if top.get("format", int) != FORMAT:
        raise RecordingError(f"{file}: format: expected {FORMAT}, the only one that this version reads")
    state, reason = top.get("state", str), top.optional("error", str)
    if state == "open":
        state, reason = "incomplete", reason or "the recording was interrupted"
    timing = top.optional("timing", dict) or {}
    times = Table(file, "timing.", timing)
    return Recording(
        folder=folder,
        id=top.get("id", str),
        started=top.get("started", str),
        state=state,
        error=reason,
        request=_request(top.table("request")),
        response=_response(top.table("response")) if top.optional("response", dict) is not None else None,
        first_byte=times.seconds("first_byte"),
        end=times.seconds("end"),
        payment=_payment(top.table("payment")) if top.optional("payment", dict) is not None else None,
        legs=top.optional("legs", int) or 1,
        notes=tuple(str(note) for note in top.optional("notes", list) or ()),
        in_head=tuple(map(_chunk, times.pairs("chunks"))) if times.optional("chunks", list) is not None else None,
    )


def _request(table: Table) -> RecordedRequest:
    return RecordedRequest(
        method=table.get("method", str),
        path=table.get("path", str),
        http_version=table.get("http_version", str),
        headers=table.headers("headers"),
        upstream=table.optional("upstream", str) or "",
        body=table.file_name("body"),
        size=table.optional("bytes", int) or 0,
        sha256=table.optional("sha256", str),
    )


def _response(table: Table) -> RecordedResponse:
    status = table.get("status", int)
    if not 100 <= status <= 999:
        raise table.wrong("status", "expected a status from 100 to 999")
    return RecordedResponse(
        status=status,
        reason=table.optional("reason", str) or "",
        http_version=table.get("http_version", str),
        headers=table.headers("headers"),
        trailers=table.headers("trailers") if table.optional("trailers", list) else (),
        body=table.file_name("body"),
        decoded=table.file_name("decoded"),
        size=table.optional("bytes", int) or 0,
        sha256=table.optional("sha256", str),
    )


def _payment(table: Table) -> RecordedPayment:
    return RecordedPayment(
        table.get("state", str),
        *(table.optional(key, str) or "" for key in ("amount", "network", "pay_to", "transaction", "refused")),
    )


def _chunk(pair: tuple[float, float]) -> Chunk:
    return Chunk(pair[0], int(pair[1]))


def _read_chunks(file: Path) -> Iterator[Chunk]:
    try:
        with file.open("rb") as stream:
            for number in itertools.count(1):
                line = stream.readline(_MAX_LINE)
                chunk = read_chunk(line.decode("utf-8", "replace"))
                if chunk is not None:
                    yield chunk
                elif not line:
                    return
                elif line.endswith(b"\n") or len(line) == _MAX_LINE:  # an unfinished one was just being written
                    raise RecordingError(f"{file}: line {number}: expected [seconds, bytes]")
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(file, error) from None


def read_chunk(line: str) -> Chunk | None:
    """The chunk that a line of chunks.jsonl describes; None: it describes none."""
    found = _CHUNK.fullmatch(line.strip())
    return None if found is None else Chunk(float(found[1]), int(found[2]))


_CHUNK = re.compile(r"\[ *([0-9]{1,12}(?:\.[0-9]{1,30})?(?:[eE]-[0-9]{1,3})?) *, *([0-9]{1,15}) *\]")
"""Seconds as other programs write them, too: with all digits of a float, or as 5e-06."""
