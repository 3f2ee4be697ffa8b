"""What is taken out of a recording, and what is left in it."""

from __future__ import annotations

import base64
import hashlib
import json
from urllib.parse import quote, unquote

import pytest
from mitmproxy import http

from mitmproxy_x402.protocol.credentials import is_credential
from mitmproxy_x402.recording.redact import MAX_FIELDS, MAX_PARAMETERS, Redactor

TOKEN = "client-token/+=1"


def base58(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + digits
    return digits


def redacted(name: str, value: str) -> str:
    (field,) = Redactor(TOKEN).fields(http.Headers([(name.encode(), value.encode())]))
    assert field[0] == name.encode()
    return field[1].decode()


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "Proxy-Authorization", "X-Api-Key", "x-goog-api-key", "api-key", "Cookie", "Set-Cookie"),
        *("PAYMENT-SIGNATURE", "X-PAYMENT", "X-Poll-Signature", "apikey", "X-Auth-Token", "X-Amz-Security-Token"),
        *("Ocp-Apim-Subscription-Key", "x-session-token", "OpenAI_Api_Key", "x-secret", "X-Password", "X-GitHub-OTP"),
    ],
)
def test_headers_that_are_secret(name: str) -> None:
    assert redacted(name, "sk-123") == "[redacted]"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "x-ratelimit-remaining-tokens",
            "anthropic-ratelimit-input-tokens-limit",
            "Idempotency-Key",
            "PAYMENT-RESPONSE",
        ),
        *(
            "X-PAYMENT-RESPONSE",
            "PAYMENT-REQUIRED",
            "x-request-id",
            "content-type",
            "x-authored-by",
            "Sec-WebSocket-Key",
        ),
    ],
)
def test_headers_that_are_not(name: str) -> None:
    assert redacted(name, "sk-123") == "sk-123"


