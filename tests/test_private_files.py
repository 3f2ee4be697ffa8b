"""Files that decide on money are their owner's alone, and so are the folders on the way to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mitmproxy_x402 import private_files
from mitmproxy_x402.errors import SettingsError, WalletError, X402Error
from mitmproxy_x402.ledger.interface import LedgerError
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.private_files import objection
from mitmproxy_x402.recording.plan import make_plan
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet import sources


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with all of them, two folders deep."""
    home = tmp_path / "home" / "user"
    for folder in (".blockrun", ".config/mitmproxy-x402", "ledgers", "dump"):
        (home / folder).mkdir(parents=True, mode=0o700)
    for file, text in (
        (".blockrun/.session", "11" * 32),
        (".config/mitmproxy-x402/x402.toml", 'max_request = "0.5"\n'),
        ("token", "a-client-token\n"),
        ("key", "22" * 32),
        ("keystore", "{}"),
        ("password", "secret\n"),
    ):
        (home / file).write_text(text)
        (home / file).chmod(0o600)
    SqliteLedger(home / "ledgers" / "ledger.sqlite3").close()
    return home


def settings(home: Path, **options: object) -> object:
    named = {f"x402_{key}": str(value) for key, value in options.items()}
    return read_settings(named, {}, cwd=home, home=home)


def wallets(home: Path, **files: Path) -> object:
    return sources.load_wallets(sources.WalletSources({}, home, **files))


LEDGER = "ledgers/ledger.sqlite3"
USES: dict[str, tuple[str, type[X402Error], Callable[[Path], object]]] = {
    "x402.toml": (".config/mitmproxy-x402/x402.toml", SettingsError, settings),
    "default key": (".blockrun/.session", WalletError, wallets),
    "key file": ("key", WalletError, lambda home: wallets(home, evm_key_file=home / "key")),
    "keystore": (
        "keystore",
        WalletError,
        lambda home: wallets(home, keystore=home / "keystore", keystore_password_file=home / "password"),
    ),
    "password": (
        "password",
        WalletError,
        lambda home: wallets(home, keystore=home / "keystore", keystore_password_file=home / "password"),
    ),
    "token": ("token", SettingsError, lambda home: settings(home, client_token_file=home / "token")),
    "ledger": (LEDGER, LedgerError, lambda home: SqliteLedger(home / LEDGER).close()),
    "dump": ("dump", SettingsError, lambda home: make_plan(read_settings(
        {"x402_dump": str(home / "dump")}, {}, cwd=home, home=home))),
}  # fmt: skip


@pytest.mark.parametrize(("file", "kind", "use"), USES.values(), ids=USES)
@pytest.mark.parametrize("spoilt", ["file", "group", "folder", "folder above"])
def test_what_others_can_change_is_refused(
    home: Path, file: str, kind: type[X402Error], use: Callable[[Path], object], spoilt: str
) -> None:
    place = home / file
    if spoilt.startswith("folder"):
        place = home if spoilt == "folder" else home.parent
    place.chmod(0o770 if spoilt == "group" else 0o777)
    if spoilt == "group":
        os.chown(place, os.geteuid(), other_group())
    with pytest.raises(kind, match=f"Run: chmod go-w {place}$"):
        use(home)


@pytest.mark.parametrize(("file", "kind", "use"), USES.values(), ids=USES)
def test_what_belongs_to_another_user_is_refused(
    home: Path, file: str, kind: type[X402Error], use: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = os.lstat

    def elsewhere(place: str | Path) -> os.stat_result:  # only root can give files away
        status = lstat(place)
        if str(place) != str(home / file):
            return status
        return os.stat_result((*status[:4], 54321, *status[5:]))

    monkeypatch.setattr(private_files.os, "lstat", elsewhere)
    with pytest.raises(kind, match=f"{home / file} belongs to another user .*chown .* {home / file}$"):
        use(home)


def other_group() -> int:
    """A group with other members, or that nobody knows."""
    return 54321 if os.geteuid() == 0 else os.getgid()


def test_what_nobody_else_can_change_is_fine(home: Path) -> None:
    for name, (file, _, use) in USES.items():
        if name in ("keystore", "password"):
            continue  # it is no keystore
        (home / file).chmod(0o755 if (home / file).is_dir() else 0o644)
        use(home)


def test_a_folder_such_as_tmp_is_fine_on_the_way(home: Path) -> None:
    home.parent.chmod(0o1777)
    assert objection(home / "key") is None
    assert objection(home / "new" / "file") is None


def test_links_are_looked_at_from_both_ends(home: Path, tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    link = open_to_all / "key"
    link.symlink_to(home / "key")
    assert objection(link) is None
    open_to_all.chmod(0o777)
    assert f"chmod go-w {open_to_all}" in str(objection(link))
    open_to_all.chmod(0o755)
    home.chmod(0o777)
    assert f"chmod go-w {home}" in str(objection(link))


def test_a_key_that_cannot_be_looked_at_is_a_message(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Path.stat

    def denied(self: Path, **options: bool) -> os.stat_result:  # root may look everywhere
        if self.name == ".session":
            raise PermissionError(13, "Permission denied")
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", denied)
    with pytest.raises(WalletError, match=r"\.session cannot be looked at: Permission denied"):
        wallets(home)
