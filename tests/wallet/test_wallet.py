from __future__ import annotations

import copy
import hmac
import json
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from hypothesis import given, settings
from hypothesis import strategies as st
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from mitmproxy_x402.errors import WalletError
from mitmproxy_x402.protocol.evm.secp256k1 import library
from mitmproxy_x402.wallet.evm import EvmWallet
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets, warm_up
from mitmproxy_x402.wallet.svm import SvmWallet

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"
"""A well-known example key; its address is public knowledge."""
ADDRESS = "0x2c7536E3605D9C16a7a3D7b1898e529396a65c23"
PAIR = Keypair.from_seed(bytes(range(32)))
SEED = str(Pubkey(bytes(range(32))))
BASE58_64 = str(PAIR)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def load(home: Path, environ: dict[str, str] | None = None, **files: Path) -> Wallets:
    return load_wallets(WalletSources(environ or {}, home, **files))


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


class TestFormats:
    @pytest.mark.parametrize("text", [KEY, "0x" + KEY, "0X" + KEY.upper(), f"\n  0x{KEY}\r\n", "\ufeff" + KEY])
    def test_evm(self, text: str, tmp_path: Path) -> None:
        path = write(tmp_path / "key", text)
        wallet = load(tmp_path, evm_key_file=path).evm
        assert wallet is not None
        assert (wallet.address, wallet.source) == (ADDRESS, str(path))

    @pytest.mark.parametrize(
        "text",
        [
            BASE58_64,
            SEED,
            json.dumps(list(bytes(PAIR))),
            json.dumps(list(bytes(PAIR)), indent=2) + "\n",
            json.dumps(list(range(32))),
            bytes(PAIR).hex(),
            "0x" + bytes(PAIR).hex().upper(),
            f" \t{BASE58_64}\r\n\n",
        ],
    )
    def test_svm(self, text: str, tmp_path: Path) -> None:
        wallet = load(tmp_path, {"SOLANA_WALLET_KEY": text}).svm
        assert wallet is not None
        assert (wallet.address, wallet.source) == (str(PAIR.pubkey()), "SOLANA_WALLET_KEY")
        signature = Signature.from_bytes(wallet.sign_message(b"message"))
        assert signature.verify(PAIR.pubkey(), b"message")


class TestPlaces:
    def test_nothing_there_is_no_wallet(self, tmp_path: Path) -> None:
        assert load(tmp_path, {"BLOCKRUN_WALLET_KEY": "", "SOLANA_WALLET_KEY": " \n"}) == Wallets()

    def test_order(self, tmp_path: Path) -> None:
        keys = [f"{number:064x}" for number in range(1, 5)]
        addresses = [Account.from_key(key).address for key in keys]
        write(tmp_path / ".blockrun" / ".session", keys[3])
        named = write(tmp_path / "named", keys[0])
        environ = {"BLOCKRUN_WALLET_KEY": keys[1], "BASE_CHAIN_WALLET_KEY": keys[2]}
        found = [load(tmp_path, environ, evm_key_file=named).evm, load(tmp_path, environ).evm]
        del environ["BLOCKRUN_WALLET_KEY"]
        found.append(load(tmp_path, environ).evm)
        found.append(load(tmp_path).evm)
        assert [wallet and wallet.address for wallet in found] == addresses
        session = str(tmp_path / ".blockrun" / ".session")
        sources = [str(named), "BLOCKRUN_WALLET_KEY", "BASE_CHAIN_WALLET_KEY", session]
        assert [wallet and wallet.source for wallet in found] == sources

    def test_solana_order(self, tmp_path: Path) -> None:
        write(tmp_path / ".blockrun" / ".solana-session", BASE58_64)
        other = Keypair()
        named = write(tmp_path / "named", str(other))
        third = Keypair()
        environ = {"SOLANA_WALLET_KEY": str(third)}
        found = [load(tmp_path, environ, svm_key_file=named), load(tmp_path, environ), load(tmp_path)]
        assert [wallets.svm and wallets.svm.address for wallets in found] == [
            str(pair.pubkey()) for pair in (other, third, PAIR)
        ]
        assert found[0].for_family("svm") is found[0].svm
        assert found[0].for_family("evm") is None

    @pytest.mark.parametrize("family", ["evm_key_file", "svm_key_file", "keystore"])
    def test_a_named_file_must_be_there(self, family: str, tmp_path: Path) -> None:
        with pytest.raises(WalletError, match=r"absent cannot be read: No such file"):
            load(tmp_path, {"X402_KEYSTORE_PASSWORD": "x"}, **{family: tmp_path / "absent"})

    def test_a_folder_is_no_key(self, tmp_path: Path) -> None:
        with pytest.raises(WalletError, match="cannot be read: it is a folder"):
            load(tmp_path, evm_key_file=tmp_path)
        (tmp_path / ".blockrun" / ".session").mkdir(parents=True)
        with pytest.raises(WalletError, match="cannot be read: it is a folder"):
            load(tmp_path)

    def test_a_huge_file_is_no_key(self, tmp_path: Path) -> None:
        with pytest.raises(WalletError, match="larger than 65536 bytes"):
            load(tmp_path, evm_key_file=write(tmp_path / "huge", " " * 100_000))

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
    def test_a_file_that_others_can_read_is_refused(self, mode: int, tmp_path: Path) -> None:
        svm = write(tmp_path / "svm", SEED, mode)
        with pytest.raises(WalletError, match=f"{svm} is not used: other users .* Run: chmod 600 {svm}$"):
            load(tmp_path, svm_key_file=svm)
        evm = write(tmp_path / ".blockrun" / ".session", KEY, mode)
        with pytest.raises(WalletError, match=f"Run: chmod 600 {evm}$"):
            load(tmp_path)

    def test_a_private_file_is_fine(self, tmp_path: Path) -> None:
        write(tmp_path / ".blockrun" / ".session", KEY, 0o400)
        assert load(tmp_path).evm is not None

    def test_nothing_is_written(self, tmp_path: Path) -> None:
        load(tmp_path, {"BLOCKRUN_WALLET_KEY": KEY, "SOLANA_WALLET_KEY": SEED})
        assert list(tmp_path.iterdir()) == []

    def test_a_key_through_a_pipe_is_a_commands_business(self, tmp_path: Path) -> None:
        reader, writer = os.pipe()  # as from a shell's <(...)
        with pytest.raises(WalletError, match=r"it is a pipe, and no regular file\. .* or a command that prints one"):
            load(tmp_path, evm_key_file=Path(f"/dev/fd/{reader}"))
        os.close(writer)
        os.close(reader)


