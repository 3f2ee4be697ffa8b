"""The guard's rules without a proxy: whom it lets in, and what it takes for a credential."""

from __future__ import annotations

import itertools

import pytest
from mitmproxy.test import tutils

from mitmproxy_x402.hooks import guard
from mitmproxy_x402.recording.redact import Redactor
from support.paying.spenders import TOKEN, caller, settings


def test_names_that_the_user_lets_through() -> None:
    asked = tutils.treq(path=b"/a?sig=1&hash_key=2&key=3", headers=((b"X-Api-Key", b"4"), (b"x-hash-key", b"5")))
    gone = guard.strip_credentials(asked, settings(forward_names="sig, Hash_Key,X-Hash-Key"))
    assert (asked.data.path, asked.headers.fields, gone) == (
        b"/a?sig=1&hash_key=2",
        ((b"x-hash-key", b"5"),),
        (b"key",),
    )


@pytest.mark.parametrize(
    "value",
    [
        *("Basic plan", "task-0123456789abcdefghij", "sk-learn-2-tutorial-for-beginners", "0x" + "ab" * 32, "sk-SK"),
        *("req_011CSHoEeqs5C35K2UUqR7Fy", "OpenAI/Python 1.99.0", "eyJ4NDAyVmVyc2lvbiI6Mn0="),
        "00-4bf92f3577b34da6a3ce929d0e0e4736-01",
    ],
)
def test_what_is_no_key_goes_upstream(value: str) -> None:
    path = f"/a?x={value}".replace(" ", "+").encode()
    asked = tutils.treq(path=path, headers=((b"X-One", value.encode()),))
    assert guard.strip_credentials(asked, settings()) == ()
    assert (asked.data.path, asked.headers["x-one"]) == (path, value)


@pytest.mark.parametrize("options", [{}, {"forward_names": "x-trace,cookie"}, {"client_token": TOKEN}])
def test_what_was_seen_before_is_judged_as_it_was_at_first(options: dict[str, str]) -> None:
    """Fields that people may see are known from then on, and not looked at again: none of them may be a credential."""
    redactor = Redactor(options.get("client_token"))
    key = b"sk-ant-api03-aA0" + b"b" * 20
    names = [b"X-Trace", b"Referer", b"Location", b"Authorization", b"Cookie", b"Payment-Signature", b"X-Sig", key]
    page = b"https://a.test/"
    long_query = page + b"?" + b"&".join([b"a=1"] * 150)
    values = [
        b"1",
        b"Bearer x",
        b"L402 x",
        key,
        page,
        page + b"?key=" + key,
        page + b"?a=1",
        long_query,
        TOKEN.encode(),
    ]
    for field in itertools.product(names, values):
        kept = []
        for is_known in (lambda _: False, redactor.knows, redactor.knows):
            asked = tutils.treq(headers=(field,))
            guard.strip_credentials(asked, settings(**options), is_known=is_known)
            kept.append(asked.headers.fields)
            redactor.shown((field,))
        assert kept == [kept[0]] * 3
    assert redactor.knows((b"X-Trace", b"1"))


@pytest.mark.parametrize("peer", ["192.168.1.7", "10.0.0.1", "fe80::1", ""])
def test_other_machines_need_a_token(peer: str) -> None:
    asked = tutils.treq(headers=((b"host", b"10.0.0.2"),))
    denial = guard.examine(asked, caller(peer, "10.0.0.2"), settings())
    assert denial is not None
    assert (denial.status, denial.code) == (403, "client_token_required")
    assert "X402_CLIENT_TOKEN" in denial.message
    asked.headers["authorization"] = f"Bearer {TOKEN}"
    assert guard.examine(asked, caller(peer, "10.0.0.2"), settings(client_token=TOKEN)) is None


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_this_machine_needs_none(peer: str) -> None:
    assert guard.examine(tutils.treq(), caller(peer), settings()) is None


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("LOCALHOST:4402", True),
        ("127.0.0.1:4402", True),
        ("127.1.2.255", True),
        ("[::1]:4402", True),
        ("api.localhost:4402", False),
        ("localhost.:4402", False),
        ("127.0.0.1:4403", False),
        ("127.0.0.256:4402", False),
        ("127.0.0.1:4402\n", False),
        ("127.0.0.1:\x00", False),
        ("127.0.0.1, 127.0.0.1", True),  # twice, as clients send it that write one beside their library's
        ("127.0.0.1:4402, localhost", True),
        ("127.0.0.1, evil.example", False),
        ("evil.example, 127.0.0.1", False),
        ("127.0.0.1,", False),
        (",", False),
        ("192.168.1.2", False),
        ("0.0.0.0:4402", False),
        ("[::]:4402", False),
        ("[::ffff:127.0.0.1]:4402", False),
        ("[::ffff:7f00:1]:4402", False),
        ("127.1:4402", False),
        ("[::1]", True),
        ("", False),
        (None, False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example:80", False),
        ("evil.example:127", False),
    ],
)
def test_names_that_nobody_else_can_point_here(host: str | None, own: bool) -> None:
    denial = guard.examine(tutils.treq(headers=()), caller(host=host), settings())
    assert (denial is None) is own


def test_without_query_keys_a_path_stays_as_it_is() -> None:
    for path in (b"/a?b=c&monkey=1&=%zz", b"/a?", b"/a", b"/a?&&", b"/?keys=1"):
        asked = tutils.treq(path=path, headers=())
        guard.strip_credentials(asked, settings())
        assert asked.data.path == path


@pytest.mark.parametrize(
    "secret", [TOKEN, "sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789", "Bearer%20abcdefghijklmnopqrstuvwx0"]
)
def test_a_secret_that_stands_where_a_name_should_is_not_logged(secret: str) -> None:
    """The log names the parameters that were taken off."""
    asked = tutils.treq(path=f"/v1/x?{secret}&a=1".encode())
    gone = guard.strip_credentials(asked, settings(client_token=TOKEN))
    assert (asked.path, gone) == ("/v1/x?a=1", (b"(a value without a name)",))


@pytest.mark.parametrize(
    "name", ["sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789", "X-Api-Key-V2", "api_key_id", "OAuth"]
)
def test_names_that_are_keys_or_say_so(name: str) -> None:
    asked = tutils.treq(path=f"/v1/x?{name}=1&a=1".encode())
    asked.headers[name] = "1"
    guard.strip_credentials(asked, settings())
    assert asked.path == "/v1/x?a=1"
    assert name not in asked.headers
