"""One try of a cell: what is sent, what is seen, and what must never be seen."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from support.wire import Client, Message, read_message, request

from .sides.gateway import Gateway
from .sides.rpc import LIES

KEPT, TAKEN = "kept", "taken"
_PAID = ("leaving", "paid", "head", "stream", "end", "held", "c-paid", "c-stream", "c-end")
"""Points at which the gateway may have moved the money, or not."""
_HOLDS = {
    **{"402": "challenge", "reserve": "challenge", "signed": "signed", "send": "signed", "c-signed": "signed"},
    **{"outcome": "outcome", "c-end": "outcome"},
}
"""Where a request is held within the proxy, by its point."""
HOUR = 3600
_LETTERS = {
    **{"reserved": "R", "sent": "W", "settled": "S", "unknown": "U", "rejected": "X", "released": "L"},
    **{"superseded": "P", "expired": "E"},
}
_FREE = ("released", "expired")
_CODES = {"ledger_unavailable": "L", "solana_rpc_unavailable": "R", "over_repurchase_limit": "M"}
AT_MOST = 2
"""Settlements of one request: one, and `x402_repurchase` more."""


@dataclass(frozen=True)
class Try:
    """A cell, in one of its variants."""

    point: str
    fault: str
    label: str = ""
    taken: bool = True
    """Whether the gateway moves the money as soon as it has the payment."""
    once: bool = False
    """Whether the fault strikes once, and not each time that an attempt comes to its point."""
    jump: int = 0
    """Seconds by which the clock is set."""
    lie: str = ""

    @property
    def name(self) -> str:
        return f"{self.point}, {self.fault}{self.label and f' ({self.label})'}"

    @property
    def hold(self) -> str:
        """Where in the proxy the request is held; empty: nowhere."""
        return _HOLDS.get(self.point, "")

    @property
    def path(self) -> str:
        words = f"{self.point} {self.fault} {self.label}".replace("+", "plus ").replace("−", "minus ")
        return "/v1/" + re.sub(r"\W+", "-", words).strip("-")


def tries_of(point: str, fault: str) -> Iterator[Try]:
    """The variants of a cell."""
    if fault == "lies":
        yield from (Try(point, fault, lie, lie=lie) for lie in LIES)
    elif fault == "clock":
        for sign, jump in (("+", HOUR), ("−", -HOUR)):
            if point == "held":
                yield from (Try(point, fault, f"{sign}1 h, {word}", word == TAKEN, jump=jump) for word in (KEPT, TAKEN))
            else:
                yield Try(point, fault, f"{sign}1 h", jump=jump)
    elif point in _PAID:
        for word in (KEPT, TAKEN):
            yield Try(point, fault, word, word == TAKEN)
            if point == "paid" and fault in ("reset", "close"):
                yield Try(point, fault, f"{word}, once", word == TAKEN, once=True)
    else:
        yield Try(point, fault)


@dataclass
class Seen:
    """The end of one attempt, as the client saw it."""

    text: str
    code: str = ""
    message: str = ""


@dataclass
class Account:
    """An attempt's end with what the ledger and the gateway say then, in the table's letters."""

    client: str
    rows: str
    settled: int

    @property
    def counted(self) -> int:
        """Payments that count against the budget."""
        return len(re.sub("[RLXE]", "", self.rows))

    @property
    def open(self) -> int:
        """Payments of which the ledger does not know how they ended."""
        return len(re.sub("[^RW]", "", self.rows))

    def __str__(self) -> str:
        return f"{self.client} {self.rows or '-'} {self.settled}"


@dataclass
class Result:
    """What came of a try."""

    what: Try
    first: Account
    again: Account | None = None
    wrong: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """For the table; the repetition is left out where it was answered, and paid once in all."""
        if self.again is None or (self.again.client == "200" and self.again.settled == self.again.counted == 1):
            return str(self.first)
        return f"{self.first} → {self.again}"


def read_answer(client: Client) -> Seen:
    """What comes, until it is over or will not go on."""
    head = b""
    try:
        head = client.until(b"\r\n\r\n")
        message = Message(head)
        if message.status == 200 and message.get(b"transfer-encoding") is not None:
            while client.chunk():
                pass
            return Seen("200")
        client.unread(head)
        return _read_error(read_message(client))
    except TimeoutError:
        return Seen("HANG")
    except ConnectionResetError:
        return Seen("cut" if head else "reset")
    except EOFError:
        return Seen("cut" if head else "eof")


def _read_error(message: Message) -> Seen:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = json.loads(message.body)["error"]
        if isinstance(error, dict):
            code, text = str(error["code"]), str(error["message"])
            option = re.search(r"option x402_(\w)\w*_timeout", text)
            letter = option[1] if option and message.status == 504 else _CODES.get(code, "")
            return Seen(f"{message.status}{letter}", code, text)
    return Seen(str(message.status))


class Trial:
    """A try with its gateway, while it runs."""

    def __init__(self, what: Try, gateway: Gateway) -> None:
        self.what, self.gateway = what, gateway
        self.wrong: list[str] = []
        self._delivered = self._seen = 0

    def request(self, *, held: bool = False) -> bytes:
        """Always the same, but for where it is to be held."""
        body = b" " * (4 << 20) if self.what.point == "leaving" else b'{"model": "m"}'
        hold = [f"x-hold: {self.what.hold}"] if held and self.what.hold else []
        return request("POST", self.what.path, body, *hold)

    def begin(self) -> None:
        """An attempt begins: what it brings is counted from here."""
        self._delivered, self._seen = self.gateway.delivered, len(self.gateway.seen)

    def account(self, seen: Seen, rows: list[tuple[str, int, str]]) -> Account:
        """Write down how an attempt ended, and what of it must not be."""
        gateway = self.gateway
        if seen.text == "HANG":
            self.wrong.append("the client waits for ever")
        if seen.text == "200" and gateway.delivered == self._delivered:
            self.wrong.append("the client got a whole 200, and the gateway had not given one")
        self._check_words(seen, any(sends for _, sends, _ in rows))
        settled = set(gateway.settled)
        if len(settled) > AT_MOST:
            self.wrong.append(f"{len(settled)} payments were settled")
        known = {reference: state for state, sends, reference in rows if sends}
        for reference in gateway.seen:
            state = known.get(reference)
            if state is None:
                self.wrong.append("a payment has reached the gateway, and the ledger does not know that it was sent")
            elif state in _FREE and reference not in gateway.never_taken:
                self.wrong.append(f"a payment has reached the gateway, and is {state} in the ledger")
        for error in gateway.errors:
            self.wrong.append(f"the gateway itself failed: {error!r}")
        return Account(seen.text, "".join(_LETTERS[state] for state, *_ in rows), len(settled))

    def _check_words(self, seen: Seen, ever_sent: bool) -> None:
        """An error of ours says the truth about the money of this attempt."""
        sent = len(self.gateway.seen) > self._seen
        if sent and "othing was paid" in seen.message and "Before that" not in seen.message:
            self.wrong.append(f"a payment had reached the gateway, and the client was told: {seen.message}")
        if seen.code == "payment_outcome_unknown" and not ever_sent:
            self.wrong.append(f"no payment had left, and the client was told: {seen.message}")
