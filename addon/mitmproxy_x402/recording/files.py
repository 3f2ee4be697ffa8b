"""Writes one recording's folder, piece by piece. Everything here blocks: it belongs into a thread of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..protocol.codings import Decoder, Undecodable, needs_decoding
from .format import CHUNKS, HEAD, Recording, to_text
from .names import extension

MAX_OPEN = 64
"""Files that are kept open at once: the descriptors are the proxy's, whose connections need them more."""
MAX_TWINS = 100

Piece = tuple[float, bytes]
"""A chunk of the answer: seconds since the request began, and the bytes."""


class OpenFiles:
    """Files that are written at their end; those written last stay open."""

    def __init__(self, most: int = MAX_OPEN) -> None:
        self._most = most
        self._open: OrderedDict[Path, int] = OrderedDict()

    def write(self, file: Path, data: bytes, at: int) -> None:
        """Put `data` at offset `at`, the end of the file; at 0 the file is made. Raises OSError: nothing was added."""
        descriptor = self._descriptor(file, new=at == 0)
        try:
            write_at(descriptor, data, at)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, at)
            raise

    def _descriptor(self, file: Path, *, new: bool) -> int:
        descriptor = self._open.pop(file, None)
        if descriptor is None:
            # Never through a link, never over what is there, never made again once it has vanished.
            flags = os.O_WRONLY | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if new else 0)
            descriptor = os.open(file, flags, 0o600)
        self._open[file] = descriptor
        if len(self._open) > self._most:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        return descriptor

    def close(self, *files: Path) -> None:
        """No more is written to these."""
        for file in files:
            descriptor = self._open.pop(file, None)
            if descriptor is not None:
                with contextlib.suppress(OSError):  # some file systems complain only now; the size is checked anyway
                    os.close(descriptor)


def write_at(descriptor: int, data: bytes, place: int) -> int:
    """Write all of `data` at offset `place`. Gives the offset after it. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, place)
        view, place = view[written:], place + written
    return place


class Folder:
    """The folder of one recording. What it is given lacks names, sizes and digests of files: it knows them.

    Every method raises OSError, after which `close` and `end` are still allowed, to say that the recording is
    incomplete. After `close` another thread may go on with it.
    """

    def __init__(self, parent: Path, name: str, files: OpenFiles) -> None:
        self.path = parent / name
        self._files = files
        self._request: str | None = None
        self._request_size = 0
        self._request_digest: str | None = None
        self._response: str | None = None
        self._size = 0
        self._digest: str | None = None
        self._chunks_size = 0
        self._decoder: Decoder | None = None
        self._decoded: str | None = None
        self._decoded_size = 0
        self._notes: list[str] = []
        self._recording: Recording | None = None
        """As the head has it, or will have it."""
        self._stale = False
        """Whether the head says less than is known."""

    def begin(self, recording: Recording, body: bytes | None) -> None:
        """Make the folder, with the request. As with all that follows, the head is written by `flush`."""
        self._make()
        self.write_request(recording, body)
        self._recording, self._stale = recording, True

    def _make(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.path.parent.mkdir(mode=0o700)  # it was there at the start, and may have been removed since
        parent, name = self.path.parent, self.path.name
        twins = (parent / f"{name}-{number}" for number in range(2, MAX_TWINS))
        while self.path.is_dir():  # another proxy's
            self.path = next(twins)
        self.path.mkdir(mode=0o700)

    def write_request(self, recording: Recording, body: bytes | None) -> None:
        """The request's body, also again when it has changed."""
        if not body and self._request is None:
            return
        body = body or b""
        self._request = self._request or f"request.{extension(recording.request.header('content-type'))}"
        replace_file(self.path / self._request, body)
        self._request_size, self._request_digest = len(body), hashlib.sha256(body).hexdigest()

    def flush(self) -> None:
        """Write the head anew where more is known, so that whoever reads it while the answer comes in finds the files.

        Not with each piece of news: to replace a file costs more than most of what is in it.
        """
        if self._stale and self._recording is not None:
            self._write_head(self._recording)

    def _write_head(self, recording: Recording) -> None:
        """flow.json, as a whole."""
        self._recording, self._stale = recording, False
        replace_file(self.path / HEAD, to_text(self.known(recording)).encode("utf-8", "replace"))

    def begin_response(self, recording: Recording) -> None:
        """The answer's head is there."""
        response = recording.response
        assert response is not None
        self._response = f"response.{extension(response.header('content-type'))}"
        coding = response.header("content-encoding")
        if needs_decoding(coding):
            try:
                self._decoder = Decoder(coding)
            except Undecodable as error:
                self._notes.append(f"not decoded: {error}")
        self._recording, self._stale = recording, True

    def add(self, pieces: Sequence[Piece]) -> None:
        """More of the answer."""
        assert self._response is not None
        before = self._size > 0, self._decoded
        data = b"".join(piece for _, piece in pieces)
        self._files.write(self.path / self._response, data, self._size)
        self._size += len(data)
        lines = "".join(f"[{seconds:.6f}, {len(piece)}]\n" for seconds, piece in pieces).encode()
        self._files.write(self.path / CHUNKS, lines, self._chunks_size)
        self._chunks_size += len(lines)
        if self._decoder is not None:
            self._decode(self._decoder, data)
        self._stale = self._stale or before != (self._size > 0, self._decoded)

    def _decode(self, decoder: Decoder, data: bytes) -> None:
        assert self._response is not None
        name = f"response.decoded.{self._response.rpartition('.')[2]}"
        try:
            for piece in decoder.feed(data):
                self._files.write(self.path / name, piece, self._decoded_size)
                self._decoded = name
                self._decoded_size += len(piece)
        except Undecodable as error:
            self._notes.append(f"decoded to {self._decoded_size} bytes: {error}")
            self._decoder = None
            self._files.close(self.path / name)

    def close(self) -> None:
        """Nothing more is added."""
        self._files.close(*(self.path / name for name in (self._response, self._decoded, CHUNKS) if name is not None))

    def end(self, recording: Recording) -> Recording:
        """The flow is over. Gives the recording with all that is known now."""
        if self._size and self._response is not None:
            self._digest = _digest(self.path / self._response)
        try:
            self._write_head(recording)
        except OSError:
            with contextlib.suppress(OSError):  # where there is nothing of it, nor is a folder, on a full disk
                self.path.rmdir()
            raise
        return self.known(recording)

    def remove(self) -> None:
        """After `close`: take away what was written; what others have put into the folder stays."""
        for name in (HEAD, self._request, self._response, self._decoded, CHUNKS):
            if name is not None:
                (self.path / name).unlink(missing_ok=True)
        self.path.rmdir()

    def known(self, recording: Recording) -> Recording:
        """`recording` with the names, sizes and digests of its files."""
        request = replace(recording.request, body=self._request, size=self._request_size, sha256=self._request_digest)
        response = recording.response
        if response is not None:
            response = replace(
                response,
                body=self._response if self._size else None,
                decoded=self._decoded,
                size=self._size,
                sha256=self._digest,
            )
        notes = (*recording.notes, *self._notes)
        return replace(recording, folder=self.path, request=request, response=response, notes=notes)


def _digest(file: Path) -> str:
    """At the end and not chunk by chunk, where it would cost the stream's processor time it may not have."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def replace_file(file: Path, content: bytes) -> None:
    """Put `content` into `file`, readable by the user alone; whoever reads sees the old or the new, never a part."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            write_at(descriptor, content, 0)
        finally:
            os.close(descriptor)
        fresh.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
