"""What single vendors do differently from the x402 standard. Uses nothing of ours.

`gateway` has the interface and the standard's behaviour, `blockrun` has BlockRun's. `gateway_of` chooses by the host;
unknown hosts get the standard's behaviour.
"""

from __future__ import annotations

from functools import lru_cache

from . import blockrun
from .gateway import STANDARD, Gateway, Meaning, Measure

__all__ = ["Gateway", "Meaning", "Measure", "gateway_of"]


@lru_cache(maxsize=64)
def gateway_of(host: str) -> Gateway:
    """The `Gateway` for `host`. Loopback hosts are taken for the sandbox, which imitates BlockRun."""
    return blockrun.GATEWAY if blockrun.is_own(host) else STANDARD
