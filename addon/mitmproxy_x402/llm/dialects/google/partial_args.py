"""Assembles arguments of Gemini's calls that come by JSON paths: `{"jsonPath": "$.city", "stringValue": "Bern"}`."""

from __future__ import annotations

import copy
import re
from typing import Any

from ...values import mapping, string

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d{1,6})\]|\['((?:[^'\\]|\\.)*)'\]|\["((?:[^"\\]|\\.)*)"\]""")
_VALUES = ("stringValue", "numberValue", "boolValue", "nullValue")
MAX_DEPTH = 32
"""Steps of a path."""
MAX_OPEN = 1000
"""Paths that wait for more."""


class Arguments:
    """Puts a call's arguments together from values at JSON paths. Ambiguous ones are refused."""

    def __init__(self, given: dict[str, Any] | None = None) -> None:
        """`given`: arguments that came at once, which the parts complete."""
        self._value: dict[str, Any] = copy.deepcopy(given or {})
        self._more: dict[str, list[str]] = {}  # by path: what continues the text there; joined when somebody asks
        self._open: set[str] = set()
        self._bare: set[str] = set()

    @property
    def whole(self) -> bool:
        """Whether every argument that has begun has a value."""
        return not self._bare and not self._open

    @property
    def value(self) -> dict[str, Any]:
        """The arguments so far."""
        for path, more in self._more.items():
            *way, last = steps_of(path)
            place: Any = self._value
            for step in way:
                place = place[step]
            place[last] += "".join(more)
            more.clear()
        return self._value

    def add(self, part: Any) -> bool:
        """Add one element of `partialArgs`. Returns False if it fits nowhere."""
        said = mapping(part)
        path = string(said.get("jsonPath"))
        steps = steps_of(path)
        key = _key_of(said)
        if not steps or len(self._open) > MAX_OPEN or len(self._bare) > MAX_OPEN:
            return False
        continued = path in self._open
        self._open.discard(path)
        if said.get("willContinue") is True:
            self._open.add(path)
        if key is None:
            if not continued and path not in self._open:
                self._bare.add(path)
            return True
        self._bare -= {one for one in self._bare if path.startswith(one)}
        last = None if key == "nullValue" else said[key]
        if continued and path in self._more and isinstance(last, str):
            self._more[path].append(last)
            return True
        if not _put(self._value, steps, last, continued=continued):
            return False
        if isinstance(last, str) and len(self._more) < MAX_OPEN:
            self._more.setdefault(path, [])
        return True


def _key_of(said: dict[str, Any]) -> str | None:
    """The key that has the value: gateways that read the API with Google's SDK send all of them, most of them null."""
    given = [key for key in _VALUES if key in said]
    return next((key for key in given if said[key] is not None), given[0] if given == ["nullValue"] else None)


def steps_of(path: str) -> list[str | int]:
    """The keys and indexes of a JSON path; empty if it is not understood."""
    if not path.startswith("$") or len(path) > 2000:
        return []
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or len(steps) >= MAX_DEPTH:
            return []
        key, number, single, double = found.groups()
        quoted = single if single is not None else double
        steps.append(int(number) if number else key if key is not None else re.sub(r"\\(.)", r"\1", quoted))
        at = found.end()
    return steps


def _put(value: Any, steps: list[str | int], last: Any, *, continued: bool) -> bool:
    """Put `last` at `steps` in the value. Returns False if another value is in the way."""
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, int):
            if not isinstance(value, list) or step > len(value):
                return False
            there = step < len(value)
        elif isinstance(value, dict):
            there = step in value
        else:
            return False
        old = value[step] if there else None
        if following is not None:
            if not there:
                old = [] if isinstance(following, int) else {}
                _set(value, step, old)
            value = old
        elif not there:
            _set(value, step, last)
        elif continued and isinstance(old, str) and isinstance(last, str):
            value[step] = old + last
        else:
            return type(old) is type(last) and old == last
    return True


def _set(value: Any, step: str | int, one: Any) -> None:
    if isinstance(value, list):
        value.append(one)
    else:
        value[step] = one
