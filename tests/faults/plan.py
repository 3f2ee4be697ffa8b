"""The points of a request's way, the faults, and where they meet. Data only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A row or a column of the table."""

    key: str
    title: str
    what: str
    """For the legend."""


POINTS: tuple[Entry, ...] = (
    Entry("connect", "connecting", "The connection to the gateway is being made."),
    Entry("tls", "TLS", "It stands, TLS does not yet."),
    Entry("asked", "asked", "The gateway has the unpaid request, and no byte of its 402 has left."),
    Entry("402-head", "402, headers", "Half of the headers of the 402 have come."),
    Entry("402-body", "402, body", "Half of its body has come."),
    Entry("402", "402 is there", "The 402 is whole, and the addon has not looked at it."),
    Entry("reserve", "ledger: reserve", "The payment is being reserved."),
    Entry("rpc", "Solana RPC", "It is reserved, and the RPC is asked for a blockhash. All other rows pay on EVM."),
    Entry("signed", "signed", "It is reserved and signed, and nothing of it has left."),
    Entry("send", "ledger: sent", "That it leaves now is being written down."),
    Entry("again", "connecting again", "The gateway has closed its connection after the 402; another is being made."),
    Entry("leaving", "payment leaves", "The gateway has the headers of the paid request, and not its body (4 MB)."),
    Entry("paid", "paid", "It has the paid request, and no byte of its answer has left."),
    Entry("head", "answer, headers", "Half of the headers of the answer have come."),
    Entry("stream", "answer, stream", "Some events of a stream have come."),
    Entry("end", "answer, end", "All of them have come; the chunk that ends them has not."),
    Entry("outcome", "ledger: outcome", "The whole answer has come; what became of the payment is being written down."),
    Entry("after", "after the answer", "The answer is over, the connections stay open for the next request."),
    Entry("held", "the request again", "An attempt was reset when paid; the client repeats it, and the fault strikes."),
    Entry("c-asking", "client: asks", "The client has sent half of its request."),
    Entry("c-waiting", "client: waits", "It waits, and the gateway has not answered the unpaid request."),
    Entry("c-signed", "client: at signing", "It waits, and its payment is signed and has not left."),
    Entry("c-paid", "client: paid", "It waits, and the gateway has the paid request."),
    Entry("c-stream", "client: stream", "It reads a stream. Where the client is slow: of 24 MB."),
    Entry("c-end", "client: end", "It has all events; the chunk that ends them has not left the proxy."),
)

FAULTS: tuple[Entry, ...] = (
    Entry("refused", "refused", "Nobody listens there. TLS: a certificate that nobody vouches for."),
    Entry("reset", "reset", "The connection is reset."),
    Entry("close", "close", "The connection is closed in good order."),
    Entry("stall", "stall", "Nothing for a while, less than any time-out; then it goes on. Ledger: locked so long."),
    Entry("timeout", "timeout", "Nothing more, ever; the connection stays open. Ledger: locked for long."),
    Entry("garbage", "garbage", "Bytes that are nothing that belongs there, then nothing more."),
    Entry("drip", "slow drip", "A byte now and then, each within the time-outs."),
    Entry("kill", "kill -9", "The proxy is killed. Another one starts with the same ledger; that one is asked again."),
    Entry("disk", "disk full", "From here on no file can grow; when the client has its answer, there is room again."),
    Entry("clock", "clock jump", "The wall clock of the proxy jumps by an hour; it is put right before the next try."),
    Entry("lies", "RPC lies", "The RPC answers, and not what it was asked for."),
)

CONNECTED = "the connection stands already"
CLIENT_CONNECTS = "it is the client that connects"
NO_BYTES = "no bytes come from there at this point"
NOT_WAITING = "nobody is waited for at this point"
NO_CONNECTION = "a file, no connection"
NO_WRITE = "nothing is written at this point; it shows at the next one that writes"
NO_CLOCK = "the wall clock is not looked at from here to the next row that has one"
NO_RPC = "the RPC is not asked at this point"
ELSEWHERE = "is the same as in a neighbouring row"
OTHER_SIDE = "the same moment is in a row above, seen from the other side"
NO_FLOW = "nothing is under way"
FOREIGN = "certificates are checked by a clock of OpenSSL's own, and an hour is nothing to them"

_GATEWAY = ("reset", "close", "stall", "timeout", "garbage", "drip")
MEET: Mapping[str, tuple[str, ...]] = {
    "connect": ("refused", "reset", "close", "stall", "timeout", "garbage", "kill"),
    "tls": ("refused", *_GATEWAY, "kill"),
    "asked": (*_GATEWAY, "kill", "clock"),
    "402-head": (*_GATEWAY, "kill"),
    "402-body": (*_GATEWAY, "kill"),
    "402": ("reset", "close", "garbage", "kill", "clock"),
    "reserve": ("stall", "timeout", "disk"),
    "rpc": ("refused", *_GATEWAY, "kill", "disk", "clock", "lies"),
    "signed": ("kill", "clock"),
    "send": ("stall", "timeout", "disk"),
    "again": ("refused", "reset", "close", "stall", "timeout", "garbage", "kill"),
    "leaving": (*_GATEWAY, "kill"),
    "paid": (*_GATEWAY, "kill", "clock"),
    "head": (*_GATEWAY, "kill"),
    "stream": (*_GATEWAY, "kill", "clock"),
    "end": (*_GATEWAY, "kill"),
    "outcome": ("stall", "timeout", "kill", "disk"),
    "after": ("reset", "close", "garbage"),
    "held": ("refused", "reset", "close", "stall", "timeout", "disk", "clock"),
    "c-asking": _GATEWAY,
    "c-waiting": ("reset", "close", "garbage"),
    "c-signed": ("reset", "close"),
    "c-paid": ("reset", "close"),
    "c-stream": _GATEWAY,
    "c-end": ("reset", "close"),
}
"""Which faults strike at which point."""

_LEDGER = ("reserve", "send", "outcome")
_CLIENT = tuple(point.key for point in POINTS if point.key.startswith("c-"))


def why_not(point: str, fault: str) -> str:
    """Why a cell has nothing in it. Raises KeyError for one that has, or should have."""
    if fault in MEET[point]:
        raise KeyError(point, fault)
    if fault == "lies":
        return NO_RPC
    if point in _LEDGER:
        return {"kill": ELSEWHERE, "clock": ELSEWHERE}.get(fault, NO_CONNECTION)
    if point in _CLIENT:
        if fault in ("stall", "timeout", "garbage", "drip"):
            return NO_BYTES
        return CLIENT_CONNECTS if fault == "refused" else OTHER_SIDE
    if fault == "disk":
        return NO_WRITE
    if fault == "clock":
        return FOREIGN if point == "tls" else NO_CLOCK
    if fault == "refused":
        return CONNECTED
    if point == "after":
        return NO_FLOW
    if fault == "drip" or (fault == "garbage" and point != "held"):
        return ELSEWHERE if point in ("signed", "held") else NO_BYTES
    if fault in ("stall", "timeout"):
        return NOT_WAITING
    return ELSEWHERE


def cells() -> Iterator[tuple[str, str]]:
    """Every cell that has something in it: keys of its row and its column."""
    for point in POINTS:
        for fault in FAULTS:
            if fault.key in MEET[point.key]:
                yield point.key, fault.key
