"""Checks the gateway: whether it answers, its clock, and what it asks for a request."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from tornado.httpclient import HTTPResponse

from ..chain.json_rpc import Trust, ask
from ..errors import ChallengeError
from ..protocol.messages import PaymentRequired
from ..protocol.payment_required import challenge_header, read_payment_required

SECONDS = 15
"""Time-out of one answer; a challenge needs no work, so it comes fast."""
MAX_SKEW = 60
"""Seconds by which this clock may differ: signatures are valid for minutes, and the gateway has its own limits."""
TRIES = 3
"""Models that are tried for a price; free ones have none."""
PATH = "/v1/chat/completions"
AGENT_BYTES = 85_000
"""Size of a request of Claude Code 2.1, with instructions and tools; those of Codex 0.171 have half of it."""
AGENT_TOKENS = 32_000
"""The output limit that Claude Code 2.1 sets."""

Body = dict[str, object]


@dataclass(frozen=True)
class Reached:
    """What a gateway that can be reached has answered."""

    status: int
    models: tuple[str, ...]
    """The models that it lists, free ones last. Empty: no readable list."""
    skew: int | None
    """Seconds by which this machine's clock is ahead of the gateway's; None: it does not say its time."""


@dataclass(frozen=True)
class Quote:
    """The answer to a request without a payment."""

    model: str
    required: PaymentRequired | None
    status: int
    reason: str = ""
    """Why `required` is None."""


async def reach(upstream: str, trust: Trust) -> Reached:
    """Ask the gateway for its models, which is free. Raises Unreachable."""
    asked = time.time()
    response = await ask(f"{upstream}/v1/models", SECONDS, trust=trust)
    return Reached(response.code, _models(response), _skew(response, (asked + time.time()) / 2))


def _models(response: HTTPResponse) -> tuple[str, ...]:
    try:
        rows = json.loads(response.body or b"")["data"]
        names = [row["id"] for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    usable = [name for name in names if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200]
    return tuple(sorted(usable, key=lambda name: "free" in name.lower()))


def _skew(response: HTTPResponse, now: float) -> int | None:
    try:
        theirs = parsedate_to_datetime(response.headers.get("Date", ""))
    except (ValueError, TypeError):
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=timezone.utc)
    # The header is truncated to whole seconds.
    return round(now - theirs.timestamp() - 0.5)


def short_request(model: str) -> Body:
    """A chat request of a few words."""
    return {"model": model, "max_tokens": 16, "messages": [{"role": "user", "content": "Hello"}]}


def agent_request(model: str) -> Body:
    """A chat request of the size of a coding agent's first one."""
    instructions = ("Read the files before you change them. " * (AGENT_BYTES // 39 + 1))[:AGENT_BYTES]
    messages = [{"role": "system", "content": instructions}, {"role": "user", "content": "Hello"}]
    return {"model": model, "max_tokens": AGENT_TOKENS, "messages": messages}


async def quote(
    upstream: str, trust: Trust, models: tuple[str, ...], body_of: Callable[[str], Body] = short_request
) -> Quote:
    """The price of a chat request, for the first of `models` that has one. Raises Unreachable."""
    last = Quote("", None, 0, "no model is known to ask for")
    for model in models[:TRIES]:
        response = await ask(upstream + PATH, SECONDS, body_of(model), trust)
        last = _read(model, response)
        if last.required is not None or response.code != 200:
            return last
    return last


def _read(model: str, response: HTTPResponse) -> Quote:
    if response.code != 402:
        reason = "answered without asking for payment" if response.code == 200 else f"answered {response.code}"
        return Quote(model, None, response.code, reason)
    try:
        required = read_payment_required(challenge_header(response.headers.get), response.body or b"")
    except ChallengeError as error:
        return Quote(model, None, 402, f"asks in a way that cannot be paid: {error}")
    return Quote(model, required, 402, "" if required else "answered 402 without saying how to pay")


def host_of(upstream: str) -> str:
    """The host of a URL."""
    return urlsplit(upstream).hostname or ""
