"""The states of a purchase and the table of transitions that `purchase` follows.

NEW        nothing is known to have been paid for this request
OWED       it was paid for, and that payment cannot be sent again; the next challenge may be paid, within
           `x402_repurchase`
SIGNED     a payment is reserved and signed, and has not been sent
RETAINED   the payment of an equal request was taken over, and has not been sent with this one
SENT       the payment was sent with this request; there is no answer, or part of an answer that may become complete
RETURNED   an answer has begun that will not be complete: the payment is retained for the next equal request
CLOSED     nothing more is signed or sent for this request; what an equal one may need is retained
OVER       the answer is over
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

DRAWN = """
Events down, states across, the next state in each cell. + records the outcome in the ledger, r retains what an equal
request may need, x releases the reservation. An event raises RuntimeError in a state where its cell is empty.

               NEW       OWED      SIGNED     RETAINED   SENT        RETURNED   CLOSED
    TAKE_UP    RETAINED
    INHERIT    OWED
    SIGN       SIGNED    SIGNED
    WITHDRAW                       NEW x
    SEND                           SENT       SENT       SENT
    REPLACE                                              OWED +
    SUPERSEDE                                            OWED +
    REJECT                                               CLOSED + r
    REFUSE     CLOSED    CLOSED r
    FAIL       NEW       OWED      SIGNED     RETAINED   RETURNED r  RETURNED   CLOSED
    COMPLETE   OVER      OVER      OVER x     OVER r     OVER +      OVER +     OVER
    BREAK      OVER      OVER r    OVER x r   OVER r     OVER + r    OVER +     OVER
"""


class Stage(enum.Enum):
    """The states of a purchase, as in the module's table."""

    __hash__ = object.__hash__  # members are singletons, and `Enum.__hash__` is slow: it is written in Python

    NEW = "new"
    OWED = "owed"
    SIGNED = "signed"
    RETAINED = "retained"
    SENT = "sent"
    RETURNED = "returned"
    CLOSED = "closed"
    OVER = "over"


class Event(enum.Enum):
    """The events of a purchase."""

    __hash__ = object.__hash__

    TAKE_UP = "an equal request has left a payment that can be sent again"
    INHERIT = "an equal request was paid for, and its payment cannot be sent again"
    SIGN = "a payment was signed"
    WITHDRAW = "the payment that was signed ahead did not go with the first leg"
    SEND = "the payment is sent"
    REPLACE = "it was rejected, and another one may be made"
    SUPERSEDE = "it was sent ahead, and the gateway asks as if it had seen none"
    REJECT = "it was rejected, and nothing else may be made"
    REFUSE = "another payment was refused"
    FAIL = "an answer has begun that leaves the client without what was paid for"
    COMPLETE = "the answer is complete"
    BREAK = "the answer broke off"


@dataclass(frozen=True)
class Step:
    """One cell of the table."""

    to: Stage
    records: bool = False
    """Whether the payment's outcome is recorded in the ledger."""
    retains: bool = False
    """Whether what an equal request may need is retained."""
    releases: bool = False
    """Whether the reservation of an unsent payment is released."""


def _step(text: str) -> Step:
    to, *actions = text.split()
    return Step(Stage[to], "+" in actions, "r" in actions, "x" in actions)


def _table(text: str) -> Mapping[Stage, Mapping[Event, Step]]:
    """Read the table from the drawing, so that the two cannot differ."""
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
"""The effect of each event in each state; an event that is missing cannot occur."""


def step_of(stage: Stage, event: Event) -> Step:
    """The cell of `event` in the state `stage`. Raises RuntimeError: it cannot occur there."""
    step = TABLE[stage].get(event)
    if step is None:
        raise RuntimeError(f"{event.name} in the state {stage.name}")
    return step
