"""The hash function Keccak-256.

eth-hash makes a new object for each hash, in some 35 calls of Python that take five times as long as the hash itself.
Where pycryptodome is what it uses, its compiled function is called directly, with one state that is used again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

_CAPACITY_BYTES = 64
_ROUNDS = 24
_PADDING = 1
"""That of Keccak, which SHA-3 has changed."""
_TRIED = (0, 1, 32, 66, 135, 136, 137, 271, 272, 1000)
"""Lengths for which the results have to be the same; the function takes its input in blocks of 136 bytes."""


def _of_eth_hash() -> Callable[[bytes], bytes]:
    from eth_hash.auto import keccak  # noqa: PLC0415  # not installed where only recordings are played

    return keccak


def _direct() -> Callable[[bytes], bytes]:
    """The compiled function of pycryptodome. Raises an Exception where it is missing or other than expected."""
    from Crypto.Hash import keccak as module  # noqa: PLC0415  # may be missing
    from Crypto.Util import _raw_api  # noqa: PLC0415

    of_eth_hash = _of_eth_hash()

    compiled: Any = vars(module)["_raw_keccak_lib"]
    if _raw_api.backend != "cffi":
        raise ImportError("not by cffi, which checks the arguments")
    ffi = _raw_api.ffi
    holder = ffi.new("void **")
    if compiled.keccak_init(holder, _CAPACITY_BYTES, _ROUNDS):
        raise ImportError("no state")
    state, digest = holder[0], ffi.new("uint8_t[32]")
    result = ffi.buffer(digest)
    lock = threading.Lock()  # cffi releases Python's
    reset, absorb, squeeze = compiled.keccak_reset, compiled.keccak_absorb, compiled.keccak_digest

    def hash_of(data: bytes) -> bytes:
        with lock:
            if reset(state) or absorb(state, data, len(data)) or squeeze(state, digest, 32, _PADDING):
                return bytes(of_eth_hash(data))
            return bytes(result)

    for length in _TRIED:
        data = os.urandom(length)
        if hash_of(data) != of_eth_hash(data):
            raise ImportError("another function")
    return hash_of


@cache
def function() -> Callable[[bytes], bytes]:
    """What computes the hash: the compiled function, or else eth-hash."""
    with suppress(Exception):  # whatever ails it
        return _direct()
    return _of_eth_hash()


def keccak(data: bytes) -> bytes:
    """The hash of `data`, 32 bytes."""
    return function()(data)
