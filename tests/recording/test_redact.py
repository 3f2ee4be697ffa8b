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


@pytest.mark.parametrize("before", ["", "a", "ab", "user:", '{"key": "'])
def test_the_client_token_is_taken_out_also_in_base64(before: str) -> None:
    text = before + TOKEN + '", "more": 1}'
    for coded in (base64.b64encode(text.encode()), base64.urlsafe_b64encode(text.encode()).rstrip(b"=")):
        for value in (coded.decode(), f"a={coded.decode()}, b"):
            seen = redacted("X-Any", value)
            assert "[redacted]" in seen
            assert len(seen) <= len(value) - len(TOKEN) * 4 // 3 + 3 + len("[redacted]")
        assert coded not in Redactor(TOKEN).path(b"/v1/x?a=" + coded + b"&b=2")
        assert Redactor(TOKEN).path(b"/v1/x?a=" + coded + b"&b=2").startswith(b"/v1/x?[redacted]")
    assert redacted("X-Any", base64.b64encode(b"client-tokens are many").decode()) != "[redacted]"


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
    encoded = quote(TOKEN, safe="")
    assert redacted("Link", f"<https://h/{encoded}/x>; a=b, <https://h/?a={encoded}&b=1>") == (
        "<https://h/[redacted]/x>; a=b, <https://h/?[redacted]&b=1>"
    )


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("Link", "<https://h/b?x=1>; rel=prev, <https://me:pa55w0rd@h/b?x=1>; rel=next",
     "<https://h/b?x=1>; rel=prev, <https://[redacted]@h/b?x=1>; rel=next"),
    ("Link", "<https://h/b>; rel=prev, <https://h/c?api_key=pa55w0rd>; rel=next",
     "<https://h/b>; rel=prev, <https://h/c?api_key=[redacted]>; rel=next"),
    ("link", "<//a:pa55w0rd@h?sig=pa55w0rd>,<//b:pa55w0rd@h#token=pa55w0rd>;title=\"a?b=c\"",
     "<//[redacted]@h?sig=[redacted]>,<//[redacted]@h#token=[redacted]>;title=\"a?b=c\""),
    ("Refresh", "5;URL=https://u:pa55w0rd@h/?token=pa55w0rd", "5;URL=https://[redacted]@h/?token=[redacted]"),
    ("Refresh", "0; url='https://h/?a=1&token=pa55w0rd'", "0; url='https://h/?a=1&token=[redacted]'"),
    ("Content-Security-Policy", "default-src 'self'; report-uri https://h/r?key=pa55w0rd&a=1; report-to //u:pa55w0rd@h",
     "default-src 'self'; report-uri https://h/r?key=[redacted]&a=1; report-to //[redacted]@h"),
    ("Report-To", r'{"endpoints":[{"url":"https:\/\/u:pa55w0rd@h\/r?token=pa55w0rd"},{"url":"https:\/\/h\/s"}],"a":1}',
     r'{"endpoints":[{"url":"https:\/\/[redacted]@h\/r?token=[redacted]"},{"url":"https:\/\/h\/s"}],"a":1}'),
    ("Reporting-Endpoints", 'a="https://h/r?token=pa55w0rd", b="/s?x=1"',
     'a="https://h/r?token=[redacted]", b="/s?x=1"'),
    ("Server-Timing", 'db;desc="https://u:pa55w0rd@h/";dur=2', 'db;desc="https://[redacted]@h/";dur=2'),
    ("SourceMap", "/a.map?access_token=pa55w0rd", "/a.map?access_token=[redacted]"),
    ("X-Original-URL", "/v1/x?a=1&code=pa55w0rd", "/v1/x?a=1&code=[redacted]"),
    ("Azure-AsyncOperation", "https://h/op?t=1&sig=pa55w0rd", "https://h/op?t=1&sig=[redacted]"),
    ("X-Upstreams", "https://h:8080,https://u:pa55w0rd@i,postgres://u:pa55w0rd@j/db",
     "https://h:8080,https://[redacted]@i,postgres://[redacted]@j/db"),
    ("Origin", "https://u:pa55w0rd@h", "https://[redacted]@h"),
    ("Location", r"https:/\u:pa55w0rd@h/b", r"https:/\[redacted]@h/b"),
    ("Location", r"\\u:pa55w0rd@h/b", r"\\[redacted]@h/b"),
    ("Location", "https:u:pa55w0rd@h/b", "https:[redacted]@h/b"),
    ("Location", "HTTPS:///u:pa55w0rd@h/b", "HTTPS:///[redacted]@h/b"),
    ("Location", "https:/\t/u:pa55w0rd@h/b", "https:/\t/[redacted]@h/b"),
    ("Location", "https://:pa55w0rd@h/", "https://[redacted]@h/"),
    ("Location", "https://u:pa55@w0rd@h/", "https://[redacted]@h/"),
    ("Location", "https://u:pa55 w0rd@h/ b", "https://[redacted]@h/ b"),
    ("Location", "https://h/in?to=https://u:pa55w0rd@h/&x=1", "https://h/in?to=https://[redacted]@h/&x=1"),
    ("Location", "/in?to=https://h/b?token=pa55w0rd&x=1", "/in?to=https://h/b?token=[redacted]&x=1"),
    ("Location", "/in?to=https%3A%2F%2Fu%3Apa55w0rd%40h%2Fb%3Fa%3D1%26api_key%3Dpa55w0rd%26b%3D2&x=1",
     "/in?to=https%3A%2F%2F[redacted]%40h%2Fb%3Fa%3D1%26api_key%3D[redacted]%26b%3D2&x=1"),
    ("Location", "/in?to=https%253a%252f%252fu%253apa55w0rd%2540h%252fb%253fapi%255fkey%253Dpa55w0rd%2526b%253d2",
     "/in?to=https%253a%252f%252f[redacted]%2540h%252fb%253fapi%255fkey%253D[redacted]%2526b%253d2"),
    ("Location", "/in?to=%2Fcb%23access_token%3Dpa55w0rd%26x%3D1", "/in?to=%2Fcb%23access_token%3D[redacted]%26x%3D1"),
    ("Location", "/in?https://u:pa55w0rd@h/&b", "/in?https://[redacted]@h/&b"),
    ("Location", "https://h/a,https://u:pa55w0rd@h/b?c=1,https://u:pa55w0rd@h/d",
     "https://h/a,https://[redacted]@h/b?c=1,https://[redacted]@h/d"),
])  # fmt: skip
def test_of_all_urls_of_any_header_only_the_secrets_go(name: str, value: str, expected: str) -> None:
    assert redacted(name, value) == expected
    assert redacted(name, expected) == expected, "as a veiled one is, when it is recorded"
    assert "pa55" not in expected
    redactor = Redactor()
    fields = ((name.encode(), value.encode()),) * 2
    lines = [json.dumps([name, expected], ensure_ascii=False)] * 2
    assert redactor.lines(fields) == redactor.lines(fields) == lines
    assert [seen.decode() for seen in redactor.shown(fields)] == [expected] * 2


