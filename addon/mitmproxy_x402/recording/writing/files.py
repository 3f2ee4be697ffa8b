"""Writes one recording's folder, piece by piece."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from ...errors import Undecodable
from ...protocol.codings import Decoder, needs_decoding
from ..format import CHUNKS, HEAD, Chunk
from ..head import Files, Head, head_text
from .parts import Bytes

MAX_OPEN = 64
"""Most files that are kept open at once, so that descriptors are left for the proxy's connections."""
MAX_TWINS = 100
"""Numbers below this are tried for a folder whose name is taken."""
MAX_CHUNKS = 64
"""Most chunks that are listed in the head, if the answer is over before anything of it is written."""


class OpenFiles:
    """Appends to files, and keeps those written last open."""

    def __init__(self, most: int = MAX_OPEN) -> None:
        self._most = most
        self._open: OrderedDict[str, int] = OrderedDict()

    def write(self, file: str, data: Bytes, at: int) -> None:
        """Write `data` at offset `at`, the end of the file; 0 creates the file. Raises OSError: nothing was added."""
        descriptor = self._descriptor(file, new=at == 0)
        try:
            write_at(descriptor, data, at)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, at)
            raise

    def _descriptor(self, file: str, *, new: bool) -> int:
        descriptor = self._open.pop(file, None)
        if descriptor is None:
            # Never follows a link, overwrites a file, or recreates one that has been removed.
            flags = os.O_WRONLY | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if new else 0)
            descriptor = os.open(file, flags, 0o600)
        self._open[file] = descriptor
        if len(self._open) > self._most:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        return descriptor

    def close(self, *files: str) -> None:
        """Close `files`, if they are open."""
        for file in files:
            descriptor = self._open.pop(file, None)
            if descriptor is not None:
                with contextlib.suppress(OSError):  # some file systems fail only here; the size is checked anyway
                    os.close(descriptor)


def write_at(descriptor: int, data: Bytes, place: int) -> int:
    """Write all of `data` at offset `place`. Returns the offset after it. Raises OSError."""
    written = os.pwrite(descriptor, data, place)
    if written < len(data):
        view = memoryview(data)[written:]
        while view:
            more = os.pwrite(descriptor, view, place + written)
            view, written = view[more:], written + more
    return place + written


