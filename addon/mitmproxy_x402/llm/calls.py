"""Makes the tool calls of an answer out of their fragments, and tells where arguments stop being JSON, and why."""

from __future__ import annotations

import json
import re
from typing import Any

from ..errors import NotRead, Undecodable
from ..protocol.strict_json import is_too_deep
from .pieces import Piece
from .printing import line
from .reading import Broken, Detail, ToolCall
from .sse import Notes
from .values import decode, dump, escapes_half_character, is_json

_DEEPEST = 500
"""Levels of arguments beyond which it is not told where they break: a parser would need the stack for each."""
_CHECKER = json.JSONDecoder(parse_int=len)
"""Whole numbers of any length are JSON, though Python does not read them."""
_BEGUN = (
    ("Expecting value", re.compile("t(ru?)?|f(al?|als)?|n(ul?)?|-")),
    ("Expecting ',' delimiter", re.compile(r"(?<=[0-9])(\.|(\.[0-9]+)?[eE][-+]?)")),
    ("Invalid \\uXXXX escape", re.compile("u[0-9a-fA-F]{0,4}")),
)
"""What the parser says where a word, a number or an escape has begun that the text ends in, and the beginnings."""


class Calls:
    """Makes the ToolCalls of an answer, in order. Anomalies are noted only at its end."""

    def __init__(self, notes: Notes, unchecked: Notes, *, ended: bool, partly: bool) -> None:
        """`unchecked`: collects what may be valid, and is not checked. `partly`: whether some events are left out."""
        self._notes = notes
        self._late = (notes, unchecked) if ended else None
        self._partly = partly
        self._number = 0
        self._ids: set[tuple[int, str]] = set()

    def next(self, piece: Piece, text: str, *, begun: bool, limit: str | None, last: bool) -> ToolCall:
        """The call of `piece`, whose fragments are `text`.

        `begun`: whether the end of the call, or of all, has come. `limit`: the reason why its choice ended, if that is
        a limit of tokens. `last`: whether nothing follows it in its choice.
        """
        self._number += 1
        if self._partly and text and not is_json(text):
            piece.cut = True  # by us: the rest of it was left out
        if piece.id and (piece.choice, piece.id) in self._ids:
            self._notes.add(f"tool call {self._number} has the id of one before it")
        self._ids.add((piece.choice, piece.id))
        if not text and limit is not None and last and piece.empty_means in ("", "{}"):
            if self._late:
                self._notes.add(
                    f"tool call {self._number}: the answer hit its token limit ({limit}) before its arguments"
                )
            return _unbegun(piece)
        if text or begun:
            return _call(piece, text, self._number, self._late, limit)
        if self._late:
            self._notes.add(f"tool call {self._number} breaks off before its arguments")
        return _unbegun(piece)


def _call(piece: Piece, text: str, number: int, late: tuple[Notes, Notes] | None, limit: str | None) -> ToolCall:
    """The call of `piece`; `late` collects what counts only at the end: anomalies, and what is not checked."""
    who, (notes, unchecked) = f"tool call {number}", late or (Notes(), Notes())
    if not piece.name:
        notes.add(f"{who} has no name")
    if piece.needs_id and not piece.id:
        notes.add(f"{who} has no id")
    fragments, text = text, text or piece.empty_means
    parsed, broken = None, None
    if piece.tool != "custom" and not piece.cut:
        try:
            parsed = _arguments(text, who, notes)
        except Undecodable as error:
            broken = _broken(piece, text, limit) if late else None
            why = str(error)
            if broken is not None and limit is not None and broken.position == len(text):
                why = f"not JSON: the answer hit its token limit ({line(limit)}) in the middle of them"
            elif broken is not None and isinstance(error, NotRead):
                why = f"not JSON: {broken.problem} (char {broken.position})"
            (unchecked if broken is None and isinstance(error, NotRead) else notes).add(
                f"{who}: its arguments are {why}"
            )
    if fragments and piece.empty_means not in ("", "{}", dump(parsed)):
        notes.add(f"{who} began with other arguments than its fragments say: {line(piece.empty_means, 60)}")
    return ToolCall(piece.id, piece.name, text, parsed, piece.choice, piece.tool, broken, _further(piece))


def _unbegun(piece: Piece) -> ToolCall:
    """A call whose arguments have not begun: not even that it has none is known."""
    text = "" if piece.empty_means == "{}" else piece.empty_means
    return ToolCall(piece.id, piece.name, text, None, piece.choice, piece.tool, None, _further(piece))


def _further(piece: Piece) -> tuple[Detail, ...]:
    return tuple(Detail(key, value) for key, value in piece.further.items())


def _arguments(text: str, who: str, notes: Notes) -> Any:
    """The value of `text`. Raises Undecodable; NotRead."""
    if not text:
        notes.add(f"{who} has no arguments at all, not even {{}}, which is what they are taken for")
        return {}
    parsed, faults = decode(text)
    for fault in faults:
        notes.add(f"{who}: in its arguments {fault}")
    if escapes_half_character(text, parsed):
        notes.add(f"{who}: in its arguments half of a surrogate pair stands alone, at which strict parsers fail")
    if not isinstance(parsed, dict):
        notes.add(f"{who}: its arguments are no JSON object")
    return parsed


def _broken(piece: Piece, text: str, limit: str | None) -> Broken | None:
    """Where its arguments `text` stop being JSON, and the event that brought the place.

    With a `limit` of tokens, that is their end, if they could have gone on.
    """
    if is_too_deep(text.encode("utf-8", "replace"), _DEEPEST):
        return None
    try:
        _CHECKER.decode(text)
    except json.JSONDecodeError as error:
        if limit is not None and _goes_on(text, error):
            problem = "the answer hit its token limit in the middle of the arguments"
            return Broken(problem, len(text), piece.origin(len(text)))
        return Broken(error.msg, error.pos, piece.origin(error.pos))
    except (ValueError, RecursionError):
        pass
    return None


def _goes_on(text: str, error: json.JSONDecodeError) -> bool:
    """Whether all that is wrong with `text` is that it ends."""
    if error.pos == len(text) or error.msg.startswith("Unterminated string"):
        return True
    return any(error.msg.startswith(says) and begun.fullmatch(text, error.pos) for says, begun in _BEGUN)