@pytest.mark.parametrize("value", ["Bearer x", "a=sk-ant-api03-x", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"])
def test_values_that_are_secret(value: str) -> None:
    assert redacted("x-trace", value) == "[redacted]"


def test_names_and_passwords_in_urls_are_secret() -> None:
    assert redacted("Location", "https://me:pass@h/a") == "https://[redacted]@h/a"
    assert redacted("Referer", "//me@h/a?b=1") == "//[redacted]@h/a?b=1"
    assert redacted("Location", "https://h/@a/b") == "https://h/@a/b"


def test_keys_among_subprotocols_are_secret() -> None:
    name = "Sec-WebSocket-Protocol"
    assert redacted(name, "realtime, openai-insecure-api-key.sk-1") == "[redacted]"
    assert redacted(name, "realtime, openai-beta.realtime-v1") == "realtime, openai-beta.realtime-v1"


def test_a_blank_before_a_parameter_hides_nothing() -> None:
    assert Redactor().path(b"/a?+key=x&%20api_key=y&b=1") == b"/a?+key=[redacted]&%20api_key=[redacted]&b=1"


def test_the_client_token_is_taken_out_wherever_it_stands() -> None:
    assert redacted("x-custom", f"a {TOKEN} b {TOKEN}") == "a [redacted] b [redacted]"
    assert Redactor(TOKEN).text(f"the token {TOKEN} failed") == "the token [redacted] failed"
    assert Redactor(None).text("all right") == "all right"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1/x", b"/v1/x"),
        (b"/v1/x?", b"/v1/x?"),
        (b"/v1beta/m:generate?alt=sse&key=AIza", b"/v1beta/m:generate?alt=sse&key=[redacted]"),
        (b"/x?KEY=1&k%65y=2&api_key=3&X-Amz-Signature=4&token=5", b"/x?KEY=[redacted]&k%65y=[redacted]"
         b"&api_key=[redacted]&X-Amz-Signature=[redacted]&token=[redacted]"),
        (b"/x?access_token=1&apiKey=2&serp_api_key=3&hf-token=4&sig=5&X-Amz-Credential=6&idToken=7",
         b"/x?access_token=[redacted]&apiKey=[redacted]&serp_api_key=[redacted]&hf-token=[redacted]&sig=[redacted]"
         b"&X-Amz-Credential=[redacted]&idToken=[redacted]"),
        (b"/x?sortKey=1&page_token=2&nextPageToken=3&continuation-token=4&group-key=5&start_key=6",
         b"/x?sortKey=1&page_token=2&nextPageToken=3&continuation-token=4&group-key=5&start_key=6"),
        (b"/x?x[key]=1&a=2;api_key=3&b=AIzaSyA1234567890abcdefghijklmnopqrstuv&y=Bearer+z%21",
         b"/x?x[key]=[redacted]&a=2;api_key=[redacted]&b=[redacted]&y=[redacted]"),
        (b"/x?sort_api_key=1&page_auth_token=2", b"/x?sort_api_key=[redacted]&page_auth_token=[redacted]"),
        (b"/x?key=&key&max_tokens=5&keyword=a&a=b=c&&", b"/x?key=&key&max_tokens=5&keyword=a&a=b=c&&"),
        (b"/x?otp=123456&mfa_code=1&code=4%2f0AX4&code_verifier=abcd&session=e5f6&MCP.sessionId=a1b2&SAMLResponse=PHNh",
         b"/x?otp=[redacted]&mfa_code=[redacted]&code=[redacted]&code_verifier=[redacted]&session=[redacted]"
         b"&MCP.sessionId=[redacted]&SAMLResponse=[redacted]"),
        (b"/x?xkey=abcd&stoken=abcd&id_token_hint=abcd&ticket=ST-1-abc", b"/x?xkey=[redacted]&stoken=[redacted]"
         b"&id_token_hint=[redacted]&ticket=[redacted]"),
        (b"/x?code=USD&code=404&error_code=invalid&country_code=abcd&hotkey=abcd&sessions=12345&encode=abcd&otp=",
         b"/x?code=USD&code=404&error_code=invalid&country_code=abcd&hotkey=abcd&sessions=12345&encode=abcd&otp="),
        (b"/x?key=a?b=c&key=d", b"/x?key=[redacted]&key=[redacted]"),
        (b"/x?q=client-token%2F%2B%3D1&r=2", b"/x?[redacted]&r=2"),
        (b"/x/client-token%2f+=1/y", b"/x/[redacted]/y"),
        (b"/x/client-token/+=1/y", b"/x/[redacted]/y"),
        (b"/x/client%2dtoken/+=1/y", b"/[redacted]"),
        (b"*", b"*"),
        (b"/\xff\xfe?key=\xff", b"/\xff\xfe?key=[redacted]"),
    ],
)  # fmt: skip
def test_paths(path: bytes, expected: bytes) -> None:
    assert Redactor(TOKEN).path(path) == expected


def test_urls_in_headers() -> None:
    assert redacted("Location", "https://h/x?a=1#access_token=ya&state=2") == (
        "https://h/x?a=1#access_token=[redacted]&state=2"
    )
    assert redacted("Location", "/x#code=4%2f0AX4") == "/x#code=[redacted]"
    assert redacted("Referer", "/docs#section-2") == "/docs#section-2"
    assert redacted("Location", "https://h/x?key=1&a=2") == "https://h/x?key=[redacted]&a=2"
    assert redacted("Referer", f"https://h/{TOKEN}/x") == "https://h/[redacted]/x"


def test_headers_keep_their_order_case_and_bytes() -> None:
    fields = ((b"B", b"\xff\x00"), (b"a", b"1"), (b"b", b"2"))
    assert Redactor(TOKEN).fields(http.Headers(fields)) == fields
    assert Redactor(None).fields(None) == ()


