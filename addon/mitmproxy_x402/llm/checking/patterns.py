"""Runs strangers' regular expressions, only where they cannot take long and mean the same in every engine."""

from __future__ import annotations

import re
import warnings
from functools import lru_cache

from ..printing import line
from .work import current

_MAX_PATTERN = 200_000
"""Most steps of one match of a regular expression, by the worst case; others are not checked."""
_STEPS_OF_PATTERN = 1000
"""Steps of a regular expression that count as one of a schema."""
_QUANTIFIER = re.compile(r"\*|\+|\?|\{(\d{1,3})(,(\d{1,3})?)?\}")


def matches(pattern: str, text: str) -> bool | None:
    """Whether `text` matches a stranger's regular expression; None: that could take long, or mean something else here.

    Outside of ASCII, and at line ends, Python's classes and anchors are not those of JSON Schema.
    """
    if not text.isascii() or "\n" in text:
        _untried(pattern, "on text with line ends, or beyond ASCII, which engines match differently")
        return None
    compiled = _compiled(pattern)
    if compiled is None:
        _untried(pattern, "since it could take long, or is no expression that every engine knows")
        return None
    expression, factors = compiled
    cost = (len(text) + 1) * (len(pattern) + 1)
    for most in factors:
        cost *= min(most, len(text) + 1)
        if cost > _MAX_PATTERN:
            _untried(pattern, f"on {len(text):,} characters, since that could take long")
            return None
    current.get().steps += cost // _STEPS_OF_PATTERN
    return expression.search(text) is not None


def _untried(pattern: str, why: str) -> None:
    current.get().doubt(f"the pattern {line(pattern, 60)} is not tried {why}")


@lru_cache(64)
def _compiled(pattern: str) -> tuple[re.Pattern[str], tuple[int, ...]] | None:
    """The compiled expression, and in how many ways each part can match; None: that is not easy to tell.

    Groups that are repeated, references back and looks around are what takes for ever, and is left out.
    """
    if len(pattern) > 200 or not pattern.isascii():
        return None
    plain = re.sub(r"\\[^0-9kpP]", "x", pattern)
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "x", plain)
    if "\\" in plain or re.search(r"\(\?(?!:)|\)[*+?{]", plain):
        return None
    factors = [2] * plain.count("|")
    for found in _QUANTIFIER.finditer(plain.replace("(?:", "(")):
        least, comma, most = found.groups()
        if comma or least is None:
            factors.append(2 if found[0] == "?" else int(most) - int(least) + 1 if most else 1_000_000)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern), tuple(factors)
    except (re.error, RecursionError, OverflowError):
        return None