WRONG_EVM = [
    "hunter2",
    KEY[:-1],
    KEY + "0",
    "0x0x" + KEY,
    "0" * 64,
    f"{ORDER:064x}",
    "f" * 64,
    f'"{KEY}"',
    "٣" * 64,
    KEY[:32] + " " + KEY[32:],
]
WRONG_SVM = [
    "hunter2",
    KEY,
    SEED[:-4],
    BASE58_64[:-1],
    BASE58_64[:-1] + "0",
    str(Signature(bytes(PAIR)[:32] + bytes(Keypair.from_seed(bytes(32)).pubkey()))),
    bytes(PAIR).hex()[:-2],
    (bytes(PAIR)[:32] + bytes(32)).hex(),
    "[]",
    "[1, 2, 3]",
    json.dumps([256] * 64),
    json.dumps([-1] * 64),
    json.dumps([1.5] * 64),
    json.dumps(["1"] * 64),
    json.dumps([1] * 64),
    "[" * 10_000,
    "[1, 2",
]


class TestSecrecy:
    @pytest.mark.parametrize(
        ("variable", "text"),
        [("BASE_CHAIN_WALLET_KEY", text) for text in WRONG_EVM] + [("SOLANA_WALLET_KEY", text) for text in WRONG_SVM],
    )
    def test_a_wrong_key_is_refused_without_being_shown(self, variable: str, text: str, tmp_path: Path) -> None:
        with pytest.raises(WalletError) as caught:
            load(tmp_path, {variable: text})
        path = write(tmp_path / "file", text)
        option = {"BASE_CHAIN_WALLET_KEY": "evm_key_file", "SOLANA_WALLET_KEY": "svm_key_file"}[variable]
        with pytest.raises(WalletError) as caught_file:
            load(tmp_path, **{option: path})
        for error, source in ((caught.value, variable), (caught_file.value, str(path))):
            assert str(error).startswith(f"{source} holds no ")
            shown = "".join(traceback.format_exception(error))
            assert text[:8] not in shown.replace(str(path), "") or len(text) < 8
            assert error.__cause__ is None
            assert error.__context__ is None

    def test_a_foreign_encoding_is_refused_without_being_shown(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_bytes(b"\xff\xfe" + KEY.encode("utf-16-le"))
        path.chmod(0o600)
        with pytest.raises(WalletError, match="holds no EVM private key") as caught:
            load(tmp_path, evm_key_file=path)
        assert caught.value.__context__ is None

    def test_the_key_is_nowhere_to_be_seen(self, tmp_path: Path) -> None:
        sources = WalletSources({"BLOCKRUN_WALLET_KEY": KEY, "SOLANA_WALLET_KEY": BASE58_64}, tmp_path)
        wallets = load_wallets(sources)
        assert wallets.evm is not None
        assert wallets.svm is not None
        secrets = (KEY, str(int(KEY, 16)), repr(bytes.fromhex(KEY)), BASE58_64, SEED, repr(bytes(PAIR)[:32]))
        for thing in (sources, wallets, wallets.evm, wallets.svm, vars(wallets.evm), vars(wallets.svm)):
            for secret in secrets:
                assert secret not in repr(thing)
                assert secret not in f"{thing}"

    @pytest.mark.parametrize("use", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_a_wallet_is_neither_pickled_nor_copied(self, use: Any, tmp_path: Path) -> None:
        wallets = load(tmp_path, {"BLOCKRUN_WALLET_KEY": KEY, "SOLANA_WALLET_KEY": SEED})
        for wallet in (wallets.evm, wallets.svm):
            with pytest.raises(TypeError, match="neither pickled nor copied"):
                use(wallet)

    def test_wallets_are_equal_by_address_and_source(self, tmp_path: Path) -> None:
        environ = {"BLOCKRUN_WALLET_KEY": KEY, "SOLANA_WALLET_KEY": SEED}
        assert load(tmp_path, environ) == load(tmp_path, environ)

    @given(st.text(max_size=200))
    def test_any_text_is_a_key_or_a_refusal(self, text: str) -> None:
        environ = {"BLOCKRUN_WALLET_KEY": text, "SOLANA_WALLET_KEY": text}
        message = ""
        try:
            assert load(Path("/nonexistent"), environ) == Wallets()
        except WalletError as error:
            message = str(error)
        assert len(text) < 10 or text not in message


@settings(deadline=None, max_examples=60)
@given(st.integers(1, ORDER - 1), st.binary(min_size=32, max_size=32))
def test_signatures_equal_those_of_eth_account(secret: int, digest: bytes) -> None:
    key = secret.to_bytes(32, "big")
    wallet = load(Path("/nonexistent"), {"BLOCKRUN_WALLET_KEY": key.hex()}).evm
    assert wallet is not None
    signature = wallet.sign_digest(digest)
    reference = Account.unsafe_sign_hash(digest, key)
    assert signature == bytes(reference.signature)
    assert wallet.address == Account.from_key(key).address
    assert int.from_bytes(signature[32:64], "big") <= ORDER // 2
    recovered = library().recover(signature[:64] + bytes([signature[64] - 27]), digest)
    assert recovered == library().public_key(key)


def keystore(tmp_path: Path, password: str = "correct horse", **changes: Any) -> Path:
    encrypted = Account.encrypt(KEY, password, kdf="pbkdf2", iterations=2)
    return write(tmp_path / "keystore.json", json.dumps({**encrypted, **changes}), 0o644)


class TestKeystore:
    def test_what_opens_it_leaves_pythons_recursion_limit_as_it_was(self, tmp_path: Path) -> None:
        """With a higher one, JSON that is nested deeply crashes Python 3.11."""
        code = """if True:
            import sys
            from pathlib import Path
            from mitmproxy_x402.wallet.keystore import keystore_wallet
            before = sys.getrecursionlimit()
            keystore_wallet(Path(sys.argv[1]), {"X402_KEYSTORE_PASSWORD": "correct horse"}, None)
            print(sys.getrecursionlimit() == before, "eth_account" in sys.modules)
        """
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, keystore(tmp_path)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        assert done.stdout == "True True\n"

    def test_password_from_the_environment(self, tmp_path: Path) -> None:
        path = keystore(tmp_path)
        wallets = load(tmp_path, {"X402_KEYSTORE_PASSWORD": "correct horse"}, keystore=path)
        assert wallets.evm == EvmWallet(ADDRESS, str(path), lambda _: b"")

    @pytest.mark.parametrize("text", ["correct horse", "correct horse\n", "correct horse\r\n", "correct horse\nnote"])
    def test_password_from_a_file(self, text: str, tmp_path: Path) -> None:
        password = write(tmp_path / "password", text, 0o600)
        wallets = load(tmp_path, keystore=keystore(tmp_path), keystore_password_file=password)
        assert wallets.evm is not None
        assert wallets.evm.address == ADDRESS
        password.chmod(0o640)
        with pytest.raises(WalletError, match=f"Run: chmod 600 {password}$"):
            load(tmp_path, keystore=keystore(tmp_path), keystore_password_file=password)

    def test_scrypt(self, tmp_path: Path) -> None:
        path = write(tmp_path / "k", json.dumps(Account.encrypt(KEY, "é", kdf="scrypt", iterations=2)))
        wallet = load(tmp_path, {"X402_KEYSTORE_PASSWORD": "é"}, keystore=path).evm
        assert wallet is not None
        assert wallet.address == ADDRESS

    def test_it_comes_before_the_environment(self, tmp_path: Path) -> None:
        environ = {"X402_KEYSTORE_PASSWORD": "correct horse", "BLOCKRUN_WALLET_KEY": "1" * 64}
        wallet = load(tmp_path, environ, keystore=keystore(tmp_path)).evm
        assert wallet is not None
        assert wallet.address == ADDRESS

    def test_no_password(self, tmp_path: Path) -> None:
        with pytest.raises(WalletError, match="set X402_KEYSTORE_PASSWORD or x402_keystore_password_file"):
            load(tmp_path, keystore=keystore(tmp_path))

    @pytest.mark.parametrize("password", ["wrong hunter2", ""])
    def test_wrong_password(self, password: str, tmp_path: Path) -> None:
        with pytest.raises(WalletError, match="the password is wrong") as caught:
            load(tmp_path, {"X402_KEYSTORE_PASSWORD": password}, keystore=keystore(tmp_path))
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", KEY, "[" * 10_000, '{"version": 3}', '{"version": 1, "crypto": {}}']
    )
    def test_no_keystore(self, text: str, tmp_path: Path) -> None:
        path = write(tmp_path / "k", text)
        with pytest.raises(WalletError, match="cannot be opened") as caught:
            load(tmp_path, {"X402_KEYSTORE_PASSWORD": "x"}, keystore=path)
        assert KEY not in "".join(traceback.format_exception(caught.value))

    def test_another_address(self, tmp_path: Path) -> None:
        with pytest.raises(WalletError, match="another address"):
            load(tmp_path, {"X402_KEYSTORE_PASSWORD": "correct horse"}, keystore=keystore(tmp_path, address="00" * 20))

    def test_two_evm_keys_are_one_too_many(self, tmp_path: Path) -> None:
        with pytest.raises(WalletError, match="Two EVM keys are named"):
            load(tmp_path, keystore=tmp_path / "a", evm_key_file=tmp_path / "b")


def test_slow_imports_stay_off_the_start_up_path() -> None:
    program = """
import sys
from pathlib import Path
from mitmproxy_x402.chain import solana_rpc
from mitmproxy_x402.wallet import sources as wallet
from mitmproxy_x402.protocol import headers
from mitmproxy_x402.schemes import exact_evm, exact_svm
environ = {"BLOCKRUN_WALLET_KEY": "11" * 32, "SOLANA_WALLET_KEY": "[" + ",".join(["1"] * 32) + "]"}
assert wallet.load_wallets(wallet.WalletSources(environ, Path("/nonexistent"))).evm
print(*(name for name in ("eth_account", "eth_keys", "eth_utils", "py_ecc", "pydantic") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_warm_up() -> None:
    warm_up()


def test_types() -> None:
    assert SvmWallet("address", "source", bytes).sign_message(b"x") == b"x"


class TestDerivedKeys:
    def test_they_belong_to_key_and_purpose(self, tmp_path: Path) -> None:
        def wallets(evm: str, svm: str) -> Wallets:
            return load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": evm, "SOLANA_WALLET_KEY": svm}, tmp_path))

        keys = set()
        for number in (1, 2):
            found = wallets(f"{number:064x}", json.dumps([number] * 32))
            again = wallets(f"0x{number:064X}", json.dumps([number] * 32))
            assert found.evm is not None
            assert found.svm is not None
            assert again.evm is not None
            assert found.evm.derive_key(b"a") == again.evm.derive_key(b"a")
            for wallet in (found.evm, found.svm):
                keys |= {wallet.derive_key(b"a"), wallet.derive_key(b"b")}
        assert len(keys) == 8
        assert {len(key) for key in keys} == {32}
        assert bytes([1] * 32) not in keys

    def test_as_rfc_5869_has_it(self, tmp_path: Path) -> None:
        secret = bytes.fromhex("11" * 32)
        evm = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": secret.hex()}, tmp_path)).evm
        assert evm is not None
        extracted = hmac.new(b"mitmproxy-x402", secret, "sha256").digest()
        assert evm.derive_key(b"info") == hmac.new(extracted, b"info\x01", "sha256").digest()

    def test_a_wallet_that_was_made_without_a_key_has_none(self) -> None:
        with pytest.raises(WalletError, match="no key"):
            SvmWallet("address", "source", bytes).derive_key(b"a")
