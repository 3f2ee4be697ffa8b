"""Formats the content view "x402": a flow's handshake, from its metadata. Pure except for mitmproxy's types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mitmproxy import http

from ..errors import ChallengeError
from ..llm.printing import line, printable
from ..payment import challenge
from ..protocol.amounts import format_usd
from ..protocol.messages import PaymentRequired, PaymentRequirements
from ..protocol.networks import BUILT_IN
from ..protocol.strict_json import is_too_deep
from . import comment

_KNOWN = ("state", "chain", "refused", "asked", "reason", "amount", "network", "pay_to", "transaction", "legs")
_DETAILS = (("pay_to", "to"), ("transaction", "transaction"), ("reason", "the gateway's reason:"))


def money_lines(facts: Mapping[str, Any]) -> list[str]:
    """Lines about the payment and about how much of the body was kept; empty if nothing is known."""
    said = {key: facts.get(f"x402.{key}") for key in _KNOWN if isinstance(facts.get(f"x402.{key}"), str)}
    lines = []
    if said.get("state") == "refused":
        lines.append(comment.payment(facts))
    elif said.get("state"):
        word = "confirmed by the chain" if said.get("chain") == "moved" else comment.state_word(said["state"] or "")
        became = f"{said.get('amount', '?')} USDC on {said.get('network', '?')}: {word}"
        lines.append(f"{became}, then refused {said['refused']}" if "refused" in said else became)
        lines += [f"{name} {said[key]}" for key, name in _DETAILS if key in said]
    cut = facts.get("x402.cut")
    return [*lines, f"The body is {cut}: x402_view_limit."] if isinstance(cut, str) else lines


def text(flow: http.HTTPFlow) -> str:
    """The text of the view."""
    facts = flow.metadata
    lines = money_lines(facts) or ["No payment was asked for."]
    if "x402.legs" in facts:
        lines.append(f"requests sent upstream: {facts['x402.legs']}")
    lines += _own_answer(flow)
    held = facts.get("x402.challenge")
    if isinstance(held, Mapping):
        lines += _held(held, facts)
    return "\n".join(map(printable, lines))


def _own_answer(flow: http.HTTPFlow) -> Iterator[str]:
    """Yield what the client was told, if the addon answered itself."""
    if flow.metadata.get("x402.state") != "refused" or flow.response is None:
        return
    try:
        said = json.loads(flow.response.raw_content or b"")["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return
    yield from ("", f"The client got {flow.response.status_code}:", f"  {said}")


def _held(held: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    fields = [(str(name), str(value)) for name, value in held.get("headers", ())]
    body = held.get("body", b"")
    pairs = [(name.encode(), value.encode()) for name, value in fields]
    response = http.Response.make(int(held.get("status", 402)), body, http.Headers(pairs))
    yield from ("", f"The upstream's {response.status_code}, held back by the proxy:")
    try:
        required = challenge.read(response)
    except ChallengeError as error:
        yield f"  {error}"
    else:
        yield from ["  no challenge"] if required is None else _challenge(required, facts)
    yield from ("", "Its headers:", *(f"  {line(name)}: {line(value)}" for name, value in fields))
    yield from ("", "Its body:", *(f"  {part}" for part in _body(response).splitlines()))


def _challenge(required: PaymentRequired, facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"  x402 version {required.x402_version}" + (f": {required.error}" if required.error else "")
    for entry in required.accepts:
        network, price = priced(entry)
        chosen = (network, price, entry.pay_to) == (
            facts.get("x402.network"),
            f"{facts.get('x402.amount')} USDC",
            facts.get("x402.pay_to"),
        )
        mark = "->" if chosen and entry.scheme == "exact" else "  "
        yield f"  {mark} {entry.scheme} on {network}: {price}, within {entry.max_timeout_seconds} s"
        yield f"       to {entry.pay_to}"
    yield from (f"     cannot be read: {reason}" for reason in required.unreadable)
    yield from ("", "Decoded:")
    decoded = {
        "resource": required.resource,
        "accepts": [entry.raw for entry in required.accepts],
        "extensions": required.extensions,
    }
    whole = json.dumps({key: value for key, value in decoded.items() if value}, indent=2, ensure_ascii=False)
    yield from (f"  {part}" for part in whole.splitlines())


def priced(entry: PaymentRequirements) -> tuple[str, str]:
    """The network's short name, and the price: in dollars if the asset is in the built-in table."""
    network = BUILT_IN.get(entry.network)
    asset = None if network is None else network.asset(entry.asset)
    if network is None or asset is None:
        return (entry.network if network is None else network.name), f"{entry.amount} of {entry.asset}"
    return network.name, f"{format_usd(asset.micro_usd(entry.amount))} {asset.symbol}"


def _body(response: http.Response) -> str:
    body = challenge.decoded(response.raw_content or b"", response.headers.get("content-encoding"))
    try:
        if not is_too_deep(body):
            return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        pass
    return body.decode("utf-8", "replace").strip() or "(empty)"
