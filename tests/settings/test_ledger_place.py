"""Where the ledger is: which texts are a database, what is shown of them, and what the user is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.settings.ledger_place import PostgresUrl, ledger_place
from mitmproxy_x402.settings.settings import Settings, read_settings
from mitmproxy_x402.settings.values import Given

SECRET = "the-s3cret"


def read(folder: Path, option: str = "", variable: str = "", file: str = "", **environ: str) -> Settings:
    if file:
        (folder / "x402.toml").write_text(f'ledger = "{file}"\n')
    return read_settings({"x402_ledger": option}, {"X402_LEDGER": variable, **environ}, cwd=folder, home=folder)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://x402@db.example/x402", "postgresql://x402@db.example/x402"),
        (
            "postgres://x402:the-s3cret@db.example:5433/x402?sslmode=verify-full",
            "postgresql://x402@db.example:5433/x402",
        ),
        ("postgresql://u%40v:the-s3cret@h/d%2F1", "postgresql://u%40v@h/d%2F1"),
        ("postgresql://h1:5432,h2:5433/d?target_session_attrs=any", "postgresql://h1:5432,h2:5433/d"),
        ("postgresql://[::1]:5432/d", "postgresql://[::1]:5432/d"),
        ("postgresql:///d?host=/run/postgresql&user=u&password=the-s3cret", "postgresql://u@%2Frun%2Fpostgresql/d"),
        ("postgresql://?dbname=d&port=5433&host=a,b", "postgresql://a,b:5433/d"),
        ("postgresql://u@%2Frun%2Fpostgresql/d", "postgresql://u@%2Frun%2Fpostgresql/d"),
        ("postgresql:///", "postgresql:///"),
    ],
)
def test_a_database_is_shown_without_secrets(tmp_path: Path, url: str, shown: str) -> None:
    for settings in (read(tmp_path, url), read(tmp_path, variable=url), read(tmp_path, file=url)):
        assert settings.ledger == PostgresUrl(url)
        assert str(settings.ledger) == shown
        assert SECRET not in repr(settings) + " ".join(settings.warnings)


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresq://u:the-s3cret@h/d",
        "mysql://u:the-s3cret@h/d",
        "https://u:the-s3cret@h/d",
        "postgresql://u:the-s3cret@with@h/d",
        "postgresql://u:the-s3cret/with@h/d",
        "postgresql://u:1/the-s3cret@h/d",
        "postgresql://u:the-s3cret#with@h/d",
        "postgresql://u:the-s3cret?with@h/d",
        "postgresql://u:the-s3cret%zz@h/d",
        "postgresql://u:the-s3cret%00@h/d",
        "postgresql://u:the-s3cret@h:port/d",
        "postgresql://u:the-s3cret@h/d?the-s3cret",
        "postgresql://u:the-s3cret @h/d",
        "postgresql://u:the-s3crét@h/d",
    ],
)
def test_what_is_none_is_not_shown(tmp_path: Path, wrong: str) -> None:
    for where in ("option", "variable", "file"):
        with pytest.raises(SettingsError, match="expected the path of a file, or postgresql://") as caught:
            read(tmp_path, **{where: wrong})
        assert "s3cr" not in str(caught.value)


@given(st.text(alphabet="ab:@/?#%[],.=&0-~ \n", max_size=40))
def test_any_text_is_a_place_or_a_refusal(text: str) -> None:
    """And its user, hosts and database are all that is shown of it."""
    try:
        place = ledger_place(Given("here", f"postgresql://{text}", Path("/"), Path("/")))
    except SettingsError:
        return
    assert isinstance(place, PostgresUrl)
    assert str(place).startswith("postgresql://")
    assert isinstance(place.hosts, tuple)
    for secret in place.secrets:
        assert f":{secret}@" not in str(place)


def test_a_text_of_hosts_is_read_in_no_time() -> None:
    with pytest.raises(SettingsError):
        ledger_place(Given("here", f"postgresql://{'a' * 50_000}!", Path("/"), Path("/")))


def test_the_environment_is_the_place_for_a_password(tmp_path: Path) -> None:
    url = "postgresql://u:the-s3cret@127.0.0.1/d"
    (warning,) = read(tmp_path, url).warnings
    assert "X402_LEDGER" in warning
    assert read(tmp_path, variable=url).warnings == ()
    assert read(tmp_path, "postgresql://u@127.0.0.1/d").warnings == ()


def test_a_connection_over_a_network_should_be_verified(tmp_path: Path) -> None:
    (warning,) = read(tmp_path, "postgresql://u@db.example,127.0.0.1/d").warnings
    assert "on db.example is not verified: add ?sslmode=verify-full" in warning
    for good in (
        "u@db.example/d?sslmode=verify-full",
        "u@db.example/d?sslmode=disable",
        "u@localhost/d",
        "/d?host=/run",
    ):
        assert read(tmp_path, f"postgresql://{good}").warnings == ()
    assert read(tmp_path, "postgresql://u@db.example/d", PGSSLMODE="verify-full").warnings == ()
    assert read(tmp_path, "a-file").warnings == ()
