"""Defines and sets the keys of `flow.metadata` that describe a flow's payment; recognises health checks.

All values are text, except the challenge. The names are stable:

    x402.state        sent, settled, unknown, rejected, superseded, expired or refused; absent: no payment was asked for
    x402.refused      the code of a refusal
    x402.asked        what was not paid: "2.5 USDC on base"; absent: no offer was chosen
    x402.amount       amount of the last payment, in USDC: "0.013081"
    x402.network      its network's short name: "base"
    x402.pay_to       its recipient's address
    x402.transaction  id of the transaction that settled it
    x402.reason       of a rejection: the gateway's code, and what it means
    x402.chain        what the chain says later: moved (the payment is confirmed) or dead (nothing moved, ever)
    x402.legs         how many requests went upstream for the client's one
    x402.challenge    the 402 that was held back: {"status": 402, "headers": [[name, value], ...], "body": bytes}

Nothing here is secret: the payment's header never comes near a flow.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from mitmproxy import http

from ..ledger.interface import State
from ..payment.offer import Offer
from ..protocol.amounts import format_usd

MOST = 64 * 1024
"""Most bytes of a challenge's body that are kept with the flow."""


class HeldChallenge(dict[str, Any]):
    """The 402 that was held back. mitmproxy's tab Detail prints its `repr`, which is one short line."""

    def __repr__(self) -> str:
        return f"<{self.get('status')!r:.20}, {len(super().__repr__()):,} characters: the view x402 shows it>"


def challenged(flow: http.HTTPFlow) -> None:
    """Store `flow.response`, a 402 that is held back, as the flow's challenge."""
    response = flow.response
    assert response is not None
    fields = response.headers.fields
    headers = [[name.decode("utf-8", "replace"), value.decode("utf-8", "replace")] for name, value in fields]
    body = (response.raw_content or b"")[:MOST]
    flow.metadata["x402.challenge"] = HeldChallenge(status=response.status_code, headers=headers, body=body)


def loaded(flow: http.HTTPFlow) -> None:
    """Restore the type of the challenge in a `flow` that was loaded from a file."""
    held = flow.metadata.get("x402.challenge")
    if type(held) is dict:
        flow.metadata["x402.challenge"] = HeldChallenge(held)


def offered(flow: http.HTTPFlow, offer: Offer) -> None:
    """Note that the next leg carries a payment of `offer`."""
    flow.metadata["x402.amount"] = format_usd(offer.micro_usd)
    flow.metadata["x402.network"] = offer.network.name
    flow.metadata["x402.pay_to"] = offer.requirement.pay_to
    flow.metadata.pop("x402.reason", None)
    flow.metadata.pop("x402.refused", None)  # from an earlier payment that could not be sent


def refused(flow: http.HTTPFlow, code: str, asked: str = "") -> None:
    """Note that the addon itself answers with `code`. The state of an earlier payment is kept."""
    flow.metadata.setdefault("x402.state", "refused")
    flow.metadata["x402.refused"] = code
    if asked:
        flow.metadata["x402.asked"] = asked


def rejected(flow: http.HTTPFlow, why: str) -> None:
    """Note that the gateway rejected a payment; `why` is its code and an explanation."""
    if why:
        flow.metadata["x402.reason"] = why


def sent_upstream(flow: http.HTTPFlow, legs: int) -> None:
    """Set the number of requests that were sent upstream for this one."""
    flow.metadata["x402.legs"] = str(legs)


def became(flow: http.HTTPFlow, state: State, transaction: str = "") -> None:
    """Set the payment's state, as in the ledger, and its transaction if known."""
    flow.metadata["x402.state"] = str(state)
    if transaction:
        flow.metadata["x402.transaction"] = transaction


_by_row: WeakValueDictionary[int, http.HTTPFlow] = WeakValueDictionary()  # survives a reload of the script


def paid_by(flow: http.HTTPFlow, row: int) -> None:
    """Note that the ledger's `row` is the last payment of `flow`."""
    _by_row[row] = flow


def flow_of(row: int) -> http.HTTPFlow | None:
    """The flow that the ledger's `row` was paid for; None: mitmproxy no longer has it."""
    return _by_row.get(row)


def proven(flow: http.HTTPFlow, verdict: str, transaction: str) -> None:
    """Set the chain's verdict on the payment: `moved`, with its transaction, or `dead`."""
    flow.metadata["x402.chain"] = verdict
    flow.metadata["x402.state"] = "settled" if verdict == "moved" else "expired"
    if transaction:
        flow.metadata["x402.transaction"] = transaction


HEALTH = "/x402/health"
"""The only path that is never sent upstream."""


def is_health(request: http.Request) -> bool:
    """Whether the request is a health check, which the proxy answers itself."""
    return request.path.partition("?")[0] == HEALTH and request.method in ("GET", "HEAD")
