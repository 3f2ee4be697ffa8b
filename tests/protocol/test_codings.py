"""Decoding as a body comes in: every coding, cut anywhere, broken, and made to unfold without end."""

from __future__ import annotations

import contextlib
import gzip
import random
import zlib
from collections.abc import Callable

import brotli
import pytest

from mitmproxy_x402.errors import Undecodable
from mitmproxy_x402.protocol.codings import FREE, MAX_MEMBERS, STEP, Decoder, needs_decoding
from mitmproxy_x402.protocol.codings import decode as decode_whole
from support.recording import zstd

TEXT = "".join(f'data: {{"n": {n}, "text": "€ und mehr"}}\n\n' for n in range(2000)).encode()


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": (" X-GZip ", gzip.compress),
    "two members": ("gzip", lambda data: gzip.compress(data[:100]) + gzip.compress(data[100:])),
    "deflate": ("deflate", zlib.compress),
    "deflate without its wrapper": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "two frames": (
        "zstd",
        lambda data: b"".join(zstd.compress(part) for part in (data[:100], data[100:])),
    ),
}
coded = pytest.mark.parametrize(("coding", "pack"), CODINGS.values(), ids=CODINGS)


def decode(coding: str, *parts: bytes) -> bytes:
    decoder = Decoder(coding)
    return b"".join(piece for part in parts for piece in decoder.feed(part))


@coded
def test_decodes(coding: str, pack: Callable[[bytes], bytes]) -> None:
    assert decode(coding, pack(TEXT)) == TEXT


@coded
def test_what_unfolds_far_comes_whole(coding: str, pack: Callable[[bytes], bytes]) -> None:
    """A handful of bytes, from which several steps follow."""
    assert decode(coding, pack(b"x" * 5_000_000)) == b"x" * 5_000_000


@coded
def test_cut_anywhere(coding: str, pack: Callable[[bytes], bytes]) -> None:
    packed, chance = pack(TEXT), random.Random(4)
    assert decode(coding, *(packed[n : n + 1] for n in range(len(packed)))) == TEXT
    for _ in range(50):
        at = sorted(chance.sample(range(len(packed)), 3))
        assert decode(coding, *(packed[a:b] for a, b in zip([0, *at], [*at, None], strict=True))) == TEXT


@coded
def test_what_was_cut_off_gives_what_came(coding: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(TEXT)
    assert TEXT.startswith(decode(coding, packed[: len(packed) // 2]))


def test_each_flush_is_seen_at_once() -> None:
    packer, decoder = zlib.compressobj(wbits=31), Decoder("gzip")
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        assert b"".join(decoder.feed(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))) == event


@coded
def test_broken(coding: str, pack: Callable[[bytes], bytes]) -> None:
    packed, chance = pack(TEXT), random.Random(5)
    for _ in range(100):
        spoilt = bytearray(packed)
        for _ in range(5):
            spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
        try:
            decode(coding, bytes(spoilt))
        except Undecodable as error:
            assert "broken" in str(error)  # noqa: PT017


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_not_of_that_coding(coding: str) -> None:
    with pytest.raises(Undecodable, match=r"broken after \d bytes"):
        decode(coding, b"data: it is plain text, really\n\n" * 10)


@pytest.mark.parametrize("coding", ["compress", "gzip, br", "é\x1b[2J", ""])
def test_not_known(coding: str) -> None:
    with pytest.raises(Undecodable, match="not known"):
        Decoder(coding)


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("br", lambda data: brotli.compress(data, quality=5)),
        ("zstd", zstd.compress),
        ("gzip", lambda data: gzip.compress(data, 9)),
    ],
)
def test_a_bomb(coding: str, pack: Callable[[bytes], bytes]) -> None:
    bomb = pack(bytes(80 << 20))
    sizes: list[int] = []
    with pytest.raises(Undecodable, match="unfolds too far"):
        sizes.extend(len(piece) for piece in Decoder(coding).feed(bomb))
    assert sum(sizes) <= max(FREE, 1000 * len(bomb))


def test_what_needs_decoding() -> None:
    assert not needs_decoding(" Identity ")
    assert not needs_decoding("")
    assert needs_decoding("gzip")
    assert needs_decoding("nonsense")


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("br", brotli.compress), ("zstd", zstd.compress), ("gzip", lambda data: gzip.compress(data, 9))],
)
def test_no_step_gives_more_than_is_asked_for(coding: str, pack: Callable[[bytes], bytes]) -> None:
    bomb, most = pack(bytes(30 << 20)), 0
    bounded = coding != "br" or hasattr(brotli.Decompressor(), "can_accept_more_data")
    with contextlib.suppress(Undecodable):
        for piece in Decoder(coding).feed(bomb):
            most = max(most, len(piece))
    assert 0 < most <= (2 * STEP if bounded else 17 << 20)
    with pytest.raises(Undecodable, match="unfolds to more than 1000 bytes"):
        decode_whole(bomb, coding, 1000)


EMPTY = {"gzip": gzip.compress(b""), "zstd": zstd.compress(b"")}


@pytest.mark.parametrize(("coding", "empty"), EMPTY.items(), ids=EMPTY)
def test_members_without_end(coding: str, empty: bytes) -> None:
    assert decode_whole(empty * MAX_MEMBERS, coding, 10) == b""
    with pytest.raises(Undecodable, match="more than 1000 members"):
        decode_whole(empty * (MAX_MEMBERS + 2), coding, 10)
