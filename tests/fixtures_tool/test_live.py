"""A recording that is under way, and one whose proxy was killed: shown, and served up to where they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.fixtures.__main__ import main
from mitmproxy_x402.fixtures.server import FixtureServer
from mitmproxy_x402.recording.format import RecordingError, read_recordings
from support.patience import eventually
from support.place import Place, place
from support.wire import Client, request

ASKED = json.dumps({"model": "sandbox-free", "stream": True, "messages": []}).encode()
PIECES = 10


@pytest.fixture(params=["plain", "gzip"])
def stalled(request: pytest.FixtureRequest, home: Path) -> Iterator[tuple[Place, Path]]:
    """A proxy that records, and a stream through it that has come to a stop."""
    folder = home / "dump"
    fault = f"stall-after;after={PIECES}" + (",gzip" if request.param == "gzip" else "")
    with place(home, "--set", f"x402_dump={folder}") as here, here.proxy.client() as client:
        client.send(_request(fault))
        client.until(b"\r\n\r\n")
        for _ in range(PIECES):
            client.chunk()
        yield here, folder


def _request(*fault: str) -> bytes:
    headers = [f"x-sandbox-fault: {one}" for one in fault]
    return request("POST", "/v1/chat/completions", ASKED, "Content-Type: application/json", *headers)


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `show` says once all that the client got is on disk, decoded, too."""
    eventually(lambda: _chunks(folder) == PIECES)
    said = [_show(folder, capsys)]

    def is_all_there() -> bool:
        said.append(_show(folder, capsys))
        return said[-1]["answer"] is not None and said[-1] == said[-2]

    eventually(is_all_there)
    return said[-1]


def _chunks(folder: Path) -> int:
    try:
        return sum(len(recording.chunks()) for recording in read_recordings(folder))
    except RecordingError:  # there is none yet
        return 0


def _show(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["show", str(folder), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_it_is_shown_while_it_comes_in(stalled: tuple[Place, Path], capsys: pytest.CaptureFixture[str]) -> None:
    document = shown(stalled[1], capsys)
    assert (document["status"], document["state"]) == (200, "incomplete")
    assert document["answer"]["items"][0]["text"].startswith("Grüße aus dem")
    assert not document["answer"]["complete"]


def test_after_the_proxy_was_killed(stalled: tuple[Place, Path], capsys: pytest.CaptureFixture[str]) -> None:
    here, folder = stalled
    before = shown(folder, capsys)
    here.proxy.process.kill()
    here.proxy.process.wait()
    assert shown(folder, capsys) == before
    [recording] = read_recordings(folder)
    with FixtureServer([recording]).run_in_thread() as url, Client("127.0.0.1", int(url.rpartition(":")[2])) as client:
        client.send(_request())
        client.until(b"\r\n\r\n")
        assert b"".join(client.chunk() for _ in range(PIECES)) == recording.body()
        assert client.rest() == b""  # cut, without a last chunk
