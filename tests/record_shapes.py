"""Records every shape of an answer anew into tests/recordings: `python tests/record_shapes.py`.

Each vendor's SDK asks the sandbox, through the real proxy, which writes what passes by x402_dump. What differs from one
time to the next (ports, times, the SDKs' versions) is evened out, so that `git diff` shows what has become different.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import urllib.request
from dataclasses import replace
from pathlib import Path

from mitmproxy_x402.recording.format import CHUNKS, HEAD, Headers, Recording, read_recordings
from mitmproxy_x402.recording.head import to_text
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.proxy import Proxy
from support.recording.further import further, vendor
from support.recording.shapes import clients, shape_of
from support.vendors.more_streams import every_stream

RECORDINGS = Path(__file__).parent / "recordings"
NOW = 1_767_225_600
STARTED = "2026-01-01T00:00:00.000Z"
PACE = 0.01
"""Seconds between the chunks, so that the proxy cannot take two for one."""
FIRST, STEP = 0.25, 0.02
"""Seconds to the first chunk, and between chunks, as they are written down."""
_OF_SDKS = re.compile(r"user-agent|x-stainless-.*|x-goog-api-client", re.IGNORECASE)


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        recordings = record(Path(scratch))
        shutil.rmtree(RECORDINGS, ignore_errors=True)
        for recording in recordings:
            folder = RECORDINGS / shape_of(recording.request_body())
            if not folder.exists():  # some shapes are asked for twice
                write(recording, folder)
        for recording in record_further(Path(scratch) / "further"):
            write(recording, RECORDINGS / json.loads(recording.request_body())["user"])


def record(home: Path) -> list[Recording]:
    config = SandboxConfig(networks=("base-sepolia",), free=True, clock=lambda: NOW, chunk_seconds=PACE)
    with (
        clients(home) as ask,
        Sandbox(config).run_in_thread() as sandbox,
        Proxy(sandbox.url, "--set", f"x402_dump={home / 'dump'}", home=home) as proxy,
    ):
        ask(proxy.url)
    return read_recordings(home / "dump")


def record_further(home: Path) -> list[Recording]:
    """The dialects that no sandbox speaks: their vendor answers by heart, and whoever asks is no SDK."""
    home.mkdir()
    exchanges = further(every_stream())
    with vendor(exchanges, PACE) as url, Proxy(url, "--set", f"x402_dump={home / 'dump'}", home=home) as proxy:
        for exchange in exchanges.values():
            body = json.dumps(exchange.request).encode()
            asked = urllib.request.Request(proxy.url + exchange.path, body, {"content-type": "application/json"})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                answer.read()
    return read_recordings(home / "dump")


def write(recording: Recording, folder: Path) -> None:
    shutil.copytree(recording.folder, folder)
    sizes = [chunk.size for chunk in recording.chunks()]
    times = [round(FIRST + STEP * number, 6) for number, _ in enumerate(sizes)]
    (folder / CHUNKS).write_text(
        "".join(f"[{seconds:.6f}, {size}]\n" for seconds, size in zip(times, sizes, strict=True))
    )
    response = recording.response
    assert response is not None
    evened = replace(
        recording,
        id=folder.name,
        started=STARTED,
        request=replace(
            recording.request, headers=_plain(recording.request.headers, folder.name), upstream="http://127.0.0.1:4420"
        ),
        response=replace(response, headers=_plain(response.headers, folder.name)),
        first_byte=FIRST,
        end=round(times[-1] + STEP, 6),
    )
    (folder / HEAD).write_text(to_text(evened))


def _plain(headers: Headers, shape: str) -> Headers:
    evened = {"host": "127.0.0.1:4402", "date": "Thu, 01 Jan 2026 00:00:00 GMT", "x-request-id": f"req_{shape}"}
    return tuple((name, evened.get(name.lower(), value)) for name, value in headers if not _OF_SDKS.fullmatch(name))


if __name__ == "__main__":
    main()
