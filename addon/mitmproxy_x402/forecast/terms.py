"""Splits a challenge into its constant terms and its numbers. Pure.

A payment has to echo the entry that it pays, the resource and the extensions (x402 v2, section 5.2), and some gateways
describe the request in them: "(~11566 input, 1024 max output tokens)". So a challenge is split into terms and numbers,
and a predicted one is made of the same terms with other numbers. Only the amount and descriptions are searched for
numbers; any other change means another price list.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..protocol.messages import AtomicUnits, PaymentRequired, PaymentRequirements
from ..quick_init import quick_init

DESCRIPTION = "description"
BLOCKHASH, BLOCK_HEIGHT = "recentBlockhash", "lastValidBlockHeight"
"""Keys of `extra` on Solana whose values are new in every challenge."""
MAX_NUMBERS = 8
"""Most numbers in the descriptions of one challenge; one with more is not predicted."""
MAX_TERMS = 16 * 1024
"""Most characters that have to be echoed; a challenge with more is not remembered."""

# A number as a program writes it. Anything else, such as 007 or a hash, is text.
_NUMBER = re.compile(r"(?<![0-9A-Za-z.,])(?:0|[1-9][0-9]{0,17})(?![0-9A-Za-z]|[.,][0-9])")

Numbers = tuple[int, ...]
"""The amount, then the numbers in the descriptions, in order."""


@quick_init
@dataclass(frozen=True)
class Terms:
    """One entry of a challenge, and what has to be echoed with it, without their numbers."""

    text: str
    """A text that is equal for challenges that differ only in their numbers and the blockhash."""
    required: PaymentRequired = dataclasses.field(repr=False)
    """The original challenge, with only that entry."""
    _last: dict[Numbers, PaymentRequired] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The challenge that was made last: where a price is fixed, it is the same for all requests."""

    def ask(self, numbers: Numbers) -> PaymentRequired:
        """The challenge with these terms and `numbers`, of which there must be as many as `take_apart` found.

        Equal numbers in a row give the same object.
        """
        found = self._last.get(numbers)
        if found is None:
            self._last.clear()
            found = self._last[numbers] = self._made(numbers)
        return found

    def _made(self, numbers: Numbers) -> PaymentRequired:
        left = list(numbers[:0:-1])

        def filled(text: str) -> str:
            return _NUMBER.sub(lambda _: str(left.pop()), text)

        entry = self.required.accepts[0]
        raw = {**_described(entry.raw, filled), _amount_key(self.required): str(numbers[0])}
        resource, extensions = (_described(each, filled) for each in _echoed(self.required))
        asked = dataclasses.replace(entry, amount=AtomicUnits(numbers[0]), extra=raw.get("extra") or {}, raw=raw)
        return dataclasses.replace(self.required, accepts=(asked,), resource=resource, extensions=extensions)


def take_apart(required: PaymentRequired, entry: PaymentRequirements) -> tuple[Terms, Numbers] | None:
    """Split what a payment of `entry` echoes into terms and numbers; None: it is too long to be remembered."""
    numbers: list[int] = [entry.amount]

    def emptied(text: str) -> str:
        numbers.extend(int(number) for number in _NUMBER.findall(text))
        return _NUMBER.sub("#", text)

    raw = {**_described(entry.raw, emptied), _amount_key(required): "#"}
    if isinstance(raw.get("extra"), dict):
        changing = {key: "#" for key in (BLOCKHASH, BLOCK_HEIGHT) if isinstance(raw["extra"].get(key), str)}
        raw["extra"] = {**raw["extra"], **changing}
    echoed = [_described(each, emptied) for each in _echoed(required)]
    text = json.dumps([required.x402_version, raw, echoed])
    if len(numbers) > 1 + MAX_NUMBERS or len(text) > MAX_TERMS:
        return None
    one = dataclasses.replace(required, accepts=(entry,), error=None, unreadable=())
    return Terms(text, one), tuple(numbers)


def with_blockhash(required: PaymentRequired, blockhash: str, height: int | None) -> PaymentRequired | None:
    """Replace the blockhash in `required`, which has one entry; None: the blockhash's last height is not known.

    An entry without a blockhash stays unchanged: the signer looks one up, and the gateway wants its own entry back.
    """
    entry = required.accepts[0]
    extra = dict(entry.extra)
    if BLOCKHASH in extra:
        extra[BLOCKHASH] = blockhash
        if BLOCK_HEIGHT in extra:
            if height is None:
                return None
            extra[BLOCK_HEIGHT] = str(height)
        entry = dataclasses.replace(entry, extra=extra, raw={**entry.raw, "extra": extra})
    return dataclasses.replace(required, accepts=(entry,))


def _amount_key(required: PaymentRequired) -> str:
    return "maxAmountRequired" if required.x402_version == 1 else "amount"


def _echoed(required: PaymentRequired) -> Sequence[Any]:
    return required.resource, required.extensions


def _described(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """A copy of a JSON value in which every description is changed."""
    if isinstance(value, dict):
        return {name: _described(each, change, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_described(each, change) for each in value]
    return change(value) if key == DESCRIPTION and isinstance(value, str) else value
