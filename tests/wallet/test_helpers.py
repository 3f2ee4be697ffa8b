"""Keys from a command and from the keyring: run once, without a shell, never shown."""

from __future__ import annotations

import sys
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend

from mitmproxy_x402.errors import SettingsError, WalletError
from mitmproxy_x402.settings.settings import Settings, read_settings
from mitmproxy_x402.wallet import helpers
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets

KEY = "11" * 32
ADDRESS = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"


@pytest.fixture(autouse=True)
def fresh() -> None:
    helpers.from_command.cache_clear()
    helpers.from_keyring.cache_clear()


def printing(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def load(home: Path, *command: str, service: str = "") -> Wallets:
    return load_wallets(WalletSources(environ={}, home=home, evm_key_command=command, keyring=service))


def test_a_command_prints_the_key(tmp_path: Path) -> None:
    wallet = load(tmp_path, *printing(f"print('0x{KEY}')")).evm
    assert wallet is not None
    assert wallet.address == ADDRESS
    assert wallet.source == f"x402_evm_key_command: {sys.executable}"


def test_it_is_run_once_and_without_a_shell(tmp_path: Path) -> None:
    count = tmp_path / "count"
    command = printing(f"open({str(count)!r}, 'a').write('x'); print({KEY!r})")
    for _ in range(3):
        assert load(tmp_path, *command, "; touch beside").evm is not None
    assert count.read_text() == "x"
    assert not (tmp_path / "beside").exists()


def test_it_does_not_get_the_other_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLANA_WALLET_KEY", "secret")
    code = f"import os; print('' if 'SOLANA_WALLET_KEY' in os.environ else {KEY!r})"
    assert load(tmp_path, *printing(code)).evm is not None


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("/nowhere/pass", "show", "hunter2"), "/nowhere/pass was not found"),
        (printing("import sys; print('hunter2'); sys.exit(3)"), "failed with exit code 3"),
        (printing("pass"), "printed 0 bytes"),
        (printing("print('hunter2' * 100000)"), "should print a key, and printed"),
        (printing("print('hunter2')"), "holds no EVM private key"),
    ],
)
def test_what_goes_wrong_is_said_without_the_output(tmp_path: Path, command: tuple[str, ...], said: str) -> None:
    with pytest.raises(WalletError, match=said) as raised:
        load(tmp_path, *command)
    assert "hunter2" not in str(raised.value)


def read(tmp_path: Path, options: dict[str, str]) -> Settings:
    return read_settings(options, {}, cwd=tmp_path, home=tmp_path / "home")


def test_words_are_split_as_a_shell_splits_them(tmp_path: Path) -> None:
    settings = read(tmp_path, {"x402_solana_key_command": "op read 'op://Private/x402 key'"})
    assert settings.svm_key_command == ("op", "read", "op://Private/x402 key")
    assert "Private" not in repr(settings)


@pytest.mark.parametrize("text", ["'unclosed", "a\0b"])
def test_a_command_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="expected a program and its arguments") as raised:
        read(tmp_path, {"x402_evm_key_command": text})
    assert "unclosed" not in str(raised.value)


def test_a_folder_that_is_entered_does_not_run_its_programs(tmp_path: Path) -> None:
    file = tmp_path / "x402.toml"
    file.write_text('evm_key_command = ["pass", "show", "x402"]\n')
    with pytest.raises(SettingsError, match=r"not taken from an x402\.toml in the working folder"):
        read(tmp_path, {})
    assert read(tmp_path, {"x402_config": str(file)}).evm_key_command == ("pass", "show", "x402")
    own = tmp_path / "home" / ".config" / "mitmproxy-x402" / "x402.toml"
    own.parent.mkdir(parents=True)
    file.rename(own)
    assert read(tmp_path, {}).evm_key_command == ("pass", "show", "x402")


def test_two_keys_for_one_chain_are_refused(tmp_path: Path) -> None:
    sources = WalletSources(environ={}, home=tmp_path, evm_key_file=tmp_path / "key", evm_key_command=("pass",))
    with pytest.raises(WalletError, match="x402_evm_key_file and x402_evm_key_command: name one"):
        load_wallets(sources)


class Ring(KeyringBackend):
    priority = 1

    def get_password(self, service: str, username: str) -> str | None:
        return KEY if (service, username) == ("mine", "evm") else None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError


def test_the_keyring(tmp_path: Path) -> None:
    before = keyring.get_keyring()
    keyring.set_keyring(Ring())
    try:
        wallets = load(tmp_path, service="mine")
        assert wallets.evm is not None
        assert (wallets.evm.address, wallets.evm.source) == (ADDRESS, "keyring mine/evm")
        assert wallets.svm is None
        assert load(tmp_path, service="other").evm is None
    finally:
        keyring.set_keyring(before)
