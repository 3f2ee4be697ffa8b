"""What was recorded and is served again gives each vendor's SDK the same objects as the original."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mitmproxy_x402.fixtures.server import FixtureServer
from mitmproxy_x402.recording.format import Recording, read_recordings
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.proxy import Proxy
from support.recording.shapes import NAMES, Answers, clients, shape_of


@dataclass
class Twice:
    """The same calls, answered by the gateway through the proxy, and by its recordings."""

    first: Answers
    again: Answers
    recordings: list[Recording]
    missed: list[str]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Twice:
    home = tmp_path_factory.mktemp("home")
    folder = home / "dump"
    with clients(home) as ask:
        with (
            Sandbox(SandboxConfig(networks=("base-sepolia",))).run_in_thread() as sandbox,
            Proxy(sandbox.url, "--set", f"x402_dump={folder}", home=home) as proxy,
        ):
            first = ask(proxy.url)
        recordings = read_recordings(folder)
        server = FixtureServer(recordings)
        with server.run_in_thread() as url:
            again = ask(url)
    return Twice(first, again, recordings, [str(miss) for miss in server.missed])


@pytest.mark.parametrize("name", NAMES)
def test_the_sdk_gets_the_same_objects(twice: Twice, name: str) -> None:
    first, again = twice.first[name], twice.again[name]
    assert again == first
    assert first["objects"] or name.endswith("-error")
    assert (first["error"] is not None) >= name.endswith(("-error", "-cut"))


def test_nothing_was_asked_that_was_not_recorded(twice: Twice) -> None:
    assert twice.missed == []


def test_the_recordings_are_of_paid_answers(twice: Twice) -> None:
    assert {recording.payment.state for recording in twice.recordings if recording.payment} == {"settled", "unknown"}
    assert all(recording.payment is not None for recording in twice.recordings)


def test_what_was_cut_is_incomplete(twice: Twice) -> None:
    for recording in twice.recordings:
        # At this event an SDK hangs up, which may be before the end of the answer has come.
        is_whole = recording.complete or recording.body().endswith(b"data: [DONE]\n\n")
        assert is_whole != shape_of(recording.request_body()).endswith("-cut")
