"""Suggests the nearest known name for a mistyped one, and tells which names were meant for options of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from .options import OPTIONS, PREFIX

_NAMES = {option.key: option.name for option in OPTIONS} | {option.name: option.name for option in OPTIONS}
_NEAR = 0.75
"""Likeness from which on a name without our prefix counts as one of ours that is mistyped."""


def nearest(name: str, known: Iterable[str], likeness: float = 0.5) -> str | None:
    """The known name that `name` most likely meant, or None when nothing is so near (1: the same)."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)
    return found[0] if found else None


def unknown_key(key: str, known: Sequence[str]) -> str:
    """A sentence for a key that is not known. Never shows the key's value: a mistyped key may hold a secret."""
    near = nearest(key.removeprefix("x402_"), known)
    hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
    return f"{key!r:.60} is no key here; {hint}"


def is_like_ours(name: str) -> bool:
    """Whether `name` begins like our options, is one of them without the prefix, or nearly one."""
    plain = _plain(name)
    return plain.startswith("x402") or _meant(plain) is not None


def mistyped_options(names: Iterable[str]) -> list[str]:
    """What to say of those of `names` that have our prefix and are nearly options of ours.

    Nobody else declares such an option, so there is no need to wait for other addons.
    """
    near = (name for name in names if name.startswith(PREFIX) and name not in _NAMES and _meant(_plain(name)))
    said = unknown_options(near)
    return [] if said is None else [said]


def unread_variables(names: Iterable[str]) -> str | None:
    """A sentence for each variable of the environment that looks like an option of ours but is not read; None: none."""
    read = {option.variable for option in OPTIONS} | {"X402_KEYSTORE_PASSWORD", "X402_UPSTREAM"}
    sentences = []
    for name in sorted(name for name in names if name.startswith("X402_") and name not in read):
        option = _meant(_plain(name.removeprefix("X402_")))
        if option is not None:
            variable = next((each.variable for each in OPTIONS if each.name == option), "")
            instead = f"did you mean {variable}?" if variable else f"use --set {option}=... or x402.toml, and unset it."
            sentences.append(f"The environment variable {name:.60} is not read: {instead}")
    return " ".join(sentences) or None


def unknown_options(names: Iterable[str], known: Iterable[str] = ()) -> str | None:
    """A sentence for each of `names`, which no addon has declared as an option; None: there are none.

    `known` are options of mitmproxy, which may have been meant.
    """
    others = list(known)
    sentences = []
    for name in sorted(names):
        plain = _plain(name)
        near = _meant(plain) or nearest(plain, others, _NEAR)
        if near is None and plain.startswith("x402"):
            near = nearest(plain, [option.name for option in OPTIONS])
        hint = f"did you mean {near}?" if near else f"those of x402 begin with {PREFIX}, and no other addon has it."
        sentences.append(f"There is no option {name!r:.60}; {hint}")
    return " ".join(sentences) or None


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


def _meant(plain: str) -> str | None:
    """The option of ours that this name is without its prefix, or nearly is."""
    near = plain if plain in _NAMES else nearest(plain, _NAMES, _NEAR)
    return None if near is None else _NAMES[near]
