"""Files that decide on money are their owner's alone, and so are the folders on the way to them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.errors import SettingsError, WalletError, X402Error
from mitmproxy_x402.ledger.interface import LedgerError
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.machine import private_files
from mitmproxy_x402.machine.private_files import objection
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


def wallets(home: Path, **files: Path) -> sources.Wallets:
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
        secret = name in ("default key", "key file", "token")
        (home / file).chmod(0o755 if (home / file).is_dir() else 0o600 if secret else 0o644)
        use(home)


SECRET = ("default key", "key file", "password", "token")


@pytest.mark.parametrize(("file", "kind", "use"), [USES[name] for name in SECRET], ids=SECRET)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
def test_a_secret_that_others_can_read_is_refused(
    home: Path, file: str, kind: type[X402Error], use: Callable[[Path], object], mode: int
) -> None:
    (home / file).chmod(mode)
    with pytest.raises(kind, match=f"Run: chmod 600 {home / file}$"):
        use(home)


FILES = [name for name in USES if name not in ("dump", "ledger")]


@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_what_stands_beside_the_ledger_is_a_file(home: Path, suffix: str, is_new: bool) -> None:
    place = home / "ledgers" / "other.sqlite3"
    if not is_new:
        place.touch(0o600)
    os.mkfifo(f"{place}{suffix}", 0o600)
    with pytest.raises(LedgerError, match=f"other.sqlite3{suffix} is not a regular file"):
        SqliteLedger(place)
    assert place.exists() is not is_new


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_nobody_else_can_change_what_stands_beside_the_ledger(home: Path, suffix: str) -> None:
    beside = home / f"{LEDGER}{suffix}"
    beside.touch()
    beside.chmod(0o666)
    with pytest.raises(LedgerError, match=f"{beside} can be changed by other users of this machine. Run: chmod go-w"):
        SqliteLedger(home / LEDGER)


@pytest.mark.parametrize("shape", ["pipe", "device", "endless", "socket", "folder", "huge"])
@pytest.mark.parametrize(("file", "kind", "use"), [USES[name] for name in FILES], ids=FILES)
def test_what_is_no_regular_file_holds_no_start_up(
    home: Path, file: str, kind: type[X402Error], use: Callable[[Path], object], shape: str
) -> None:
    """A pipe that nobody writes to, above all: to open it would take for ever."""
    place = home / file
    place.unlink()
    said = "and no regular file"
    if shape == "pipe":
        os.mkfifo(place, 0o600)
    elif shape == "folder":
        place.mkdir()
    elif shape == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            folder = os.open(place.parent, os.O_RDONLY)
            listening.bind(f"/proc/self/fd/{folder}/{place.name}")  # a path may have 108 bytes
            os.close(folder)
    elif shape == "huge":
        place.touch(0o600)
        os.truncate(place, 1 << 40)
        said = "is larger than"
    else:
        place.symlink_to({"device": "/dev/null", "endless": "/dev/zero"}[shape])
    with pytest.raises(kind, match=said):
        use(home)


@pytest.mark.parametrize("shape", ["pipe", "file"])
def test_recordings_go_into_a_folder(home: Path, shape: str) -> None:
    (home / "dump").rmdir()
    os.mkfifo(home / "dump") if shape == "pipe" else (home / "dump").touch()
    with pytest.raises(SettingsError, match="expected a folder"):
        USES["dump"][2](home)


@pytest.mark.parametrize("name", ["dump", "ledger"])
def test_nobody_else_may_make_files_beside_ours(home: Path, name: str) -> None:
    """The sticky bit keeps others from removing files, not from making those that we are about to make."""
    file, kind, use = USES[name]
    folder = home / file if name == "dump" else (home / file).parent
    folder.chmod(0o1777)
    with pytest.raises(kind, match=f"other users of this machine can make files in {folder}"):
        use(home)


@pytest.mark.parametrize("owner", [0, 54321])
def test_secrets_that_a_container_is_given(home: Path, monkeypatch: pytest.MonkeyPatch, owner: int) -> None:
    """As Kubernetes mounts them: root's, readable by all, behind links."""
    mounted = home / "run" / "secrets"
    (mounted / "..2026").mkdir(parents=True)
    (mounted / "..2026" / "key").write_text("22" * 32)
    (mounted / "..2026" / "key").chmod(0o444)
    (mounted / "..data").symlink_to("..2026")
    (mounted / "key").symlink_to("..data/key")
    monkeypatch.setattr(private_files.os, "geteuid", lambda: owner)
    monkeypatch.setattr(private_files.os, "lstat", _owned_by_root(os.lstat))
    monkeypatch.setattr(Path, "stat", _owned_by_root(Path.stat))
    assert "other users of this machine can read it" in str(private_files.exposure(mounted / "key"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(mounted))
    assert private_files.exposure(mounted / "key") is None
    assert wallets(home, evm_key_file=mounted / "key").evm is not None


def _owned_by_root(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    def stat(*arguments: Any, **options: Any) -> os.stat_result:
        status = real(*arguments, **options)
        return os.stat_result((*status[:4], 0, *status[5:]))

    return stat


def test_a_folder_such_as_tmp_is_fine_on_the_way(home: Path) -> None:
    home.parent.chmod(0o1777)
    assert objection(home / "key") is None
    assert objection(home / "new" / "file") is None


@pytest.mark.parametrize("shape", ["link in an open folder", "folder behind a link in an open folder", "loop"])
def test_each_link_on_the_way_is_looked_at(home: Path, tmp_path: Path, shape: str) -> None:
    """Who can replace it can choose another of the user's files."""
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    (home / "real").mkdir()
    (home / "real" / "key").write_text("")
    if shape == "loop":
        (home / "one").symlink_to(home / "two")
        (home / "two").symlink_to(home / "one" / "x")
        assert objection(home / "one") is None, "opening it reports the error"
        return
    middle, first = open_to_all / "middle", home / "first"
    is_file = shape == "link in an open folder"
    middle.symlink_to(home / "real" / "key" if is_file else home / "real")
    first.symlink_to(middle)
    wanted = first if is_file else first / "key"
    assert objection(wanted) is None
    open_to_all.chmod(0o777)
    assert f"chmod go-w {open_to_all}" in str(objection(wanted))


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
