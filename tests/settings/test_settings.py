"""Settings: what a user writes becomes exactly what is meant, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.protocol.amounts import format_usd
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.settings.options import OPTIONS, Option
from mitmproxy_x402.settings.settings import FILE_KEYS, read_settings
from mitmproxy_x402.settings.suggest import is_like_ours, unknown_options, unread_variables
from mitmproxy_x402.settings.values import is_loopback
from support.configurations import read, refusal


def test_nothing_said_gives_the_protecting_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert settings.max_request == 1_000_000
    assert settings.preference == ()
    assert settings.forward_auth is False
    assert settings.max_validity == 600
    assert settings.rpc_timeout == 3.0
    assert settings.solana_rpc == ("https://sol.blockrun.ai/api/v1/solana/rpc",)
    assert settings.client_token is None
    assert settings.allow_origins == ()
    assert settings.file is None
    assert [row.caip2 for row in settings.networks] == [row.caip2 for row in BUILT_IN]


def test_every_option_is_text_unset_by_default_and_documented() -> None:
    for option in OPTIONS:
        assert option.name.startswith("x402_")
        assert option.default == ""
        assert option.help.endswith(".")
        assert "Default: " in option.help or "one of" in option.help


def test_every_file_key_is_an_option_or_a_table() -> None:
    tables = {"network", "asset", "limit"}
    assert set(FILE_KEYS) == {option.key for option in OPTIONS if option.key != "config"} | tables


@pytest.mark.parametrize(
    ("text", "micro"),
    [("1", 1_000_000), ("0", 0), ("0.25", 250_000), ("0.000001", 1), ("007.5", 7_500_000), (" 2 ", 2_000_000)],
)
def test_amounts_are_decimal_dollars(tmp_path: Path, text: str, micro: int) -> None:
    assert read(tmp_path, max_request=text).max_request == micro


@pytest.mark.parametrize(
    "text",
    ["-1", "+1", "1e3", "NaN", "inf", "1.", ".5", "0.0000001", "1,5", "1_000", "$1",
     "1 USDC", "\u0661", "\uff11", "1000000.000001", "9" * 40, "0x10"],
)  # fmt: skip
def test_anything_else_is_no_amount(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, max_request=text)
    assert message.startswith(f"x402_max_request = {text!r}"[:40])
    assert "expected dollars such as 1 or 0.25" in message


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 4 << 20), ("0", 0), ("1", 1), ("512k", 512 << 10), ("2M", 2 << 20), ("1mb", 1 << 20), ("1g", 1 << 30)],
)
def test_sizes(tmp_path: Path, text: str, count: int) -> None:
    assert read(tmp_path, view_limit=text).view_limit == count


@pytest.mark.parametrize("text", ["-1", "1.5m", "4 m", "1025m", "2g", "m", "0x10", "9" * 11])
def test_anything_else_is_no_size(tmp_path: Path, text: str) -> None:
    assert "expected a number of bytes such as 4m" in refusal(tmp_path, view_limit=text)


def test_amounts_in_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, 'max_request = "0.5"').max_request == 500_000
    assert read(tmp_path, "max_request = 2").max_request == 2_000_000
    assert 'max_request = 0.5: write the amount in quotes, as in "0.5"' in refusal(tmp_path, "max_request = 0.5")
    assert "max_request = True: expected dollars" in refusal(tmp_path, "max_request = true")
    assert "max_request = [1]: expected dollars" in refusal(tmp_path, "max_request = [1]")
    assert "max_request = -1: expected dollars" in refusal(tmp_path, "max_request = -1")


@hypothesis_given(st.integers(min_value=0, max_value=10**12))
def test_an_amount_that_was_shown_reads_back(micro: int) -> None:
    here = Path("/nonexistent")
    options = {"x402_max_request": format_usd(micro)}
    assert read_settings(options, {}, cwd=here, home=here).max_request == micro


@pytest.mark.parametrize(
    ("micro", "text"), [(13081, "0.013081"), (1_000_000, "1"), (250_000, "0.25"), (0, "0"), (-1, "-0.000001")]
)
def test_format_usd(micro: int, text: str) -> None:
    assert format_usd(micro) == text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what mitmproxy's filters call
@hypothesis_given(st.sampled_from([option.name for option in OPTIONS]), st.text(max_size=40))
def test_no_text_whatever_escapes_as_another_error(name: str, text: str) -> None:
    here = Path("/nonexistent")
    message = ""
    try:
        read_settings({name: text}, {}, cwd=here, home=here)
    except SettingsError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_an_option_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = 'solana_rpc = "https://file.example"\nclient_token = "token-of-the-file"\nmax_request = "3"'
    environ = {"SOLANA_RPC_URL": "https://environ.example", "X402_CLIENT_TOKEN": "token-of-environ"}
    settings = read(tmp_path, file)
    assert (settings.solana_rpc, settings.client_token) == (("https://file.example",), "token-of-the-file")
    settings = read(tmp_path, environ=environ)
    assert (settings.solana_rpc, settings.client_token) == (("https://environ.example",), "token-of-environ")
    options = {"solana_rpc": "https://option.example", "client_token": "token-of-the-option", "max_request": "4"}
    settings = read(tmp_path, environ=environ, **options)
    assert (settings.solana_rpc, settings.client_token) == (("https://option.example",), "token-of-the-option")
    assert settings.max_request == 4_000_000


def test_empty_text_is_not_set(tmp_path: Path) -> None:
    settings = read(tmp_path, 'max_request = "3"\nnetworks = ""', environ={"X402_CLIENT_TOKEN": " "}, max_request="")
    assert settings.max_request == 3_000_000
    assert settings.client_token is None


class TestFile:
    def test_the_places_in_their_order(self, tmp_path: Path) -> None:
        def put(path: Path, amount: int) -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"max_request = {amount}")
            return path

        def found(environ: dict[str, str], **options: str) -> Path | None:
            return read(tmp_path, environ=environ, **options).file

        home_file = put(tmp_path / "home/.config/mitmproxy-x402/x402.toml", 4)
        assert found({}) == home_file
        xdg_file = put(tmp_path / "xdg/mitmproxy-x402/x402.toml", 5)
        assert found({"XDG_CONFIG_HOME": str(tmp_path / "xdg")}) == xdg_file
        assert found({"XDG_CONFIG_HOME": "relative"}) == home_file
        here = put(tmp_path / "x402.toml", 3)
        assert found({}) == here
        named = put(tmp_path / "home/named.toml", 2)
        assert found({"X402_CONFIG": "~/named.toml"}) == named
        assert found({"X402_CONFIG": "~/named.toml"}, config="x402.toml") == here

    def test_a_named_file_must_exist(self, tmp_path: Path) -> None:
        for message in (refusal(tmp_path, config="no.toml"), refusal(tmp_path, environ={"X402_CONFIG": "no.toml"})):
            assert f"{tmp_path}/no.toml" in message
            assert "cannot be read: No such file or directory" in message

    def test_a_directory_and_a_binary_and_a_broken_file(self, tmp_path: Path) -> None:
        assert "cannot be read: it is a folder" in refusal(tmp_path, config=str(tmp_path))
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        assert "is not UTF-8 text" in refusal(tmp_path, config="binary")
        (tmp_path / "large").write_bytes(b"#" * (1 << 20) + b"#")
        assert "larger than" in refusal(tmp_path, config="large")
        message = refusal(tmp_path, "max_request = \n")
        assert message.startswith(f"{tmp_path}/x402.toml: not valid TOML: ")
        assert "line 1" in message

    def test_an_unknown_key_names_the_nearest_and_never_its_value(self, tmp_path: Path) -> None:
        assert "'max_reqest' is no key here; did you mean max_request?" in refusal(tmp_path, 'max_reqest = "1"')
        assert "did you mean max_request?" in refusal(tmp_path, "x402_max_request = 1")
        message = refusal(tmp_path, 'zzz = "0xsecret"')
        assert "known are max_request, networks" in message
        assert "secret" not in message

    def test_the_configuration_cannot_name_another_file(self, tmp_path: Path) -> None:
        assert "'config' is no key here" in refusal(tmp_path, 'config = "other.toml"')

    def test_paths_start_where_they_were_written(self, tmp_path: Path) -> None:
        sub = tmp_path / "etc"
        sub.mkdir()
        (sub / "x402.toml").write_text('evm_key_file = "evm.key"\nsolana_key_file = "~/sol.json"\nkeystore = "/k.json"')
        settings = read(tmp_path, config="etc/x402.toml", keystore_password_file="password")
        assert settings.evm_key_file == sub / "evm.key"
        assert settings.svm_key_file == tmp_path / "home/sol.json"
        assert settings.keystore == Path("/k.json")
        assert settings.keystore_password_file == tmp_path / "password"


@pytest.mark.parametrize("text", ["true", "on", "Yes", "1"])
def test_a_switch_on(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, forward_auth=text).forward_auth is True


def test_a_switch_in_the_file_and_a_wrong_one(tmp_path: Path) -> None:
    assert read(tmp_path, "forward_auth = true").forward_auth is True
    assert read(tmp_path, "forward_auth = true", forward_auth="off").forward_auth is False
    assert refusal(tmp_path, forward_auth="maybe") == "x402_forward_auth = 'maybe': expected true or false"


def test_whole_numbers_and_seconds_have_bounds(tmp_path: Path) -> None:
    assert read(tmp_path, "max_validity = 60\nrpc_timeout = 0.5").max_validity == 60
    assert read(tmp_path).rpc_timeout == 0.5
    for value in ("29", "86401", "60.5", "-60", "1e3", "\u0663\u0660"):
        assert "whole number of seconds from 30 to 86400" in refusal(tmp_path, max_validity=value)
    for value in ("0", "0.01", "61", "nan", "inf", "3s"):
        assert "expected seconds from 0.1 to 60" in refusal(tmp_path, rpc_timeout=value)
    assert "expected seconds from 0.1 to 60" in refusal(tmp_path, "rpc_timeout = nan")
    assert "expected seconds from 0.1 to 60" in refusal(tmp_path, "rpc_timeout = true")


class TestClientToken:
    TOKEN = "a-token-of-mine"

    def test_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text(f"{self.TOKEN}\n")
        file.chmod(0o600)
        settings = read(tmp_path, client_token_file="token")
        assert settings.client_token == self.TOKEN
        assert self.TOKEN not in repr(settings)

    def test_a_file_that_others_can_read_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text(self.TOKEN)
        file.chmod(0o644)
        assert refusal(tmp_path, client_token_file="token").endswith(f"Run: chmod 600 {file}")
        toml = tmp_path / "x402.toml"
        toml.write_text(f'client_token = "{self.TOKEN}"\n')
        toml.chmod(0o644)
        assert refusal(tmp_path).endswith(f"Run: chmod 600 {toml}")
        toml.chmod(0o600)
        assert read(tmp_path).client_token == self.TOKEN

    def test_two_at_one_place_are_refused(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, client_token=self.TOKEN, client_token_file="token")
        assert message == "x402_client_token_file: x402_client_token is set as well; keep one"

    @pytest.mark.parametrize("bad", ["short", "with a space", "n\u00f6n-ascii-token", "x" * 513])
    def test_a_token_that_cannot_travel_is_refused_unseen(self, tmp_path: Path, bad: str) -> None:
        message = refusal(tmp_path, client_token=bad)
        assert message == "x402_client_token: expected 8 to 512 printable ASCII characters without spaces"

    def test_an_empty_or_missing_file(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("\n")
        (tmp_path / "token").chmod(0o600)
        assert "expected 8 to 512" in refusal(tmp_path, client_token_file="token")
        assert "cannot be read: No such file" in refusal(tmp_path, client_token_file="other")


@pytest.mark.parametrize("key", ["evm_key_file", "solana_key_file", "keystore", "client_token_file"])
@pytest.mark.parametrize("secret", ["0x" + "ab" * 32, "ab" * 32, "5" * 88, "[1, 2, 3]"])
def test_a_key_in_place_of_a_path_is_refused_unseen(tmp_path: Path, key: str, secret: str) -> None:
    message = refusal(tmp_path, **{key: secret})
    assert "keys go into a file" in message
    assert secret not in message


class TestOrigins:
    def test_as_browsers_spell_them(self, tmp_path: Path) -> None:
        text = "HTTP://LocalHost:3000, https://chat.example:443, http://[::1]:80, app://obsidian.md"
        expected = ("http://localhost:3000", "https://chat.example", "http://[::1]", "app://obsidian.md")
        assert read(tmp_path, allow_origins=text).allow_origins == expected

    @pytest.mark.parametrize(
        "text",
        [
            "*",
            "chat.example",
            "https://a/",
            "https://a/b",
            "https://*.a",
            "https://u@a",
            "https://a:x",
            "https://:1",
            "https://[",
        ],
    )
    def test_anything_else_is_refused(self, tmp_path: Path, text: str) -> None:
        assert "expected an origin such as" in refusal(tmp_path, allow_origins=text)


def test_origins_that_any_page_can_have(tmp_path: Path) -> None:
    for text in ("null", "file://", "FILE:///x.html"):
        assert "serve the page from http://localhost:PORT" in refusal(tmp_path, allow_origins=text)


def test_unknown_options_are_named_with_the_nearest() -> None:
    assert unknown_options([]) is None
    sentence = unknown_options(["x402_max_requst", "x402-networks", "listn_port", "other"], ["listen_port"])
    assert sentence is not None
    assert "no option 'x402_max_requst'; did you mean x402_max_request?" in sentence
    assert "no option 'x402-networks'; did you mean x402_networks?" in sentence
    assert "no option 'listn_port'; did you mean listen_port?" in sentence
    assert "no option 'other'; those of x402 begin with x402_" in sentence


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_name_without_its_prefix_or_with_a_slip_is_taken_for_ours(option: Option) -> None:
    swapped = option.key[:-2] + option.key[-1] + option.key[-2]
    for name in (option.key, option.key.upper(), option.key.replace("_", "-"), swapped, f"x420_{option.key}"):
        assert is_like_ours(name), name
        assert f"did you mean {option.name}?" in (unknown_options([name]) or ""), name


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if not option.variable], ids=lambda option: option.name
)
def test_a_variable_that_names_an_option_is_not_forgotten(option: Option, tmp_path: Path) -> None:
    empty = {option.name: "" for option in OPTIONS}
    with pytest.raises(SettingsError, match=f"{option.name.upper()} is not read: use --set {option.name}="):
        read_settings(empty, {option.name.upper(): "1"}, cwd=tmp_path, home=tmp_path)
    read_settings(empty, {option.name.upper(): ""}, cwd=tmp_path, home=tmp_path)


def test_variables_of_ours_and_of_others_are_left_alone() -> None:
    ours = ["X402_UPSTREAM", "X402_KEYSTORE_PASSWORD", "X402_PROGRAM", "X402_PYTHON", "X402_VENV", "X402_BROWSER"]
    assert unread_variables([*ours, *(option.variable for option in OPTIONS), "X402_PRIVATE_KEY", "BUDGET"]) is None
    assert "did you mean X402_LEDGER?" in (unread_variables(["X402_LEDGR"]) or "")


def test_options_of_other_addons_are_not_taken_for_ours() -> None:
    for name in ("mapping_file", "slack_webhook", "record_to", "rewrite_host", "delay", "verbosity"):
        assert not is_like_ours(name), name


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("LOCALHOST", True),
        ("127.0.0.1.evil.example", False),
        ("127.999.1.1", False),
        ("localhost.evil.example", False),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("", False),
    ],
)
def test_is_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer
