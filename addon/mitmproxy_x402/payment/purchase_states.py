"""The states of a purchase, and what each event does to it: the table that `purchase` follows.

state      what is known, and what may happen to money next
NEW        nothing was paid for this request, as far as is known
OWED       it was paid for, and that payment cannot be sent again: the next challenge may be paid, within
           `x402_repurchase`
SIGNED     a payment is reserved and signed, and has never left
RETAINED   the payment of an equal request was taken over, and has not left with this one
SENT       the payment has left with this request; nothing, or a part of a complete answer, has come of it
RETURNED   the answer that has begun is incomplete: the payment is retained for the next equal request already
CLOSED     nothing more is signed or sent for this request; what an equal one may need is retained
OVER       the client has got what it gets
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

DRAWN = """
Events down, states across, the next state in each cell; + has the outcome written into the ledger, r retains what an
equal request may take up, x gives the reservation back. Where nothing stands the event cannot come, and raises.

               NEW       OWED      SIGNED     RETAINED   SENT        RETURNED   CLOSED
    TAKE_UP    RETAINED
    INHERIT    OWED
    SIGN       SIGNED    SIGNED
    WITHDRAW                       NEW x
    SEND                           SENT       SENT       SENT
    REPLACE                                              OWED +
    SUPERSEDE                                            NEW +
    REJECT                                               CLOSED + r
    REFUSE     CLOSED    CLOSED r
    FAIL       NEW       OWED      SIGNED     RETAINED   RETURNED r  RETURNED   CLOSED
    COMPLETE   OVER      OVER      OVER x     OVER r     OVER +      OVER +     OVER
    BREAK      OVER      OVER r    OVER x r   OVER r     OVER + r    OVER +     OVER
"""


class Stage(enum.Enum):
    """The states of a purchase, as in the module's table."""

    NEW = "new"
    OWED = "owed"
    SIGNED = "signed"
    RETAINED = "retained"
    SENT = "sent"
    RETURNED = "returned"
    CLOSED = "closed"
    OVER = "over"


class Event(enum.Enum):
    """What can happen to a purchase."""

    TAKE_UP = "an equal request has left a payment that can be sent again"
    INHERIT = "an equal request was paid for, and has left none that can"
    SIGN = "a payment was signed"
    WITHDRAW = "the payment that was signed ahead did not go with the first leg"
    SEND = "the payment leaves"
    REPLACE = "it was rejected, and another one may be made"
    SUPERSEDE = "it was sent ahead, and the gateway asks as if it had seen none"
    REJECT = "it was rejected, and nothing else may be made"
    REFUSE = "another payment was refused, by the policy or by whom it takes"
    FAIL = "an answer has begun that leaves the client without what was paid for"
    COMPLETE = "the client has got a complete answer"
    BREAK = "there will be no more of the answer, and it is not complete"


@dataclass(frozen=True)
class Step:
    """One cell of the table."""

    to: Stage
    records: bool = False
    """The outcome of the payment is written into the ledger."""
    retains: bool = False
    """What an equal request may need is retained."""
    releases: bool = False
    """The reservation of a payment that has not left is given back."""


def _step(text: str) -> Step:
    to, *actions = text.split()
    return Step(Stage[to], "+" in actions, "r" in actions, "x" in actions)


def _table(text: str) -> Mapping[Stage, Mapping[Event, Step]]:
    """Read from the drawing, so that it is true."""
    _, _, drawn = text.rpartition("\n\n")
    head, *lines = drawn.rstrip().splitlines()
    columns = [(head.index(name), Stage[name]) for name in head.split()]
    table: dict[Stage, dict[Event, Step]] = {stage: {} for stage in Stage}
    ends = [*(at for at, _ in columns[1:]), None]
    for line in lines:
        for (begin, stage), end in zip(columns, ends, strict=True):
            if cell := line[begin:end].strip():
                table[stage][Event[line.split()[0]]] = _step(cell)
    return table


TABLE = _table(DRAWN)
"""What each event does in each state; an event that is not there cannot come."""
