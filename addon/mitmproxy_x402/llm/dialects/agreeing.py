"""Compares an answer that came in fragments with the whole that its last event says again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..draft import Draft
from ..pieces import Kind, Piece
from ..values import same_json

_KINDS: tuple[Kind, ...] = ("text", "reasoning", "refusal", "call", "other")


def add_whole(
    draft: Draft, whole: Draft, parts: int, *, resumed: bool | None = False, choice: int | None = None
) -> int:
    """Add to `draft` what only `whole` says, and note where both say something else. Returns the number of parts.

    Parts are told apart by kind and order, calls by their ids, too. `resumed`: the fragments begin in the middle of the
    answer, so that the whole says how it begins. `parts`: how many there are, which gives new ones their places.
    `choice`: the one that the whole is about; None: all.
    """
    for remark in whole.notes.texts():
        draft.notes.add(remark)
    said, told = [one for one in draft.pieces() if choice in (None, one.choice)], whole.pieces()
    for kind in _KINDS:
        ours, theirs = ([one for one in pieces if one.kind == kind] for pieces in (said, told))
        if kind != "call" and "".join(one.text for one in ours) == "".join(one.text for one in theirs) != "":
            continue  # parted elsewhere
        if kind == "call" and 0 < len(theirs) < len(ours):
            draft.notes.add("the whole at the end has fewer tool calls than its fragments, which are shown")
        for piece, other in _pairs(ours, theirs, resumed=bool(resumed)):
            if piece is not None:
                _compare(draft, piece, other, resumed=bool(resumed))
                continue
            parts += 1
            new = draft.piece(other.choice, (-1 if resumed else draft.max_items, parts), kind)
            _copy(new, other)
    return parts


def _pairs(ours: list[Piece], theirs: list[Piece], *, resumed: bool) -> Iterator[tuple[Piece | None, Piece]]:
    """Each part of the whole with the one that came in fragments; None: none did."""
    by_id = {one.id: one for one in ours if one.id}
    same = {id(other): by_id[other.id] for other in theirs if other.id in by_id}
    taken = {id(one) for one in same.values()}
    rest: Sequence[Piece] = [one for one in ours if id(one) not in taken]
    left: Sequence[Piece] = [other for other in theirs if id(other) not in same]
    if resumed:
        rest, left = rest[::-1], left[::-1]
    for number, other in enumerate(left):
        piece = rest[number] if number < len(rest) else None
        same_call = piece is None or other.kind != "call" or not (piece.id and other.id) or _is_alike(piece, other)
        if piece is not None and same_call and (other.kind != "other" or piece.name == other.name):
            same[id(other)] = piece
    for other in theirs:
        yield same.get(id(other)), other


def _is_alike(piece: Piece, other: Piece) -> bool:
    """Whether two calls with different ids call the same tool with the same arguments."""
    return piece.name == other.name and same_json(piece.text or piece.empty_means, other.text or other.empty_means)


def _compare(draft: Draft, piece: Piece, other: Piece, *, resumed: bool) -> None:
    """Complete `piece` by the `other` one, which is whole, or note how they differ."""
    if piece.kind == "call":
        if piece.id and other.id and piece.id != other.id:
            draft.notes.add("a tool call has another id in the whole at the end than in its fragments")
        draft.name_whole_call(piece, other.name)
        piece.identify(other.id)
    if other.signature and not piece.signature:
        piece.sign(other.signature)
    text = other.text
    if not text or piece.says(text) or (piece.kind == "call" and same_json(piece.text or piece.empty_means, text)):
        return
    if piece.kind == "reasoning" and "".join(piece.text.split()) == "".join(text.split()):
        return  # whose parts are joined in one way or another
    if not piece.size:
        piece.add(text)
    elif resumed and text.endswith(piece.text):
        piece.replace(text)
    else:
        draft.differ(piece, text)


def _copy(piece: Piece, other: Piece) -> None:
    """Make `piece` say what the `other` one does."""
    piece.needs_id, piece.tool, piece.empty_means, piece.closed = False, other.tool, other.empty_means, True
    if other.kind == "other":
        piece.keep(other.name, other.so_far())
        return
    piece.identify(other.id)
    piece.call(other.name)
    piece.add(other.text)
    piece.sign(other.signature)
    piece.beside(other.further, frozenset())
