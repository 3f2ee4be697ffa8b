"""A payment's envelope, on either chain, good and spoilt in every field."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..chains.reference_payer import Message, ReferencePayer

Spoil = Callable[[Message, ReferencePayer], Message]
OTHER = "0x000000000000000000000000000000000000dEaD"


@dataclass(frozen=True)
class Case:
    name: str
    spoil: Spoil
    good: bool = False

    def __str__(self) -> str:
        return self.name


def put(*path_and_value: Any) -> Spoil:
    *path, last, value = path_and_value

    def spoil(message: Message, _payer: ReferencePayer) -> Message:
        message = copy.deepcopy(message)
        place = message
        for step in path:
            place = place[step]
        place[last] = value
        return message

    return spoil


def drop(*path: str) -> Spoil:
    def spoil(message: Message, _payer: ReferencePayer) -> Message:
        message = copy.deepcopy(message)
        place = message
        for step in path[:-1]:
            place = place[step]
        del place[path[-1]]
        return message

    return spoil


ENVELOPE = [
    Case("untouched", lambda message, _: message, good=True),
    Case("another scheme", put("accepted", "scheme", "upto")),
    Case("another network", put("accepted", "network", "eip155:8453")),
    Case("a network of the other family", put("accepted", "network", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp")),
    Case("a lower amount", put("accepted", "amount", "1")),
    Case("a higher amount", put("accepted", "amount", "99999999")),
    Case("another payee", put("accepted", "payTo", OTHER)),
    Case("another asset", put("accepted", "asset", OTHER)),
    Case("another timeout", put("accepted", "maxTimeoutSeconds", 301)),
    Case("no extra", put("accepted", "extra", {})),
    Case("a changed extension", put("extensions", "bazaar", {"info": {"input": {"type": "mcp"}, "sandbox": True}})),
    Case("an emptied extension", put("extensions", "bazaar", {"info": {}})),
    Case("an added extension", put("extensions", "mine", {"info": {"a": 1}}), good=True),
    Case("no extensions", drop("extensions"), good=True),
]
ENVELOPE_V1 = [
    Case("untouched", lambda message, _: message, good=True),
    Case("another scheme", put("scheme", "upto")),
    Case("another network", put("network", "base")),
    Case("a network of the other family", put("network", "solana")),
    Case("the other version's network name", put("network", "eip155:84532")),
]
