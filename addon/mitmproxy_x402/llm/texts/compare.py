"""Compares two answers by their meaning; ids that differ in every answer are ignored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, zip_longest
from typing import Any

from ..printing import line
from ..reading import Citation, Item, Other, Reading, Reasoning, Refusal, Text, ToolCall
from ..values import dump
from ..written import Number, arguments_as_written

_NOT_TEXT = (Other, ToolCall, Citation)
MAX_DIFFERENCES = 100
_AROUND = 20
_NAMES = {"id", "call_id", "item_id", "tool_use_id", "container_id", "file_id"}
_SEALS = {
    "signature",
    "encrypted_content",
    "encrypted_index",
    "thoughtSignature",
    "thought_signature",
    "obfuscation",
    "expires_at",
}
"""Keys whose values differ from one answer to the next without a meaning."""


def differences(a: Reading, b: Reading) -> list[str]:
    """What `b` says differently from `a`, each in one line for people: `what: a's / b's`; empty: they mean the same.

    Ids, signatures, the number of events and how fragments were cut do not count. Text is compared exactly, arguments
    as JSON values. At most a hundred.
    """
    found: list[str] = []
    for difference in _differences(a, b):
        if len(found) == MAX_DIFFERENCES:
            return [*found, "and more"]
        found.append(difference)
    return found


def _differences(a: Reading, b: Reading) -> Iterator[str]:
    for name in ("dialect", "model", "stop_reason", "error", "complete"):
        one, other = getattr(a, name), getattr(b, name)
        if one != other:
            yield f"{name}: {_short(one)} / {_short(other)}"
    for name in ("input", "output", "reasoning", "cached", "cache_write", "tool_use", "total"):
        one, other = getattr(a.usage, name), getattr(b.usage, name)
        if one != other:
            yield f"{name.replace('_', ' ')} tokens: {_short(one)} / {_short(other)}"
    if a.usage.cost != b.usage.cost:
        yield f"cost: {_short(a.usage.cost)} / {_short(b.usage.cost)}"
    details, others_ = ({one.name: one.value for one in each.details} for each in (a, b))
    yield from _values(details, others_, "details")
    ones, others = _by_choice(a), _by_choice(b)
    choices = sorted({*ones, *others})
    for choice in choices:
        where = f"choice {choice + 1}, " if len(choices) > 1 else ""
        yield from _choice(ones.get(choice, []), others.get(choice, []), where)


def _by_choice(reading: Reading) -> dict[int, list[Item]]:
    """The items of each choice; texts, and thoughts, that follow each other are one."""
    choices: dict[int, list[Item]] = {}
    for (choice, kind), run in groupby(reading.items, lambda item: (item.choice, type(item))):
        items = list(run)
        if kind in (Text, Reasoning, Refusal):
            joined = "".join(item.text for item in items if isinstance(item, (Text, Reasoning, Refusal)))
            items = [kind(joined, choice)] if joined else []
        choices.setdefault(choice, []).extend(items)
    return choices


def _choice(ones: list[Item], others: list[Item], where: str) -> Iterator[str]:
    for kind, name in ((Reasoning, "reasoning"), (Text, "text"), (Refusal, "refusal"), (ToolCall, "tool call")):
        yield from _kind(_of(ones, kind), _of(others, kind), where + name)
    yield from _kind(_of(ones, Citation), _of(others, Citation), f"{where}citation")
    yield from _kind(_of(ones, Other), _of(others, Other), f"{where}other part")
    order, other_order = [_name(item) for item in ones], [_name(item) for item in others]
    if order != other_order and sorted(order) == sorted(other_order):
        yield f"{where}order of the parts: {', '.join(order)} / {', '.join(other_order)}"


def _of(items: Iterable[Item], kind: type[Item]) -> list[Item]:
    return [item for item in items if isinstance(item, kind)]


def _name(item: Item) -> str:
    return type(item).__name__ if not isinstance(item, ToolCall) else f"call of {line(item.name, 60)}"


def _kind(ones: list[Item], others: list[Item], what: str) -> Iterator[str]:
    for number, (one, other) in enumerate(zip_longest(ones, others), 1):
        who = f"{what} {number}" if len(ones) > 1 or len(others) > 1 or what.endswith("tool call") else what
        if one is None or other is None:
            present = other if one is None else one
            yield f"{who}: only in the {'second' if one is None else 'first'}: {_said(present)}"
        elif isinstance(one, ToolCall) and isinstance(other, ToolCall):
            yield from _call(one, other, who)
        elif isinstance(one, Other) and isinstance(other, Other):
            yield from _values({"kind": one.kind, "value": one.value}, {"kind": other.kind, "value": other.value}, who)
        elif isinstance(one, Citation) and isinstance(other, Citation):
            for name in ("title", "source", "quote"):
                yield from _text(getattr(one, name), getattr(other, name), f"{who}: {name}")
        elif not isinstance(one, _NOT_TEXT) and not isinstance(other, _NOT_TEXT):
            yield from _text(one.text, other.text, who)


def _call(one: ToolCall, other: ToolCall, who: str) -> Iterator[str]:
    for name in ("name", "kind"):
        if getattr(one, name) != getattr(other, name):
            yield f"{who}: {name}: {_short(getattr(one, name))} / {_short(getattr(other, name))}"
    mine, theirs = ({detail.name: detail.value for detail in call.further} for call in (one, other))
    yield from _values(mine, theirs, who)
    if one.parsed is None or other.parsed is None:
        yield from _text(one.arguments, other.arguments, f"{who}: arguments")
    else:
        yield from _values(arguments_as_written(one), arguments_as_written(other), f"{who}: arguments", skip=False)


def _values(one: Any, other: Any, where: str, *, skip: bool = True) -> Iterator[str]:
    """Yield the differences of two JSON values. `skip`: leave out ids and signatures; not for a tool's arguments."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys((*one, *other)):
            path = f"{where}.{line(key, 60)}"
            if skip and (key in _NAMES or key in _SEALS):
                continue
            if key not in one or key not in other:
                yield f"{path}: only in the {'second' if key in other else 'first'}"
            else:
                yield from _values(one[key], other[key], path, skip=skip)
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{where}: {len(one)} elements / {len(other)} elements"
        for number, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from _values(left, right, f"{where}[{number}]", skip=skip)
    elif isinstance(one, str) and isinstance(other, str):
        yield from _text(one, other, where)
    elif isinstance(one, Number) and isinstance(other, Number):
        if one.value != other.value:
            yield f"{where}: {_short(one)} / {_short(other)}"
    elif isinstance(one, bool) is not isinstance(other, bool) or (one != other and dump(one) != dump(other)):
        yield f"{where}: {_short(one)} / {_short(other)}"


def _text(one: str, other: str, what: str) -> Iterator[str]:
    if one == other:
        return
    at = next((n for n, (left, right) in enumerate(zip(one, other, strict=False)) if left != right), None)
    at = min(len(one), len(other)) if at is None else at
    yield f"{what}: from character {at + 1} on: {_excerpt(one, at)} / {_excerpt(other, at)}"


def _excerpt(text: str, at: int) -> str:
    begin, end = max(0, at - _AROUND), at + _AROUND
    return ("…" if begin else "") + _short(text[begin:end]) + ("…" if end < len(text) else "")


def _said(item: Item) -> str:
    if isinstance(item, ToolCall):
        return f"{line(item.name, 60)} {line(item.arguments, 60)}"
    if isinstance(item, Citation):
        return _short(item.title or item.source or item.quote)
    return line(item.kind, 60) if isinstance(item, Other) else _short(item.text)


def _short(value: Any) -> str:
    return "none" if value is None else line(dump(value), 80)
