"""Who may spend, asked of the real proxy with a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import challenges
from support.paying.spenders import TOKEN, error_of, sell
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Client, Message, Peer, Upstream, read_message, request


@pytest.fixture(scope="module", params=["", "token", "forward"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    arguments = {
        "": (),
        "token": ("--set", f"x402_client_token={TOKEN}"),
        "forward": ("--set", f"x402_client_token={TOKEN}", "--set", "x402_forward_auth=true"),
    }[request.param]
    with Upstream(sell) as upstream, Proxy(upstream.url, *arguments, home=tmp_path_factory.mktemp("home")) as proxy:
        rig = Rig(proxy, upstream)
        rig.mode = request.param
        yield rig


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    if "rig" in request.fixturenames:
        request.getfixturevalue("rig").script(sell)


def ask(rig: Rig, *headers: str, path: str = "/v1/x", token: bool = True) -> Message:
    mine = [f"Authorization: Bearer {TOKEN}"] if token and rig.mode else []
    with rig.client() as client:
        return client.ask(request("POST", path, b"{}", *mine, *headers))


def test_the_clients_credentials_stay_here(rig: Rig) -> None:
    answer = ask(
        rig,
        *("x-api-key: sk-1", "X-Goog-Api-Key: sk-2", "Cookie: a=b", "Proxy-Authorization: Basic x", "X-Other: stays"),
        path="/v1/x?alt=sse&key=sk-3&b=%20",
    )
    assert answer.body == b"ok"
    for sent in rig.upstream.requests:
        names = {name.lower() for name, _ in sent.fields}
        assert b"authorization" not in names  # without forward_auth, or because it is our own token
        assert TOKEN.encode() not in sent.head
        if rig.mode == "forward":
            assert sent.start == b"POST /v1/x?alt=sse&key=sk-3&b=%20 HTTP/1.1"
            assert {b"x-api-key", b"x-goog-api-key", b"cookie", b"x-other"} <= names
        else:
            assert sent.start == b"POST /v1/x?alt=sse&b=%20 HTTP/1.1"
            assert not names & {b"x-api-key", b"x-goog-api-key", b"cookie", b"proxy-authorization"}
            assert sent.get(b"x-other") == b"stays"
            assert b"sk-" not in sent.head


CREDENTIALS = (
    *(
        "api-key",
        "x-litellm-api-key",
        "Ocp-Apim-Subscription-Key",
        "helicone-auth",
        "cf-aig-authorization",
        "xi-api-key",
    ),
    *("X-Auth-Token", "apikey", "X-Access-Token", "Private-Token", "X-Amz-Security-Token", "x-portkey-virtual-key"),
    *("CF-Access-Client-Secret", "CF-Access-Jwt-Assertion", "X-RapidAPI-Key", "X-Subscription-Token", "DPoP"),
    *("X-Goog-IAM-Authorization-Token", "authentication", "x-password", "x-user-credentials", "X-Vault-Token"),
)
PARAMETERS = ("api_key", "api-key", "apiKey", "access_token", "subscription-key", "client_secret", "password", "k%65y")


def test_credentials_of_every_vendor_stay_here(rig: Rig) -> None:
    query = "&".join(f"{name}=sk-2" for name in PARAMETERS)
    headers = [f"{name}: sk-1" for name in CREDENTIALS]
    assert (
        ask(rig, *headers, "X-Mine: Bearer sk-3", "X-Other: sk-proj-0123456789ab", path=f"/v1/x?a=1&{query}").body
        == b"ok"
    )
    for sent in rig.upstream.requests:
        found = [name for name in (*CREDENTIALS, "X-Mine", "X-Other") if sent.get(name.encode()) is not None]
        if rig.mode == "forward":
            assert len(found) == len(CREDENTIALS) + 2
        else:
            assert found == []
            assert sent.start == b"POST /v1/x?a=1 HTTP/1.1"


ODD_PARAMETERS = (
    *("token=s3cr3t-of-mine", "x[key]=abc", "token[]=abc", "sig=abc", "signature=abc", "X-Amz-Signature=abc"),
    *("openaiApiKey=abc", "a=1;api_key=abc", "pass=abc", "apikeys=abc", "%78-api-key=abc"),
)
VALUES = {
    "OpenAI": "sk-proj-Ab12Cd",
    "DeepSeek": "sk-" + "0123456789abcdef" * 2,
    "Anthropic": "sk-ant-api03-Ab_c",
    "Google": "AIzaSy" + "A1b2C" * 7,
    "Groq": "gsk_" + "A1b2C3d4" * 6,
    "Hugging Face": "hf_" + "A1b2C3d4" * 4,
    "GitHub": "github_pat_11A_" + "A1b2C3d4" * 4,
    "Telegram": "1234567890:AA" + "A1b2C3d4" * 4,
    "a WebSocket of OpenAI's": "openai-insecure-api-key.0123456789abcdef",
    "JSON Web Token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_what_can_only_be_a_key_stays_here_whatever_its_name(rig: Rig, value: str) -> None:
    headers = (f"Sec-WebSocket-Protocol: realtime, x.{value}", f"Referer: http://h/?key={value}", f"X-One: {value}")
    headers += (f"X-Five: a, Bearer\t{value}", f"X-Six: Token {value}", f"X-Seven: Bearer\r\n {value}")
    headers += (f'X-Two: {{"k":"{value}"}}', f"X-Three: Bearer {value}", f"X-Four: a={value}")
    query = value.replace(":", "%3A")
    assert ask(rig, *headers, path=f"/v1/x?a=1&{query}&x={query}&y=Bearer+{query}&z=Bearer%20{query}&b=2").body == b"ok"
    for sent in rig.upstream.requests:
        assert (value.encode() in sent.head) is (rig.mode == "forward")
        if rig.mode != "forward":
            assert sent.start == b"POST /v1/x?a=1&b=2 HTTP/1.1"


def test_parameters_under_odd_names_stay_here(rig: Rig) -> None:
    if rig.mode == "forward":
        return
    assert ask(rig, path="/v1/x?b=2&" + "&".join(ODD_PARAMETERS)).body == b"ok"
    for sent in rig.upstream.requests:
        assert sent.start == b"POST /v1/x?b=2&a=1 HTTP/1.1"
    rig.proxy.wait_for(r"taken off the query, since it looks like a credential: token, x\[key\], token\[\], sig")


@pytest.mark.parametrize("where", ["X-Mine: {}", "X-Mine: a={}", "?mine={}", "?mine=a%20{}"])
def test_the_client_token_goes_nowhere_under_any_name(rig: Rig, where: str) -> None:
    if not rig.mode:
        return
    path = "/v1/x" + (where.format(TOKEN.replace("-", "%2D")) if where.startswith("?") else "")
    assert ask(rig, *(() if where.startswith("?") else (where.format(TOKEN),)), path=path).body == b"ok"
    for sent in rig.upstream.requests:
        assert b"mine" not in sent.head.lower()


def test_the_client_token_is_in_no_log_line(rig: Rig) -> None:
    if rig.mode:
        assert ask(rig, path=f"/t/{TOKEN}/v1/x?kept={TOKEN}").body == b"ok"
        rig.proxy.wait_for("taken off the query.*kept")
    assert TOKEN not in rig.proxy.log


HEADS = {
    "the method": ("{token} /v1/x HTTP/1.1", "Host: 127.0.0.1"),
    "the host of CONNECT": ("CONNECT {token}:443 HTTP/1.1", "Host: {token}:443"),
    "a part of the host of CONNECT": ("CONNECT a.{token}.example:443 HTTP/1.1", "Host: 127.0.0.1"),
    "the host, in capitals": ("CONNECT {TOKEN}:443 HTTP/1.1", "Host: 127.0.0.1"),
    "the host, encoded": ("GET http://{encoded}/v1/x HTTP/1.1", "Host: 127.0.0.1"),
    "the host of a URL": ("GET http://{token}/v1/x HTTP/1.1", "Host: 127.0.0.1"),
    "the user of a URL": ("GET http://{token}@127.0.0.1/v1/x HTTP/1.1", "Host: 127.0.0.1"),
    "the host that is asked for": ("GET /v1/x HTTP/1.1", "Host: {token}.localhost"),
    "the same in capitals": ("GET /v1/x HTTP/1.1", "Host: {TOKEN}:443"),
    "the name of a header": ("GET /v1/x HTTP/1.1", "Host: 127.0.0.1", "X-{token}: x"),
    "the origin": ("GET /v1/x HTTP/1.1", "Host: 127.0.0.1", "Origin: http://{token}"),
}


@pytest.mark.parametrize("is_shown", [True, False], ids=["with the token", "without"])
@pytest.mark.parametrize("where", HEADS)
def test_the_client_token_is_shown_nowhere(home: Path, where: str, is_shown: bool) -> None:
    """It is in no log line, flow, recording, answer or request of ours, where a client puts it into the head."""
    encoded = "".join(f"%{ord(letter):02x}" for letter in TOKEN)
    lines = [line.format(token=TOKEN, TOKEN=TOKEN.upper(), encoded=encoded) for line in HEADS[where]]
    lines += [f"Authorization: Bearer {TOKEN}"] if is_shown else []
    kept = home / "kept"
    options = ("--set", f"x402_client_token={TOKEN}", "--set", f"x402_dump={kept}", "-w", str(home / "flows"))
    with Upstream(sell) as upstream, Proxy(upstream.url, *options, home=home) as proxy:
        with proxy.client() as client:
            client.send("\r\n".join([*lines, "", ""]).encode())
            answer = read_message(client)
        assert answer.start.startswith(b"HTTP/1.1 400 ")
        assert b"client_token_misplaced" in answer.body or b"request_head_invalid" in answer.body
        assert upstream.requests == []
    files = [
        file.read_bytes()
        for folder in (home / "flows", kept)
        for file in [folder, *folder.rglob("*")]
        if file.is_file()
    ]
    for text in (answer.head + answer.body, proxy.log.encode(), *files):
        assert TOKEN.encode() not in text.lower()
        assert encoded.encode() not in text.lower()


def test_what_only_sounds_like_a_credential_goes_upstream(rig: Rig) -> None:
    fields = ("Idempotency-Key", "x-stainless-retry-count", "OpenAI-Organization", "X-Poll-Signature", "session_id")
    path = "/v1/surf/price?token=USDC&page_token=abc&sort_key=d&max_tokens=5&token=0x" + "ab" * 20
    assert ask(rig, *(f"{name}: x" for name in fields), path=path).body == b"ok"
    for sent in rig.upstream.requests:
        assert [name for name in fields if sent.get(name.encode()) is None] == []
        assert sent.start == f"POST {path} HTTP/1.1".encode()


def test_a_payment_of_the_clients_own_passes_and_nothing_is_paid_on_top(rig: Rig) -> None:
    headers = (
        "PAYMENT-SIGNATURE: mine",
        "X-PAYMENT: mine",
        "Authorization: Payment mine",
        "Authorization: L402 a:mine",
    )
    for header in headers:
        if rig.mode and header.startswith("Authorization"):
            continue  # where the token has its place, unless it comes in another header
        rig.script(sell)
        assert ask(rig, header, "X-PAYMENT: too" if header.startswith("Auth") else "X-A: b").body == b"ok"
        (sent,) = rig.upstream.requests
        assert header.encode() in sent.head
        assert sent.head.count(b"mine") == 1


def test_a_rejected_payment_of_the_clients_own_is_not_paid_for_it(rig: Rig) -> None:
    def reject(peer: Peer, upstream: Upstream) -> None:
        upstream.read(peer)
        peer.send(challenges.answer())

    rig.script(reject)
    assert ask(rig, "PAYMENT-SIGNATURE: mine").status == 402
    assert len(rig.upstream.requests) == 1


@pytest.mark.parametrize(
    "header",
    [
        *("Origin: https://evil.example", "Origin: null", "Origin: file://", "Origin: http://127.0.0.1:1"),
        *(f"Sec-Fetch-Site: {site}" for site in ("cross-site", "same-site", "same-origin", "none", "x")),
    ],
)
def test_web_pages_cannot_spend(rig: Rig, header: str) -> None:
    answer = ask(rig, header)
    assert (answer.status, error_of(answer)) == (403, "origin_not_allowed")
    assert rig.upstream.requests == []
    page = header.partition(": ")[2] if header.startswith("Origin") else "unnamed"
    rig.proxy.wait_for(rf"\[127\.0\.0\.1:\d+\] x402: refused: origin_not_allowed, page {page} \(POST /v1/x\)")


def test_the_refusal_names_the_origin_to_add(rig: Rig) -> None:
    said = json.loads(ask(rig, "Origin: http://localhost:3000").body)["error"]["message"]
    assert "--set x402_allow_origins=http://localhost:3000" in said
    for origin in ("null", "file://"):
        said = json.loads(ask(rig, f"Origin: {origin}").body)["error"]["message"]
        assert f"Its origin is {origin}" in said
        assert "http://localhost:PORT" in said


def test_nodes_own_fetch_can_spend(rig: Rig) -> None:
    assert ask(rig, "Sec-Fetch-Mode: cors").body == b"ok"


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost:PORT", True),
        ("[::1]:PORT", True),
        ("localhost:1", False),
        ("rebound.example", False),
        ("0.0.0.0:PORT", False),
        ("[::]:PORT", False),
        ("[::ffff:127.0.0.1]:PORT", False),
        ("127.0.0.1:PORT\r\nHost: rebound.example", False),
        ("127.0.0.1:PORT\r\nHost: 127.0.0.1:PORT", True),
    ],
)
def test_the_host_header(rig: Rig, host: str, good: bool) -> None:
    host = host.replace("PORT", str(rig.proxy.port))
    mine = f"Authorization: Bearer {TOKEN}\r\n" if rig.mode else ""
    with rig.client() as client:
        answer = client.ask(f"POST / HTTP/1.1\r\nHost: {host}\r\n{mine}Content-Length: 0\r\n\r\n".encode())
    if good or rig.mode:  # whoever knows the token is no rebinding page
        assert answer.body == b"ok"
    else:
        assert (answer.status, error_of(answer)) == (403, "host_not_allowed")


@pytest.mark.parametrize("head", ["Host: 127.0.0.1\x0b", "Host:\x0c127.0.0.1", "Host: 127.0.0.1\r\nX-A: b\x0b"])
def test_a_head_with_control_characters_that_mitmproxy_takes_for_blanks(rig: Rig, head: str) -> None:
    rest = f"Authorization: Bearer {TOKEN}\r\nContent-Length: 2\r\n\r\n{{}}"
    with rig.client() as client:
        answer = client.ask(f"POST /v1/x HTTP/1.1\r\n{head}\r\n{rest}".encode())
    assert (answer.status, error_of(answer)) == (400, "request_head_invalid")
    assert rig.upstream.requests == []


def test_a_body_may_have_any_character(rig: Rig) -> None:
    with rig.client() as client:
        answer = client.ask(request("POST", "/v1/x", b"\x0b\x0c\x00", f"Authorization: Bearer {TOKEN}"))
    assert answer.body == b"ok"
    assert rig.upstream.requests[-1].body == b"\x0b\x0c\x00"


@pytest.mark.parametrize(
    "where", ["Authorization: Bearer {}", "x-api-key: {}", "api-key: {}", "x-goog-api-key: {}", "?key={}"]
)
def test_the_client_token(rig: Rig, where: str) -> None:
    if not rig.mode:
        assert ask(rig, token=False).body == b"ok"  # none is set, so none is asked for
        return

    def present(token: str) -> Message:
        if where.startswith("?"):
            return ask(rig, path="/v1/x" + where.format(token), token=False)
        return ask(rig, where.format(token), token=False)

    assert present(TOKEN).body == b"ok"
    assert all(TOKEN.encode() not in sent.head for sent in rig.upstream.requests)
    rig.script(sell)
    wrong = present(TOKEN + "x")
    assert (wrong.status, error_of(wrong)) == (401, "client_token_invalid")
    missing = ask(rig, token=False)
    assert (missing.status, error_of(missing)) == (401, "client_token_missing")
    assert rig.upstream.requests == []
    assert TOKEN not in rig.proxy.log.replace(f"x402_client_token={TOKEN}", "")


@pytest.mark.parametrize(
    "header", [b"Origin: http://\xff", b"Authorization: Bearer \xff", b"X-Api-Key: \xff", b"Host: \xff.example"]
)
def test_bytes_that_are_no_text_get_a_refusal_and_not_past_it(rig: Rig, header: bytes) -> None:
    name = header.partition(b":")[0]
    data = request().replace(b"Host: 127.0.0.1\r\n", b"" if name == b"Host" else b"Host: 127.0.0.1\r\n")
    with rig.client() as client:
        answer = client.ask(data.replace(b" HTTP/1.1\r\n", b" HTTP/1.1\r\n" + header + b"\r\n", 1))
    if not rig.mode and name in (b"Authorization", b"X-Api-Key"):
        assert answer.body == b"ok"  # without a token nobody asks for these
        return
    if name == b"Origin" or not rig.mode:
        assert error_of(answer) in ("origin_not_allowed", "host_not_allowed")
    else:
        assert error_of(answer) in ("client_token_invalid", "client_token_missing")
    assert not rig.upstream.requests


def test_what_is_refused_keeps_no_secret(home: Path) -> None:
    """Nor does a right client token stay in a flow file where a page was refused that had it."""
    arguments = ("--set", "x402_client_token=clienttoken123", "-w", str(home / "flows"))
    with Upstream(lambda *_: None) as upstream, Proxy(upstream.url, *arguments, home=home) as proxy:
        head = (
            b"GET /v1/models?key=SECRET1&a=b HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\n"
            b"Authorization: Bearer clienttoken123\r\nX-Api-Key: SECRET2\r\nCookie: s=SECRET3\r\n"
            b"PAYMENT-SIGNATURE: SECRET4\r\n\r\n"
        )
        with Client("127.0.0.1", proxy.port) as client:
            answer = client.ask(head)
            assert answer.status == 403
        proxy.wait_for("origin_not_allowed")
        log = proxy.log
    kept = (home / "flows").read_bytes()
    assert b"evil.example" in kept
    for secret in ("clienttoken123", "SECRET"):
        assert secret.encode() not in kept
        assert secret not in log


def test_requests_that_were_sent_ahead_are_answered_in_order(rig: Rig) -> None:
    """Each in a turn of its own: 30 KB of refused ones held up everybody for a second."""
    one = b"GET /v1/x HTTP/1.1\r\nHost: %s\r\nOrigin: http://evil.example\r\n\r\n"
    with rig.client() as client:
        client.send(b"".join(one % b"127.0.0.1" for _ in range(300)))
        for _ in range(300):
            assert error_of(read_message(client)) == "origin_not_allowed"
    assert rig.upstream.requests == []


def test_who_has_closed_gets_no_answer_to_what_was_sent_ahead(rig: Rig) -> None:
    with rig.client() as client:
        client.send(b"GET /x402/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2000)
    assert ask(rig).body == b"ok"