@pytest.mark.parametrize("separator", ["&", ";"])
def test_a_url_with_more_parameters_than_anybody_sends_loses_its_query(separator: str) -> None:
    few, many = (separator.join(f"p{n}=1" for n in range(count)) for count in (MAX_PARAMETERS, MAX_PARAMETERS + 2))
    assert redacted("Location", f"/v1?{few}") == f"/v1?{few}"
    assert redacted("Location", f"/v1?{many}") == "/v1?[redacted]"
    assert Redactor().path(f"/v1?{many}".encode()) == b"/v1?[redacted]"


def test_the_parameters_of_all_urls_of_a_head_count_together() -> None:
    query = b"&".join(b"p%d=1" % n for n in range(30))
    fields = tuple((b"Link", b"</v1?%b>" % query) for _ in range(10))
    values = [value for _, value in Redactor(TOKEN).fields(http.Headers(fields))]
    assert values == [fields[0][1]] * 3 + [b"</v1?[redacted]"] * 7
    assert Redactor(TOKEN).shown(fields) == values


def test_of_more_fields_than_anybody_sends_all_values_are_taken_out() -> None:
    fields = tuple((b"x-%d" % n, b"y") for n in range(MAX_FIELDS + 500))
    redactor = Redactor(TOKEN)
    for values in (
        [value for _, value in redactor.fields(http.Headers(fields))],
        [value.encode() for _, value in redactor.texts(fields)],
        redactor.shown(fields),
    ):
        assert values == [b"y"] * MAX_FIELDS + [b"[redacted]"] * 500


SIGNED = hashlib.sha512(b"a signature").digest() + b"\x1b"
IN_BASE64 = base64.b64encode(SIGNED).decode()
ON_SOLANA = hashlib.sha512(b"another signature").digest()
TRANSACTION = (
    bytes([2]) + bytes(64) + ON_SOLANA + bytes([128, 2, 1, 5, 9]) + hashlib.sha512(b"accounts").digest() * 5 + bytes(50)
)
OLD_TRANSACTION = bytes([1]) + ON_SOLANA + bytes([1, 0, 2, 4]) + hashlib.sha512(b"accounts").digest() * 3
PAYLOAD = {"x402Version": 2, "payload": {"transaction": base64.b64encode(TRANSACTION).decode()}, "accepted": {}}


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(one):04x}" if one in "+/=" else one for one in text)


@pytest.mark.parametrize("text", [
    *(SIGNED.hex(), f"0x{SIGNED.hex()}", f"0X{SIGNED.hex().upper()}", SIGNED.hex().upper()),
    *(base64.b64encode(SIGNED).decode(), base64.urlsafe_b64encode(SIGNED).decode().rstrip("=")),
    *(f"0xe3ee160e{'00' * 32}{SIGNED.hex()}{'00' * 31}", f"{SIGNED.hex()}ff", f"a0x{SIGNED.hex()}b"),
    *(quote(IN_BASE64, safe=""), quote(quote(IN_BASE64, safe=""), safe=""), IN_BASE64.replace("/", "\\/")),
    *(escaped(IN_BASE64), f"pre{IN_BASE64}post", f"pre_{IN_BASE64.rstrip('=')}/post/and-more"),
    *("".join(f"%{ord(digit):02x}" for digit in SIGNED.hex()), base58(ON_SOLANA)),
    *(base64.b64encode(TRANSACTION).decode(), quote(base64.b64encode(TRANSACTION), safe="")),
    *(f"tx{base64.b64encode(TRANSACTION).decode()}", base64.b64encode(OLD_TRANSACTION).decode()),
    f"abc{base64.b64encode(json.dumps(PAYLOAD).encode()).decode()}",
    f"key{base64.urlsafe_b64encode(json.dumps(PAYLOAD).encode()).decode()}",
])  # fmt: skip
def test_a_signature_that_somebody_repeats_is_secret_however_it_is_written(text: str) -> None:
    redactor = Redactor()
    for value in (text, f"seen {text}; twice", f'{{"signature":"{text}"}}'):
        ((_, seen),) = redactor.texts(((b"X-Echo", value.encode()),))
        assert seen == "[redacted]"
    assert text not in redactor.path(f"/v1/x?echo={text}".encode()).decode()


