"""What the clients ask for and what goes wrong with it, drawn from a seed: the same seed draws the same errands.

In which order they meet depends on the machine, so two runs of one seed are alike, not equal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Door = Literal["base", "solana"]
DOORS: tuple[Door, ...] = ("base", "solana")
Leaves = Literal["", "asking", "waiting", "reading"]

KINDS: Mapping[str, float] = {
    "chat-stream": 34,
    "messages-stream": 10,
    "responses-stream": 8,
    "gemini-stream": 4,
    "chat-whole": 13,
    "free-stream": 6,
    "models": 5,
    "blob": 4,
    "upload": 3,
    "speech": 4,
    "job": 9,
}
"""What is asked for, and how often beside the others."""

WELL = 52
"""The share of errands, in percent, of which the gateway makes no trouble."""
FAULTS: Mapping[str, float] = {
    # before anything was paid
    "drop;leg=unpaid;n=1": 2,
    "drop;leg=unpaid;how=reset": 1,
    "garbage;leg=unpaid": 1,
    "stall;leg=unpaid;n=1": 0.3,
    "error;status=503;leg=unpaid;n=1": 1,
    "402-plain": 1,
    "402-chunked": 1,
    "402-empty": 1,
    "402-huge": 0.3,
    "402-close": 2,
    "402-cut": 1,
    "402-cut;how=reset": 1,
    "402-split;bytes=97": 1,
    # the payment is not taken
    "reject;code=PAYMENT_BLOCKHASH_STALE;n=1": 2,
    "reject;code=PAYMENT_BLOCKHASH_STALE": 1,
    "reject;code=PAYMENT_UNDERPAID;n=1": 1,
    "reject;code=PAYMENT_INVALID": 1,
    "reject;code=PAYMENT_VERIFICATION_UNAVAILABLE;n=1": 1,
    "reject;code=PAYMENT_UNFUNDED;status=400;challenge=no": 0.5,
    # it is, and nothing comes of it
    "drop;n=1": 2,
    "drop;how=reset;n=1": 2,
    "drop;how=reset;settle=yes": 1,
    "garbage;settle=yes;n=1": 1,
    "stall;n=1": 0.3,
    "error;status=500;n=1": 2,
    "error;status=503;settle=yes;n=1": 2,
    "error;status=529;settle=yes": 1,
    "error;status=400;settle=yes": 0.5,
    "rate-limit;n=1": 2,
    "html;n=1": 1,
    "redirect": 0.5,
    # the answer breaks off
    "cut;after=2": 2,
    "cut;after=9;how=reset": 2,
    "cut;after=1;how=reset;settle=yes;n=1": 1,
    "fail-after;after=5": 2,
    "stall-after;after=3;n=1": 0.5,
    # it is odd
    "slow-first;seconds=0.5": 1,
    "slow-head;seconds=0.5": 1,
    "split;bytes=7": 1,
    "gzip": 1,
    "interim": 1,
    "trailers": 1,
    "close": 2,
    "receipt;as=none": 1,
    "receipt;as=header": 1,
    "receipt;as=signature": 1,
}
_ENDS_CONNECTIONS = (
    "drop",
    "garbage",
    "stall",
    "cut",
    "402-cut",
    "error;status=503;leg=unpaid",
    "trailers",
    "redirect",
)
"""Faults after which the client's own connection ends, too, or may."""
_MANY_PIECES = ("split",)
"""Faults that make many pieces: nobody pauses between those."""


