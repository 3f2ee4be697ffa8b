"""Produces errors on demand: `x-sandbox-fault: NAME[;arg=value]...`, several separated by commas.

A fault applies to the leg that does the work (a free request has only that one) unless `leg=unpaid` asks for the
challenge's leg, or its name begins with `402-`. With `n=2` it happens the first two times that this same request (same
method, path and JSON, whatever the order of its keys) comes, and then no more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import X402Error
from .records import ReceivedRequest

HEADER = "x-sandbox-fault"
Leg = Literal["unpaid", "paid"]


@dataclass(frozen=True)
class FaultKind:
    """One row of the table: what it does, its arguments with their defaults, and the leg it is for."""

    what: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    leg: Leg = "paid"


_HOW = {"how": "fin"}
_SETTLE = {"settle": "auto"}
FAULTS: Mapping[str, FaultKind] = {
    "reject": FaultKind(
        "refuse the payment, unsettled, with CODE; challenge=no leaves the fresh challenge out",
        {"code": "PAYMENT_INVALID", "status": "402", "reason": "", "challenge": "auto"},
    ),
    "rate-limit": FaultKind("429 with retry-after: AFTER seconds", {"after": "1", **_SETTLE}),
    "error": FaultKind("answer STATUS in the vendor's shape", {"status": "500", **_SETTLE}),
    "html": FaultKind("answer STATUS with an HTML page", {"status": "502", **_SETTLE}),
    "redirect": FaultKind("answer STATUS with location: TO", {"status": "307", "to": "/v1/echo", **_SETTLE}),
    "drop": FaultKind("close the connection instead of answering; HOW is fin or reset", {**_HOW, **_SETTLE}),
    "stall": FaultKind("never answer", _SETTLE),
    "garbage": FaultKind("answer with bytes that are no HTTP", _SETTLE),
    "cut": FaultKind(
        "close after AFTER pieces, in the middle of the next one; HOW is fin or reset",
        {"after": "2", **_HOW, **_SETTLE},
    ),
    "fail-after": FaultKind("end a stream after AFTER pieces with an error of the vendor's", {"after": "8", **_SETTLE}),
    "stall-after": FaultKind("never go on after AFTER pieces", {"after": "2", **_SETTLE}),
    "slow-first": FaultKind("wait SECONDS after the headers, before the first piece", {"seconds": "2"}),
    "slow-head": FaultKind("wait SECONDS before the headers", {"seconds": "2"}),
    "slow-chunks": FaultKind("wait SECONDS before each further piece", {"seconds": "0.2"}),
    "split": FaultKind("send pieces of BYTES bytes, whatever they cut through", {"bytes": "7"}),
    "gzip": FaultKind("compress the answer, flushed after each event"),
    "interim": FaultKind("send a 103 before the answer"),
    "trailers": FaultKind("end a chunked answer with trailers"),
    "close": FaultKind("say connection: close, and do so"),
    "receipt": FaultKind(
        "write the transaction's id AS transaction, signature (in its place), header (X-Payment-Receipt) or none",
        {"as": "none"},
    ),
    "charge": FaultKind(
        "take UNITS of a ceiling, whatever the answer's length; more than all of it fails", {"units": "0"}
    ),
    "402-plain": FaultKind("answer a 402 that is no challenge", leg="unpaid"),
    "402-chunked": FaultKind("the challenge without a Content-Length", leg="unpaid"),
    "402-empty": FaultKind("the challenge's header with an empty body", leg="unpaid"),
    "402-huge": FaultKind("the challenge with a body of BYTES bytes", {"bytes": "1500000"}, leg="unpaid"),
    "402-close": FaultKind("the challenge with connection: close", leg="unpaid"),
    "402-cut": FaultKind("the challenge, closed in the middle of its body; HOW is fin or reset", _HOW, leg="unpaid"),
    "402-split": FaultKind("the challenge in chunks of BYTES bytes", {"bytes": "7"}, leg="unpaid"),
}


class UnknownFault(X402Error):
    """The header names a fault or an argument that is not in the table."""

    code = "sandbox_fault_unknown"


@dataclass(frozen=True)
class Fault:
    """One fault that was asked for, its arguments filled up with the defaults."""

    name: str
    arguments: Mapping[str, str]

    def text(self, name: str) -> str:
        """An argument as it was written."""
        return self.arguments[name]

    def number(self, name: str) -> int:
        """An argument that is a whole number."""
        return int(self.arguments[name])

    def seconds(self) -> float:
        """The argument `seconds`."""
        return float(self.arguments["seconds"])


class FaultDesk:
    """Reads the header, and counts what was already done to a request. `default` is used when there is no header."""

    def __init__(self, default: str = "") -> None:
        self._default = default
        self._done: Counter[tuple[str, str, str]] = Counter()

    def faults(self, request: ReceivedRequest, leg: Leg) -> dict[str, Fault]:
        """The faults that this leg of the request gets, by name. Raises UnknownFault."""
        wanted = read_faults(request.get(HEADER) or self._default)
        return {fault.name: fault for fault, its_leg in wanted if its_leg == leg and self._due(fault, request)}

    def _due(self, fault: Fault, request: ReceivedRequest) -> bool:
        limit = fault.arguments.get("n")
        if limit is None:
            return True
        key = (request.fingerprint, fault.name, repr(sorted(fault.arguments.items())))
        self._done[key] += 1
        return self._done[key] <= int(limit)


def read_faults(header: str) -> list[tuple[Fault, Leg]]:
    """Every fault in `header` with its leg. Raises UnknownFault, saying what is known."""
    return [_read(part.strip()) for part in header.split(",") if part.strip()]


def _read(text: str) -> tuple[Fault, Leg]:
    name, *parts = (part.strip() for part in text.split(";"))
    kind = FAULTS.get(name)
    if kind is None:
        raise UnknownFault(f"{HEADER}: {name!r} is unknown; known are {', '.join(FAULTS)}.")
    given = dict(_argument(part, name, kind) for part in parts)
    leg = given.pop("leg", kind.leg)
    if leg not in ("unpaid", "paid"):
        raise UnknownFault(f"{HEADER}: leg must be unpaid or paid, got {leg!r}.")
    fault = Fault(name, {**kind.arguments, **given})
    return fault, "unpaid" if leg == "unpaid" else "paid"


def _argument(part: str, name: str, kind: FaultKind) -> tuple[str, str]:
    key, _, value = part.partition("=")
    known = [*kind.arguments, "leg", "n"]
    if key not in known:
        raise UnknownFault(f"{HEADER}: {name} has no argument {key!r}; known are {', '.join(known)}.")
    try:
        if key in ("n", "after", "bytes", "status", "units"):
            int(value)
        elif key == "seconds":
            float(value)
    except ValueError:
        raise UnknownFault(f"{HEADER}: {name};{key} must be a number, got {value!r}.") from None
    return key, value


def fault_help() -> str:
    """The table as text for people."""
    return "\n".join(f"  {_usage(name, kind)}\n      {kind.what}" for name, kind in FAULTS.items())


def _usage(name: str, kind: FaultKind) -> str:
    return "".join([name, *(f";{key}={value}" for key, value in kind.arguments.items())])