class Folder:
    """Writes the folder of one recording, and fills in the names, sizes and digests of its files.

    Every method raises OSError, after which `close` and `end` may still be called, to mark the recording as incomplete.
    After `close` another thread may use it.
    """

    _request: str | None = None
    _request_size = 0
    _request_digest: str | None = None
    _response: str | None = None
    size = 0
    """Bytes of the answer so far."""
    _digest: hashlib._Hash | None = None
    """SHA-256 of the answer so far."""
    _chunks_size = 0
    _chunks: list[Chunk] | None = None
    """The chunks, if they are listed in the head instead of a file."""
    _decoder: Decoder | None = None
    _decoded: str | None = None
    _decoded_size = 0
    _notes: tuple[str, ...] = ()
    _head: Head | None = None
    """What the head says but for the files."""
    _stale = False
    """Whether the head on the disk is outdated."""

    def __init__(self, parent: str, name: str, files: OpenFiles) -> None:
        self._parent = parent
        self._path = f"{parent}/{name}"
        self._files = files

    @property
    def path(self) -> Path:
        """The folder's path."""
        return Path(self._path)

    def make(self) -> None:
        """Create the folder."""
        try:
            os.mkdir(self._path, 0o700)
        except FileExistsError:  # the name is taken by another proxy
            first = self._path
            self._path = next(path for path in (f"{first}-{n}" for n in range(2, MAX_TWINS)) if not os.path.isdir(path))
            os.mkdir(self._path, 0o700)
        except FileNotFoundError:  # the parent was there at the start, and has been removed since
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._parent, 0o700)
            os.mkdir(self._path, 0o700)

    def write_request(self, extension: str, body: Bytes, left_out: int = 0) -> None:
        """Write the request's body, again if it has changed; `left_out`: the bytes at its end that are missing."""
        if left_out:
            whole = len(body) + left_out
            self._note(
                f"of the request's {whole:,} bytes only the first {len(body):,} are recorded: more found no room"
            )
        if not body and self._request is None:
            return
        name = self._request or f"request.{extension}"
        try:
            (write_new if self._request is None else replace_file)(f"{self._path}/{name}", body)
        except OSError as error:
            self._note(f"the request's body of {len(body):,} bytes could not be written: {error.strerror}")
            raise
        self._request = name
        self._request_size, self._request_digest = len(body), hashlib.sha256(body).hexdigest()

    def flush(self, head: Head | None) -> None:
        """Write the head if it has changed, so that readers find the files while the answer is arriving.

        `head`: as it is from now on; None: as before.
        """
        if head is not None:
            self._head = head
        if (head is not None or self._stale) and self._head is not None:
            self._write_head(self._head)

    def _write_head(self, head: Head) -> None:
        """Write flow.json as a whole."""
        self._stale = False
        digest = self._digest.hexdigest() if head.state != "open" and self._digest is not None else None
        files = Files(
            self._request,
            self._request_size,
            self._request_digest,
            self._response if self.size else None,
            self._decoded,
            self.size,
            digest,
            self._chunks,
            self._notes,
        )
        replace_file(f"{self._path}/{HEAD}", head_text(head, files).encode("utf-8", "replace"))

    def begin_response(self, extension: str, coding: str) -> None:
        """Begin the answer; `coding` is its Content-Encoding."""
        self._response = f"response.{extension}"
        if needs_decoding(coding):
            try:
                self._decoder = Decoder(coding)
            except Undecodable as error:
                self._note(f"not decoded: {error}")

    def add(self, times: Sequence[float], sizes: Sequence[int], data: Bytes, last: bool = False) -> None:
        """Write further chunks of the answer: when they came, and their bytes. With `last`, `close` and `end` follow
        at once.
        """
        assert self._response is not None
        before = self.size > 0, self._decoded
        if last and self.size == 0 and len(sizes) <= MAX_CHUNKS:  # creating a file would cost more than its content
            write_new(f"{self._path}/{self._response}", data)
            self._chunks = list(map(Chunk, times, sizes))
        else:
            self._files.write(f"{self._path}/{self._response}", data, self.size)
        if self._digest is None:
            self._digest = hashlib.sha256()
        self._digest.update(data)
        self.size += len(data)
        if self._chunks is None:
            lines = "".join([f"[{seconds:.6f}, {size}]\n" for seconds, size in zip(times, sizes, strict=True)]).encode()
            self._files.write(f"{self._path}/{CHUNKS}", lines, self._chunks_size)
            self._chunks_size += len(lines)
        if self._decoder is not None:
            self._decode(self._decoder, bytes(data))
        self._stale = self._stale or before != (self.size > 0, self._decoded)

    def _decode(self, decoder: Decoder, data: bytes) -> None:
        assert self._response is not None
        name = f"response.decoded.{self._response.rpartition('.')[2]}"
        try:
            for piece in decoder.feed(data):
                self._files.write(f"{self._path}/{name}", piece, self._decoded_size)
                self._decoded = name
                self._decoded_size += len(piece)
        except Undecodable as error:
            self._note(f"decoded to {self._decoded_size} bytes: {error}")
            self._decoder = None
            self._files.close(f"{self._path}/{name}")

    def _note(self, remark: str) -> None:
        self._notes = (*self._notes, remark)

    def close(self) -> None:
        """Close the open files; nothing more is added."""
        if self._chunks is None or self._decoded is not None:
            self._files.close(*[f"{self._path}/{name}" for name in (self._response, self._decoded, CHUNKS) if name])

    def end(self, head: Head) -> None:
        """Write the final head."""
        if head.state == "complete" and self._decoder is not None and self.size and not self._decoder.is_whole:
            what = "something follows its end" if self._decoder.is_over else "the coding ends early"
            self._note(f"decoded to {self._decoded_size} bytes: {what}")
            self._decoder = None
        try:
            self._write_head(head)
        except OSError:
            with contextlib.suppress(OSError):  # on a full disk there may be no folder
                os.rmdir(self._path)
            raise

    def remove(self) -> None:
        """Delete what was written; other files in the folder stay. Called after `close`."""
        for name in (HEAD, self._request, self._response, self._decoded, CHUNKS):
            if name is not None:
                (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()


def write_new(file: str, content: Bytes) -> None:
    """Create `file` with `content`, readable by the user alone. Raises OSError, also if the file exists."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        write_at(descriptor, content, 0)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(file)
        raise
    finally:
        os.close(descriptor)


def replace_file(file: str, content: Bytes) -> None:
    """Replace `file` by `content` atomically, readable by the user alone. Raises OSError."""
    folder, _, name = file.rpartition("/")
    fresh = f"{folder}/.{name}.new"
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            write_at(descriptor, content, 0)
        finally:
            os.close(descriptor)
        os.replace(fresh, file)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise
