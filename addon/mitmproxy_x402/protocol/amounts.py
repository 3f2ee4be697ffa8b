"""Amounts of money in millionths of a dollar, and how people read them."""

from __future__ import annotations

MICRO = 1_000_000
"""Millionths in a dollar; USDC has six decimals."""


def format_usd(micro: int) -> str:
    """Millionths of a dollar as decimal dollars, without superfluous zeros: `1`, `0.25`, `0.013081`."""
    whole, part = divmod(abs(micro), MICRO)
    text = f"{whole}.{part:06d}".rstrip("0").rstrip(".") if part else str(whole)
    return f"-{text}" if micro < 0 else text
