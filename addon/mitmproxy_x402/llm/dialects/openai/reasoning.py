"""Reads the reasoning of chat completions, which stands under several names: what two of them say alike counts once.

One vendor says it under `reasoning` in fragments and under `reasoning_details` beside each, another in details first
and as a whole in the last delta, a third under two names in turn. So each name has a place up to which it has said the
reasoning of its choice; what others have said already is compared from there on, white space aside, and what is new is
added. A name that says something else gets a part of its own, with all that it said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ...draft import Draft
from ...pieces import Piece
from ...values import joined, mapping, sequence, string

NAMES = ("reasoning_content", "reasoning", "thinking")
"""Keys under which the reasoning is text."""
DETAILS = "reasoning_details"
_CONTENT = "content"
"""Where a list of parts has it, as Mistral's."""
_WORD = re.compile(r"\S+")
_SPACE = 64
"""Characters of white space that one name may have, and another not, around a fragment."""


@dataclass
class _Said:
    """How far one name has said the reasoning of one choice."""

    at: int = 0
    """Characters of the common part that it has said, too."""
    half: str = ""
    """The first half of a character, which its last fragment ended with."""
    own: Piece | None = None
    """Its own part, if it says something else."""


class Thoughts:
    """The reasoning of all choices of one answer."""

    def __init__(self, draft: Draft, place: int) -> None:
        """`place`: of the reasoning among the parts of a choice."""
        self._draft = draft
        self._place = place
        self._said: dict[tuple[int, str], _Said] = {}
        self._others = 0

    def add(self, choice: int, said: dict[str, Any]) -> None:
        """Read the reasoning in a delta or a message."""
        words = [(key, said[key]) for key in NAMES if said.get(key)]
        if not words and not said.get(DETAILS):
            return
        size, repeated = self._part(choice).size, ""
        for number, (key, told) in enumerate(words):
            if not number or isinstance(told, str):
                text = self._draft.words(told, "reasoning")
                if self._take(choice, key, text) and size == self._part(choice).size:
                    repeated = text
        details: dict[str, list[dict[str, Any]]] = {}
        for one in map(mapping, sequence(said.get(DETAILS))):
            details.setdefault(f"{DETAILS} {string(one.get('type'))}", []).append(one)
        for kind, ones in details.items():  # summaries are another text than what they sum up
            self._details(choice, kind, ones, [string(told) for _, told in words], repeated if size else "")

    def _details(self, choice: int, kind: str, details: list[dict[str, Any]], words: list[str], repeated: str) -> None:
        """Read details of one kind, with the `words` beside them; `repeated`: of these, what says all of it again."""
        texts = [string(one.get("text")) or string(one.get("summary")) for one in details]
        known = self._said.get((choice, kind))
        all_said = known is not None and known.own is None and known.at == self._part(choice).size
        again = bool(repeated) and all_said and _is_alike("".join(texts), repeated)
        for detail, text in zip(details, texts, strict=True):
            if text and not again and not self._is_beside(choice, kind, text, words):
                self._take(choice, kind, text)
            piece = self._part(choice, kind)
            signature = string(detail.get("signature")) or string(detail.get("data"))
            if signature and signature != piece.signature:
                piece.sign(signature)

    def part(self, choice: int, text: str, signature: str) -> None:
        """Read a part of a content that is a list."""
        if text:
            self._take(choice, _CONTENT, text)
        self._part(choice, _CONTENT).sign(signature)

    def _part(self, choice: int, key: str = "") -> Piece:
        """The part that `key` says; empty: the common one."""
        known = self._said.get((choice, key))
        if known is not None and known.own is not None:
            return known.own
        return self._draft.piece(choice, (self._place,), "reasoning")

    def _is_beside(self, choice: int, kind: str, text: str, words: list[str]) -> bool:
        """Whether a detail is only a part of the `words` beside it, somewhere in them."""
        said, piece = self._said.get((choice, kind)) or _Said(), self._part(choice)
        if said.own is not None or said.at == piece.size:
            return False
        before = piece.since(said.at, 2 * len(text) + _SPACE)
        if _agreeing(text, before, whole=said.at + len(before) == piece.size) is not None:
            return False
        return any(text in one for one in words) or piece.says(text)

    def _take(self, choice: int, key: str, text: str) -> bool:
        """Read a fragment. Returns whether it was all that others had said so far, again."""
        said = self._said.get((choice, key))
        if said is None:
            said = _Said()
            if len(self._said) < self._draft.max_items:
                self._said[choice, key] = said
        if said.own is not None:
            said.own.add(text)
            return False
        piece = self._draft.piece(choice, (self._place,), "reasoning")
        if said.at == piece.size:
            piece.add(said.half + text)
            said.at, said.half = piece.size, ""
            return False
        text = joined(said.half + text)
        said.half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        text = text[: len(text) - len(said.half)]
        before = piece.since(said.at, 2 * len(text) + _SPACE)
        found = _agreeing(text, before, whole=said.at + len(before) == piece.size)
        if found is None:
            self._others += 1
            said.own = self._draft.piece(choice, (self._place, self._others), "reasoning")
            said.own.add(piece.text[: said.at] + text + said.half)
            return False
        known, new = found
        again = said.at == 0 and not new and known == piece.size
        said.at += known
        if new:
            piece.add(new)
            said.at = piece.size
        return again


def _agreeing(text: str, before: str, *, whole: bool) -> tuple[int, str] | None:
    """How many characters of `before` a `text` says again, and what it adds; None: it says something else.

    `whole`: whether `before` is all that there is.
    """
    if before.startswith(text):
        return len(text), ""
    if whole and text.startswith(before):
        return len(before), text[len(before) :]
    bare, others = _bare(text), _bare(before)
    if others.startswith(bare):
        return (len(before) if whole and len(others) == len(bare) else _after(before, len(bare))), ""
    if whole and bare.startswith(others):
        return len(before), text[_after(text, len(others)) :]
    return None


def _is_alike(text: str, other: str) -> bool:
    """Whether two long texts are the same but for white space; short ones must be the same."""
    return text == other or (len(text) > _SPACE and _bare(text) == _bare(other))


def _bare(text: str) -> str:
    """`text` without white space."""
    return "".join(text.split())


def _after(text: str, size: int) -> int:
    """The place in `text` after `size` characters that are no white space."""
    for word in _WORD.finditer(text) if size else ():
        if size <= word.end() - word.start():
            return word.start() + size
        size -= word.end() - word.start()
    return 0
