"""Keccak-256 by the compiled function, against known vectors and eth-hash, and what is done where that is missing."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import Crypto.Hash
import pytest
from Crypto.Hash import keccak as pycryptodome
from Crypto.Util import _raw_api
from eth_hash.auto import keccak as of_eth_hash

from mitmproxy_x402.protocol.evm import keccak as ours

VECTORS = {
    b"": "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470",
    b"abc": "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45",
    b"The quick brown fox jumps over the lazy dog": "4d741b6f1eb29cb2a9b9911c82f56fa8d73b04959d3d9d222895df6c0b28aa15",
}


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    ours.function.cache_clear()
    yield
    ours.function.cache_clear()


def test_known_vectors() -> None:
    for data, digest in VECTORS.items():
        assert ours.keccak(data).hex() == digest
    assert ours.function() is not of_eth_hash


def test_all_lengths_around_its_blocks() -> None:
    chance = random.Random(1)
    for length in range(300):
        data = chance.randbytes(length)
        assert ours.keccak(data) == of_eth_hash(data)
        assert isinstance(ours.keccak(data), bytes)


def test_threads_do_not_mix_their_hashes() -> None:
    every = [bytes([number]) * 5000 for number in range(200)] * 5
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ours.keccak, every)) == list(map(of_eth_hash, every))


class Wrong:
    """A compiled library whose functions do something else."""

    def __init__(self, right: Any, **others: Any) -> None:
        self.keccak_init, self.keccak_reset = right.keccak_init, right.keccak_reset
        self.keccak_absorb, self.keccak_digest = right.keccak_absorb, right.keccak_digest
        vars(self).update(others)


def use(compiled: Wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    """By us, not by eth-hash."""
    monkeypatch.setattr(Crypto.Hash, "keccak", SimpleNamespace(_raw_keccak_lib=compiled))


@pytest.mark.parametrize(
    "others",
    [
        {"keccak_init": lambda *_: 3},
        {"keccak_reset": lambda _: 0},
        {"keccak_absorb": lambda *_: 0},
        {"keccak_digest": lambda *_: 0},
        {"keccak_digest": "no function"},
    ],
)
def test_another_function_is_not_used(others: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    right = vars(pycryptodome)["_raw_keccak_lib"]
    use(Wrong(right, **others), monkeypatch)
    assert ours.function() is of_eth_hash
    assert ours.keccak(b"abc").hex() == VECTORS[b"abc"]


def test_an_error_of_the_function_is_made_good_by_eth_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    right = vars(pycryptodome)["_raw_keccak_lib"]
    results: list[int] = []

    def absorb(*arguments: Any) -> int:
        return results.pop() if results else int(right.keccak_absorb(*arguments))

    use(Wrong(right, keccak_absorb=absorb), monkeypatch)
    assert ours.function() is not of_eth_hash
    results.append(5)
    assert ours.keccak(b"abc").hex() == VECTORS[b"abc"]


@pytest.mark.parametrize("missing", ["Crypto.Hash", "Crypto.Util"])
def test_without_pycryptodome(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert ours.function() is of_eth_hash


def test_where_pycryptodome_does_not_use_cffi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_raw_api, "backend", "ctypes")
    assert ours.function() is of_eth_hash
