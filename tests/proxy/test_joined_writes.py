"""What leaves in one piece, and when: bytes that have come in are passed on before anything else is done."""

from __future__ import annotations

import pytest
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.layers.http import HttpLayer
from mitmproxy.test import tflow

from mitmproxy_x402.proxy.http1 import MAX_JOINED
from mitmproxy_x402.proxy.layer import X402Layer
from mitmproxy_x402.proxy.stream import Steps

FLOW = tflow.tflow()
CLIENT, SERVER = FLOW.client_conn, FLOW.server_conn
WORK = "work"


def _trace(monkeypatch: pytest.MonkeyPatch, event: events.Event, *steps: bytes | str) -> list[bytes | str]:
    """What is sent to the client, and what is done in between, where mitmproxy answers `event` by these `steps`."""
    done: list[bytes | str] = []

    def handle(_: HttpLayer, __: events.Event) -> Steps:
        for step in steps:
            if isinstance(step, str):
                done.append(step)
            else:
                yield commands.SendData(CLIENT, step)

    monkeypatch.setattr(HttpLayer, "_handle_event", handle)
    layer = object.__new__(X402Layer)
    layer.addons = None
    for command in layer._go_on(event):
        assert isinstance(command, commands.SendData)
        done.append(command.data)
    return done


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((b"1234567890", WORK), [b"1234567890", WORK]),
        ((b"1234", WORK, b"567890", WORK), [WORK, b"1234567890", WORK]),
        ((b"1234567890 and more", WORK, b"end"), [b"1234567890 and more", WORK, b"end"]),
        ((b"1234", WORK, b"5678", WORK), [WORK, WORK, b"12345678"]),
        ((b"1234567890", WORK, b"1234567890"), [b"1234567890", WORK, b"1234567890"]),
        ((WORK,), [WORK]),
    ],
    ids=["whole", "in two", "longer", "shorter", "twice", "nothing"],
)
def test_as_much_as_has_come_in_is_passed_on_at_once(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[bytes | str, ...], expected: list[bytes | str]
) -> None:
    assert _trace(monkeypatch, events.DataReceived(SERVER, b"1234567890"), *steps) == expected


def test_what_no_bytes_have_brought_leaves_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _trace(monkeypatch, events.Start(), b"head", WORK, b"body", WORK) == [WORK, WORK, b"headbody"]


def test_a_long_piece_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    long = bytes(MAX_JOINED)
    assert _trace(monkeypatch, events.Start(), b"head", long, WORK, b"end") == [b"head", long, WORK, b"end"]
