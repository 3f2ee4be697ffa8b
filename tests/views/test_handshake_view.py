"""The view of a flow's handshake: the challenge, the payment, the refusal."""

from __future__ import annotations

import base64
import gzip
import json
from io import BytesIO
from typing import Any

import pytest
from mitmproxy import http

from mitmproxy_x402.views import flow_metadata
from support import challenges
from support.showing.console import io
from support.showing.looking import JSON, flow, look


def paid(**facts: Any) -> http.HTTPFlow:
    made = flow()
    challenge = challenges.evm()
    encoded = base64.b64encode(json.dumps(challenge).encode()).decode()
    made.metadata = {
        "x402.state": "settled",
        "x402.amount": "0.013081",
        "x402.network": "base-sepolia",
        "x402.pay_to": challenges.PAY_TO,
        "x402.transaction": "0xabcdef0123456789",
        "x402.legs": "2",
        "x402.challenge": {
            "status": 402,
            "headers": [["PAYMENT-REQUIRED", encoded], ["X-Odd", "\x1b[2J"]],
            "body": b'{"price":{"amount":"0.02"}}',
        },
        **{f"x402.{key}": value for key, value in facts.items()},
    }
    return made


def test_the_answer_begins_with_the_payment() -> None:
    lines = look(paid(cut="cut at 4 MB of 12 MB")).text.splitlines()
    assert lines[:5] == [
        "0.013081 USDC on base-sepolia: paid",
        f"to {challenges.PAY_TO}",
        "transaction 0xabcdef0123456789",
        "The body is cut at 4 MB of 12 MB: x402_view_limit.",
        " ",
    ]


def test_the_handshake() -> None:
    text = look(paid(), "x402").text
    assert "requests sent upstream: 2" in text
    assert f"-> exact on base-sepolia: 0.013081 USDC, within 300 s\n       to {challenges.PAY_TO}\n" in text
    assert '"maxTimeoutSeconds": 300' in text
    assert '"amount": "0.02"' in text
    assert "X-Odd: \\u001b[2J" in text


def test_the_handshake_survives_a_flow_file(tmp_path: Any) -> None:
    file = tmp_path / "flows"
    with file.open("wb") as stream:
        io.FlowWriter(stream).add(paid())
    with file.open("rb") as stream:
        (loaded,) = io.FlowReader(stream).stream()
    assert isinstance(loaded, http.HTTPFlow)
    assert look(loaded, "x402").text == look(paid(), "x402").text


@pytest.mark.parametrize("how", ["live", "copied", "loaded"])
def test_a_challenge_does_not_bury_the_tab_detail(how: str) -> None:
    """mitmproxy prints the `repr` of all metadata there."""
    asked = flow()
    asked.response = http.Response.make(402, b"x" * 4000, {"PAYMENT-REQUIRED": "a" * 3000})
    flow_metadata.challenged(asked)
    if how == "copied":
        asked = asked.copy()
    elif how == "loaded":
        file = BytesIO()
        io.FlowWriter(file).add(asked)
        file.seek(0)
        (loaded,) = io.FlowReader(file).stream()
        assert isinstance(loaded, http.HTTPFlow)
        flow_metadata.loaded(loaded)
        asked = loaded
    assert repr(asked.metadata["x402.challenge"]).startswith("<402, 7,")
    assert len(repr(asked.metadata)) < 100
    assert "Its body:\n  xxxx" in look(asked, "x402").text


@pytest.mark.parametrize("value", [None, 7, "x", b"x", [], [1], [[1]], {}, {"a": 1}, [["a", "b", "c"]], "\ud800"])
@pytest.mark.parametrize("key", ["status", "headers", "body", ""])
def test_metadata_that_others_wrote_does_no_harm(key: str, value: Any) -> None:
    challenge = {"status": 402, "headers": [["a", "b"]], "body": b"x", key: value} if key else value
    made = paid(challenge=challenge, state=value, cut=value, refused=value)
    flow_metadata.loaded(made)
    assert len(repr(made.metadata)) < 1000
    for view in ("x402", "LLM stream"):
        assert isinstance(look(made, view).text, str)


@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        ({"status": 402, "headers": [], "body": b"no challenge"}, "no challenge"),
        ({"status": 402, "headers": [], "body": b'{"x402Version": 9, "accepts": [{}]}'}, "speaks x402 version 9"),
        ({"status": 402, "headers": [], "body": json.dumps(challenges.evm(network="eip155:1", asset="0xab")).encode()},
         "exact on eip155:1: 13081 of 0xab"),
        ({"status": 402, "headers": [["content-encoding", "gzip"]], "body": gzip.compress(b'{"accepts": []}')}, "402"),
        ({}, "402"),
    ],
)  # fmt: skip
def test_any_402(challenge: dict[str, Any], expected: str) -> None:
    assert expected in look(paid(challenge=challenge), "x402").text


def test_nothing_to_pay() -> None:
    assert look(flow(), "x402").text == "No payment was asked for."


def test_a_refusal_shows_the_handshake_by_itself() -> None:
    refused = paid(state="refused", refused="over_request_limit", asked="0.013081 USDC on base-sepolia")
    refused.response = http.Response.make(
        400, b'{"error": {"message": "The gateway asks too much."}}', {"content-type": JSON}
    )
    shown = look(refused)
    assert shown.name == "x402"
    assert shown.text.startswith("refused over_request_limit: asked 0.013081 USDC on base-sepolia\n")
    assert "The client got 400:\n  The gateway asks too much." in shown.text


def test_a_refusal_after_a_payment() -> None:
    text = look(paid(state="unknown", refused="over_repurchase_limit"), "x402").text
    assert text.startswith(
        "0.013081 USDC on base-sepolia: sent, not confirmed yet, then refused\nover_repurchase_limit\n"
    )
