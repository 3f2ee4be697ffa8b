"""A proxy that records, and waiting until it has recorded."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mitmproxy_x402.recording.format import Recording, RecordingError, read_recording, read_recordings
from support.changer import set_options
from support.proxy import Proxy
from support.rig import Rig
from support.wire import TIMEOUT, Client, Peer, Script, Upstream, request

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENT = b'data: {"text": "\xe2\x82\xac"}\n\n'


def idle(_peer: Peer, _upstream: Upstream) -> None:
    raise EOFError("no script")


_numbers = itertools.count()


class Recorded(Rig):
    """A proxy that records into `folder`, and the scripted upstream behind it."""

    @property
    def folder(self) -> Path:
        return self.proxy.home / "rec"

    def fresh(self, script: Script) -> None:
        """From now on `script`, and nothing recorded yet."""
        self.clear()
        self.script(script)

    def clear(self) -> None:
        """Remove what is recorded, once nothing is being recorded any more."""
        self.catch_up()

        def cleared() -> bool:
            try:
                if any(read_recording(folder).end is None for folder in self.folders()):
                    return False
                shutil.rmtree(self.folder)
            except (OSError, RecordingError):
                return not self.folder.exists()
            return True

        until(cleared, self.folders)

    def catch_up(self) -> None:
        """Wait until all that is over by now is recorded: recordings end in order, and one more has."""
        path = f"/last/{next(_numbers)}"
        with self.client() as client:
            client.ask(request("POST", path, b"{}", "Origin: https://evil.example"))
        self.wait(lambda found: any(one.request.path == path and one.end is not None for one in found))

    def writers(self) -> list[int]:
        """The process that writes recordings, if it was started."""
        tasks = Path(f"/proc/{self.proxy.process.pid}/task").glob("*/children")
        children = [int(pid) for file in tasks for pid in file.read_text().split()]
        return [pid for pid in children if b"writer_process.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def catch_up_with_all(self) -> None:
        """The same for a proxy with `changer`, also for what threads write: other formats, late filters."""
        assert set_options(self.proxy, "x402_dump_filter=! ~bs nobody-says-that") == "taken"
        self.catch_up()
        assert set_options(self.proxy, "x402_dump_filter=") == "taken"
        self.catch_up()

    def folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.is_dir()) if self.folder.exists() else []

    def wait(self, is_so: Callable[[list[Recording]], bool]) -> list[Recording]:
        """The recordings, as soon as `is_so` of them."""
        found: list[Recording] = []

        def look() -> bool:
            nonlocal found
            try:
                found = read_recordings(self.folder)
            except RecordingError:  # none yet, or one is just being removed
                found = []
            return is_so(found)

        until(look, lambda: found)
        return found

    def one(self) -> Recording:
        """The only recording, when it is over."""
        (found,) = self.wait(lambda found: len(found) == 1 and found[0].end is not None)
        return found


def until(is_so: Callable[[], bool], seen: Callable[[], Any] = lambda: "") -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < deadline, seen()
        time.sleep(0.005)


@contextmanager
def recording_proxy(home: Path, *options: str, script: Script = idle, **more: Any) -> Iterator[Recorded]:
    with Upstream(script) as upstream:
        with Proxy(upstream.url, "--set", "x402_dump=rec", *options, home=home, **more) as proxy:
            yield Recorded(proxy, upstream)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answering(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Script:
    lines = [b"HTTP/1.1 " + status, *headers, b"Content-Length: %d" % len(body)]

    def script(peer: Peer, upstream: Upstream) -> None:
        while True:
            upstream.read(peer)
            peer.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    return script


def begin(rig: Recorded, client: Client) -> Recording:
    """A request of `streaming`, of which everything that was sent is recorded."""
    client.send(request())
    client.until(b"\r\n\r\n")
    for _ in range(3):
        assert client.chunk() == EVENT
    (found,) = rig.wait(lambda found: len(found) == 1 and bool(found[0].response) and found[0].body() == EVENT * 3)
    return found
