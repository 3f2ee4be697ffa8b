"""How clients write a request anew that means the same."""

from __future__ import annotations

from typing import Any


def reordered(value: Any) -> Any:
    """`value` with the keys of its objects the other way round."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value