def test_the_other_headers_of_x402_and_ids_of_transactions_are_no_payments() -> None:
    required = {
        "x402Version": 2,
        "accepts": [{"extra": {"name": "USD Coin", "note": "Gr\u00fc\u00dfe \U0001f980" * 50}}],
    }
    settled = {"success": True, "transaction": f"0x{SIGNED[:32].hex()}", "network": "eip155:8453"}
    for one in (required, settled):
        text = base64.b64encode(json.dumps(one, ensure_ascii=False).encode()).decode()
        assert redacted("X-Any", text) == text
    for name in ("X-Tx", "X-Solana-Transaction", "tx-hash"):
        assert redacted(name, base58(ON_SOLANA)) == base58(ON_SOLANA)
    assert Redactor().path(f"/x?tx={base58(ON_SOLANA)}".encode()).endswith(base58(ON_SOLANA).encode())
    assert redacted("X-Path", "/v1/Some-Models/with/long-Names" * 20) == "/v1/Some-Models/with/long-Names" * 20


def test_a_header_that_is_made_to_be_searched_for_long_is_taken_out() -> None:
    """A text beyond ASCII in which a signature might end at every fourth letter; and many ids."""
    few, many = (base64.b64encode("\u00e9x".encode() + b"adp" * count).decode() for count in (60, 20_000))
    assert redacted("X-Long", few) == few
    assert redacted("X-Long", many) == "[redacted]"
    assert redacted("X-Long", " ".join([base58(ON_SOLANA)[:-2] + "11"] * 21)) == "[redacted]"


def test_hashes_and_ids_are_no_signatures() -> None:
    fields = ((b"X-Hash", SIGNED[:32].hex().encode()), (b"X-Digest", SIGNED[:64].hex().encode()))
    assert [value for _, value in Redactor().texts(fields)] == [value.decode() for _, value in fields]


@pytest.mark.parametrize("name", [
    *("userToken", "clientSecret", "passwd", "db-pwd", "creds", "x-auth", "cookie2", "sessionid", "jsessionid"),
    *("jwt", "client_assertion", "dpop", "vk", "bearer", "otp", "smsCode", "one-time-pin", "code", "pin", "tan", "sid"),
    *("id_token_hint", "logout_hint_token", "SAMLart", "samlResponse", "ticket", "sig", "X-Amz-Signature", "oauth2"),
    *("my.key", "k%65y", "token%5B%5D", "x[key]", "API_KEY_2", "code_verifier", "passphrase", "xauth"),
    *("sas", "hmac", "x-hmac", "sasToken", "tokens", "keys", "key1", "token_2", "private_key_pem", "privateKeyPem"),
    *("session", "session_id", "token_id", "key-id", "client_cert_pem", "signing-key-value", "secret.hex"),
])  # fmt: skip
def test_every_kind_of_secret_name_is_known(name: str) -> None:
    assert Redactor().path(f"/v1/x?{name}=abcdefgh".encode()).endswith(b"=[redacted]")
    assert redacted(unquote(name), "abcdefgh") == "[redacted]"


@pytest.mark.parametrize("name", [
    *("tokens", "max_tokens", "token_id", "key_id", "keys", "x-ratelimit-remaining-tokens", "keyboard", "keynote"),
    *("mac", "sasquatch", "session-affinity-count", "sort_key", "page_token", "certain"),
])  # fmt: skip
def test_numbers_of_tokens_and_other_words_are_no_secrets(name: str) -> None:
    assert Redactor().path(f"/v1/x?{name}=4096".encode()).endswith(b"=4096")
    assert redacted(f"X-{name}", "4096") == "4096"


@pytest.mark.parametrize("name", ["Session_Id", "X-Session", "X-Session-Id", "X-Token-Id", "X-Keys"])
def test_what_is_not_recorded_may_still_go_upstream(name: str) -> None:
    assert redacted(name, "abcdefgh") == "[redacted]"
    assert not is_credential(name.encode(), b"abcdefgh")