@pytest.mark.parametrize(("name", "value"), [
    ("Location", "https://cdn.h/npm/@scope/pkg@1.0/x?a=@b&c=//d/@e"),
    ("X-Contact", "see //notes or https://h, then write to me@h?"),
    ("X-Note", "Is it #1? a=1; b=2 & c=@d"),
    ("Sec-CH-UA", '"Not=A?Brand";v="24", "Chromium";v="140"'),
    ("User-Agent", "bot/1 (+https://h/bot?about=1; me@h)"),
    ("Content-Security-Policy", "script-src https: 'nonce-a+b/c=='; img-src data: https://h/i?s=1"),
    ("Location", "/search?q=how%20do%20I%20log%20in%3F%20token%3D%20what%3F&n=2"),
    ("Location", "/in?to=https%3A%2F%2Fh%2Fb%3Fpage_token%3D1%26a%3Db%2540c%26d%3D%252F%252Fe&f=mailto:me%40h"),
    ("Location", "/in?note=a%2Fb%3F"),
    ("Link", "<https://h/?page=2&per_page=30>; rel=\"next\", <https://h/?page=9>; rel=last"),
])  # fmt: skip
def test_what_only_resembles_a_secret_in_a_url_stays(name: str, value: str) -> None:
    assert redacted(name, value) == value


def test_of_more_parameters_than_anybody_sends_in_urls_of_urls_the_rest_goes() -> None:
    inner = "%26".join(f"p{n}%3D1" for n in range(MAX_PARAMETERS * 3))
    seen = Redactor().path(f"/in?to=%2Fb%3F{inner}&x=1&key=2".encode()).decode()
    assert seen.startswith("/in?to=%2Fb%3Fp0%3D1%26p1%3D1%26")
    assert seen.endswith("[redacted]&x=1&key=[redacted]")
    assert len(seen) < len(inner) // 2


