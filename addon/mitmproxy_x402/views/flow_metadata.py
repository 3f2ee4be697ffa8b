"""Defines and sets the keys of `flow.metadata` that describe a flow's payment.

All values are text, but for the challenge. The names are stable:

    x402.state        sent, settled, unknown, rejected or refused; absent: nothing was asked to be paid
    x402.refused      the code of a refusal
    x402.asked        what was not paid: "2.5 USDC on base"; absent where no price was chosen
    x402.amount       of the last payment, in USDC: "0.013081"
    x402.network      short name: "base"
    x402.pay_to       whom
    x402.transaction  of the settlement
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
"""Bytes of a challenge's body that are kept with the flow."""


class HeldChallenge(dict[str, Any]):
    """The 402 that was held back. mitmproxy's tab Detail prints its `repr`, which is one short line."""

    def __repr__(self) -> str:
        return f"<{self.get('status')!r:.20}, {len(super().__repr__()):,} characters: the view x402 shows it>"


def challenged(flow: http.HTTPFlow) -> None:
    """`flow.response` is a 402 that the client will not see, or not yet."""
    response = flow.response
    assert response is not None
    fields = response.headers.fields
    headers = [[name.decode("utf-8", "replace"), value.decode("utf-8", "replace")] for name, value in fields]
    body = (response.raw_content or b"")[:MOST]
    flow.metadata["x402.challenge"] = HeldChallenge(status=response.status_code, headers=headers, body=body)


def loaded(flow: http.HTTPFlow) -> None:
    """`flow` comes from a file, where a challenge is but a table."""
    held = flow.metadata.get("x402.challenge")
    if type(held) is dict:
        flow.metadata["x402.challenge"] = HeldChallenge(held)


def offered(flow: http.HTTPFlow, offer: Offer) -> None:
    """A payment of `offer` goes with the next leg."""
    flow.metadata["x402.amount"] = format_usd(offer.micro_usd)
    flow.metadata["x402.network"] = offer.network.name
    flow.metadata["x402.pay_to"] = offer.requirement.pay_to
    flow.metadata.pop("x402.reason", None)
    flow.metadata.pop("x402.refused", None)  # of a payment that could not be sent, before this one


def refused(flow: http.HTTPFlow, code: str, asked: str = "") -> None:
    """The addon itself answers, with `code`. A payment that was sent before keeps its state."""
    flow.metadata.setdefault("x402.state", "refused")
    flow.metadata["x402.refused"] = code
    if asked:
        flow.metadata["x402.asked"] = asked


def rejected(flow: http.HTTPFlow, why: str) -> None:
    """The gateway did not take a payment; `why` is its code, and what that means."""
    if why:
        flow.metadata["x402.reason"] = why


def sent_upstream(flow: http.HTTPFlow, legs: int) -> None:
    """How many requests the client's one has become."""
    flow.metadata["x402.legs"] = str(legs)


def became(flow: http.HTTPFlow, state: State, transaction: str = "") -> None:
    """The payment's state, as the ledger has it."""
    flow.metadata["x402.state"] = str(state)
    if transaction:
        flow.metadata["x402.transaction"] = transaction


_by_row: WeakValueDictionary[int, http.HTTPFlow] = WeakValueDictionary()  # outlives a script that is loaded again


def paid_by(flow: http.HTTPFlow, row: int) -> None:
    """The last payment of `flow` is that row of the ledger."""
    _by_row[row] = flow


def flow_of(row: int) -> http.HTTPFlow | None:
    """The flow that this row of the ledger was paid for, while mitmproxy keeps it."""
    return _by_row.get(row)


def proven(flow: http.HTTPFlow, verdict: str, transaction: str) -> None:
    """What the chain says of the payment: `moved`, with its transaction, or `dead`."""
    flow.metadata["x402.chain"] = verdict
    flow.metadata["x402.state"] = "settled" if verdict == "moved" else "expired"
    if transaction:
        flow.metadata["x402.transaction"] = transaction


HEALTH = "/x402/health"
"""The one path that is never sent upstream."""


def is_health(request: http.Request) -> bool:
    """Whether the request is for us and not for the upstream."""
    return request.path.partition("?")[0] == HEALTH and request.method in ("GET", "HEAD")
