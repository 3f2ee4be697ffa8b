"""Every library signs the same bytes, those of published vectors, and one that is missing or wrong is passed over."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from eth_keys.backends.native.main import NativeECCBackend
from eth_keys.datatypes import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_x402.protocol.evm.secp256k1 import LIBRARIES, ORDER, Library, library

# Later Pythons have no coincurve.
INSTALLED = [load() for name, load in LIBRARIES.items() if name != "coincurve" or sys.version_info < (3, 14)]
each = pytest.mark.parametrize("found", INSTALLED, ids=lambda found: found.name)
# Nonces of RFC 6979 with SHA-256: (private key, message, r, s), as tested by Bitcoin's libraries for years.
VECTORS = [
    (
        "01".rjust(64, "0"),
        b"Satoshi Nakamoto",
        "934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8",
        "2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5",
    ),
    (
        "01".rjust(64, "0"),
        b"All those moments will be lost in time, like tears in rain. Time to die...",
        "8600dbd41e348fe5c9465ab92d23e3db8b98b873beecd930736488696438cb6b",
        "547fe64427496db33bf66019dacbf0039c04199abb0122918601db38a72cfc21",
    ),
    (
        f"{ORDER - 1:064x}",
        b"Satoshi Nakamoto",
        "fd567d121db66e382991534ada77a6bd3106f0a1098c231e47993447cd6af2d0",
        "6b39cd0eb1bc8603e159ef5c20a5c8ad685a45b06ce9bebed3f153d10d93bed5",
    ),
    (
        "f8b8af8ce3c7cca5e300d33939540c10d45ce001b8f252bfbc57ba0342904181",
        b"Alan Turing",
        "7063ae83e7f62bbb171798131b4a0564b956930092b33b07b395615d9ec7e15c",
        "58dfcc1e00a35e1572f366ffe34ba0fc47db1e7189759b9fb233c5b05ab388ea",
    ),
]
secrets = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))


@each
@pytest.mark.parametrize(("secret", "message", "r", "s"), VECTORS)
def test_published_vectors(found: Library, secret: str, message: bytes, r: str, s: str) -> None:
    signature = found.sign(bytes.fromhex(secret), hashlib.sha256(message).digest())
    assert (signature[:32].hex(), signature[32:64].hex(), signature[64] in (0, 1)) == (r, s, True)


@each
@given(secret=secrets, digest=st.binary(min_size=32, max_size=32))
@settings(max_examples=30, deadline=None)
def test_the_bytes_are_those_of_pure_python(found: Library, secret: bytes, digest: bytes) -> None:
    key = PrivateKey(secret, NativeECCBackend())
    signature = found.sign(secret, digest)
    assert signature == key.sign_msg_hash(digest).to_bytes()
    assert found.public_key(secret) == key.public_key.to_bytes() == found.recover(signature, digest)


@each
def test_what_is_no_key_signs_nothing(found: Library) -> None:
    for secret in (bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32, b"\1" * 33):
        with pytest.raises(Exception, match=r".*"):
            found.sign(secret, bytes(32))


@each
def test_what_is_no_signature_has_no_signer(found: Library) -> None:
    for signature in (bytes(65), b"\xff" * 64 + b"\0", ORDER.to_bytes(32, "big") * 2 + b"\0"):
        with pytest.raises(Exception, match=r".*"):
            found.recover(signature, bytes(32))


@pytest.fixture
def anew() -> Iterator[None]:
    """The choice is made anew, and once more afterwards."""
    library.cache_clear()
    yield
    library.cache_clear()


@pytest.mark.usefixtures("anew")
def test_the_best_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [found.name for found in INSTALLED]
    assert expected[0] == "wallycore"
    for missing, chosen in zip((None, *expected[:-1]), expected, strict=True):
        if missing:
            monkeypatch.setitem(sys.modules, missing, None)
        library.cache_clear()
        assert (library().name, library().is_native) == (chosen, chosen != "eth-keys")
        assert library().version


@pytest.mark.usefixtures("anew")
def test_one_that_signs_otherwise_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ModuleType("wallycore")
    vars(wrong).update(
        EC_FLAG_ECDSA=1, EC_FLAG_RECOVERABLE=8, secp_randomize=len, ec_sig_from_bytes=lambda *_: b"\x1f" + bytes(64)
    )
    monkeypatch.setitem(sys.modules, "wallycore", wrong)
    assert library().name != "wallycore"


@pytest.mark.usefixtures("anew")
def test_where_none_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("wallycore", "coincurve", "eth_keys.backends.native.main"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeError, match="install eth-account"):
        library()


def test_a_process_that_has_signed_ends_well() -> None:
    """The destructor of wallycore's bindings crashed at the end of processes such as pytest's own."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", __file__, "-k", "published"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