@pytest.mark.parametrize(
    "text", ["//", "/\\", "%2f%2f", "https:", "//u:", "?a=/?", "a%3f", "/?#&", "@", "//@", "\\", "=?x "]
)
def test_no_url_is_long_to_read(text: str) -> None:
    """Quadratic time would take minutes."""
    long = (text * 50_000).encode()
    for value in (long, b"/?a=/?" + long, b"<" + long + b"> <" + long + b">"):
        Redactor().path(value)
        Redactor().shown(((b"Link", value), (b"X-Any", b"/?=" + value), (b"Location", value)))


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
    assert values == [fields[0][1]] * 3 + [b"</v1?[redacted]>"] * 7
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


def in_json(text: str, **more: str) -> str:
    return json.dumps({"note": "seen", "echo": text, **more}, ensure_ascii=False)


def in_base64(text: str, *, url: bool = False) -> str:
    raw = text.encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=") if url else base64.b64encode(raw).decode()


PAYMENTS = {
    "hex": f"0x{SIGNED.hex()}",
    "base64": IN_BASE64,
    "header": in_base64(json.dumps({"x402Version": 2, "payload": {"signature": f"0x{SIGNED.hex()}"}, "accepted": {}})),
    "on Solana": in_base64(json.dumps(PAYLOAD)),
    "transaction": base64.b64encode(TRANSACTION).decode(),
}


@pytest.mark.parametrize("text", PAYMENTS.values(), ids=PAYMENTS)
def test_a_payment_in_base64_of_another_text_is_secret(text: str) -> None:
    redactor = Redactor()
    for value in (
        in_base64(in_json(text)),
        in_base64(in_json(text, name="Grüße 🦀" * 20), url=True),
        in_base64(json.dumps([{"a": {"b": text}}], indent=2)),
        in_base64(f"you sent {text}!"),
        in_base64(in_json(escaped(text))),
        in_base64(in_json(quote(text, safe=""))),
        in_base64(in_base64(text)),
        in_base64(in_json(in_base64(in_json(text), url=True))),
        in_json(in_base64(in_json(text))),
        quote(in_base64(in_json(text)), safe=""),
        "/a/b/key_" + in_base64(in_json(text)),
    ):
        ((_, seen),) = redactor.texts(((b"X-Echo", f"seen {value}; twice".encode()),))
        assert seen == "[redacted]", value
        assert redactor.path(f"/x?a=1&echo={value}&b=2".encode()).decode().startswith("/x?a=1&")
        assert value not in redactor.path(f"/x?echo={value}".encode()).decode()
        assert redactor.reason(f"OK {value}".encode()) == b"[redacted]"


def test_what_sellers_say_of_a_payment_stays() -> None:
    """A receipt with a transaction's id, hashes and texts, once and twice in base64; and what the seller signs."""
    offers = {"offer-receipt": {"info": {"receipt": {"format": "eip712", "signature": f"0x{SIGNED.hex()}"}}}}
    text = in_base64(json.dumps({"success": True, "extensions": offers}))
    assert redacted("PAYMENT-RESPONSE", text) == text
    text = in_base64(json.dumps({"signature": f"0x{SIGNED.hex()}", "extensions": offers}))
    assert redacted("PAYMENT-RESPONSE", text) == "[redacted]"
    for number in range(300):
        id_ = base58(hashlib.sha512(b"%d" % number).digest())
        settled = {
            "success": True,
            "transaction": id_,
            "payer": base58(SIGNED[:32]),
            "network": "solana:5eykt4UsFv8P8NJd",
        }
        more = {"hash": f"0x{SIGNED[:64].hex()}", "text": "Grüße 🦀", "link": "/v1/Some-Models/with/long-Names" * 9}
        for receipt in (settled, settled | more, {"inner": in_base64(json.dumps(settled))}):
            text = in_base64(json.dumps(receipt, ensure_ascii=False))
            assert redacted("PAYMENT-RESPONSE", text) == text
        assert redacted("X-Transaction", id_) == id_


def test_a_reason_phrase_has_no_credential() -> None:
    redactor = Redactor(TOKEN)
    for secret in (
        "Not sk-ant-api03-Zq9xW8e7R6t5Y4u3",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "Bearer abc",
        f"No {TOKEN}",
    ):
        assert redactor.reason(secret.encode()) == b"[redacted]"
    assert redactor.reason(b"See https://u:p@h/?key=abc&a=1 now") == b"See https://[redacted]@h/?key=[redacted]&a=1 now"
    assert redactor.reason(b"I'm a teapot") == b"I'm a teapot"


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