@dataclass(frozen=True)
class Errand:
    """One request of a client, its repetitions included, and what is to go wrong with it."""

    number: int
    door: Door
    kind: str
    faults: str = ""
    """For the gateway, as the sandbox reads them."""
    leaves: Leaves = ""
    """While the client does what it leaves; empty: it stays."""
    after: float = 0.0
    """It leaves after this share of its request, so many seconds of waiting, or so many bytes of the answer's body."""
    resets: bool = False
    """Whether it leaves with a reset."""
    keeps: bool = True
    """Whether the connection is kept for the next errand."""
    is_slow: bool = False
    """Whether it reads slowly."""
    repeats: int = 0
    """How often it asks again when there was no whole answer, as SDKs do."""
    size: int = 0
    """Bytes of what is downloaded or sent."""

    @property
    def name(self) -> str:
        """What its requests carry, so that the gateway's accounts know them."""
        return f"errand-{self.number}"


def draw(seed: int, number: int, *, loyal: bool = False) -> Errand:
    """Errand `number` of the plan of `seed`. `loyal`: for a client that stays, and never loses its connection."""
    dice = random.Random(f"{seed} {number}")
    kind = _pick(dice, KINDS)
    faults = [] if dice.uniform(0, 100) < WELL else [_pick(dice, FAULTS)]
    if loyal and any(fault.startswith(_ENDS_CONNECTIONS) for fault in faults):
        faults = []
    if kind.endswith("-stream") and not any(fault.startswith(_MANY_PIECES) for fault in faults):
        faults.append(f"slow-chunks;seconds={min(dice.expovariate(1 / 0.04), 0.3):.3f}")
    leaves: Leaves = "" if loyal else dice.choices(("", "asking", "waiting", "reading"), (84, 2, 6, 8))[0]
    after = {"asking": dice.random(), "waiting": dice.uniform(0, 0.15), "reading": dice.uniform(0, 6000)}.get(leaves, 0)
    sizes = {"blob": dice.randrange(100_000, 4_000_000), "upload": dice.randrange(50_000, 1_500_000)}
    return Errand(
        number,
        dice.choice(DOORS),
        kind,
        ", ".join(faults),
        leaves,
        after,
        resets=dice.random() < 0.5,
        keeps=loyal or dice.random() < 0.65,
        is_slow=dice.random() < 0.04 and not any(fault.startswith(_MANY_PIECES) for fault in faults),
        repeats=dice.choice((0, 2, 2)),
        size=sizes.get(kind, 0),
    )


def _pick(dice: random.Random, weights: Mapping[str, float]) -> str:
    return dice.choices(list(weights), list(weights.values()))[0]


_ROOMS = ("videos", "images", "audio")


def request(errand: Errand) -> tuple[str, str, bytes]:
    """Method, target and body of the errand's request: no other errand has the same."""
    said = [{"role": "user", "content": f"This is {errand.name}."}]
    match errand.kind:
        case "chat-stream":
            return _json("/v1/chat/completions", model="sandbox-1", stream=True, messages=said)
        case "messages-stream":
            return _json("/v1/messages", model="sandbox-1", stream=True, max_tokens=500, messages=said)
        case "responses-stream":
            return _json("/v1/responses", model="sandbox-1", stream=True, input=errand.name)
        case "gemini-stream":
            contents = [{"role": "user", "parts": [{"text": errand.name}]}]
            return _json("/v1beta/models/sandbox-1:streamGenerateContent?alt=sse", contents=contents)
        case "free-stream":
            return _json("/v1/chat/completions", model="sandbox-free", stream=True, messages=said)
        case "models":
            return "GET", "/v1/models", b""
        case "blob":
            return "GET", f"/v1/blob?bytes={errand.size}&{errand.name}", b""
        case "upload":
            return _json("/v1/upload", name=errand.name, filling="x" * errand.size)
        case "speech":
            return _json("/v1/audio/speech", input=errand.name)
        case "job":
            room = _ROOMS[errand.number % len(_ROOMS)]
            return _json(f"/v1/{room}/generations", model="sandbox-1", prompt=errand.name)
    return _json("/v1/chat/completions", model="sandbox-1", messages=said)


def _json(target: str, **body: object) -> tuple[str, str, bytes]:
    return "POST", target, json.dumps(body).encode()
