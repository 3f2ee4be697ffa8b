"""What one vendor does its own way. Uses `protocol`.

`gateway` has what is asked of any gateway, and the standard's answers; `blockrun` has BlockRun's. A gateway that is not
known here gets the standard's behaviour: `gateway_of` says which one a host is.
"""

from __future__ import annotations

from functools import lru_cache

from . import blockrun
from .gateway import STANDARD, Gateway, Meaning, Measure

__all__ = ["Gateway", "Meaning", "Measure", "gateway_of"]


@lru_cache(maxsize=64)
def gateway_of(host: str) -> Gateway:
    """The manners of the gateway at `host`. On this machine it is taken for the sandbox, which plays BlockRun."""
    return blockrun.GATEWAY if blockrun.is_own(host) else STANDARD
