"""Finding the model's name and the output limit without reading the request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mitmproxy_x402.limits.request_model import MAX_LIMITS, MAX_MARKS, MAX_PARTS, UNCLEAR, read_model, read_output_limit

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("model"), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text() | st.just("model"), VALUES), st.booleans())
def test_agrees_with_a_whole_read(value: dict[str, Any], ascii_only: bool) -> None:
    name = value.get("model")
    expected = name if isinstance(name, str) and 0 < len(name) <= 60 and name.isprintable() else None
    found = read_model("/v1/x", json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    if isinstance(name, str) and len(name) > 60:
        assert found in (name, None)
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1beta/models/gemini-2.5-pro:generateContent", b"{}", "gemini-2.5-pro"),
        ("/v1/models/a%2Fb", b"", "a/b"),
        ("/v1/x", b' \n {"messages": [{"model": "no"}], "model" : "yes"}', "yes"),
        ("/v1/x", b'{"a": "\\\\", "model": "b\\u002dc"}', "b-c"),
        ("/v1/x", b'{"a": "\\", \\"model\\": \\"no\\"", "b": 1}', None),
        ("/v1/x", b'{"model": {"model": "no"}}', None),
        ("/v1/x", b'{"model": "a\\nb"}', None),
        ("/v1/x", b'{"model": 7}', None),
        ("/v1/x", b'[{"model": "no"}]', None),
        ("/v1/x", b'{"model', None),
        ("/v1/x", b"--boundary\r\nmodel", None),
        ("/v1/x", b"", None),
        ("/v1/x", b'{"a": [' + b"[]," * MAX_MARKS + b'[]], "model": "no"}', None),
    ],
)
def test_cases(path: str, body: bytes, model: str | None) -> None:
    assert read_model(path, body) == model


def form(*parts: tuple[str, bytes], boundary: str = "b") -> bytes:
    written = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary.encode(), head.encode(), value) for head, value in parts]
    return b"".join([*written, b"--%b--\r\n" % boundary.encode()])


FILE = (
    'Content-Disposition: form-data; name="image"; filename="model"\r\nContent-Type: image/png',
    b"\r\n--no\r\n" * 99,
)


def field(name: str, value: str) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value.encode()


@pytest.mark.parametrize(
    ("body", "model"),
    [
        (form(FILE, field("prompt", "model"), field("model", "gpt-image-1")), "gpt-image-1"),
        (form(field("model", "größer"), FILE), "größer"),
        (form(field("model", "one"), field("model", "two")), "one"),
        (form(("content-disposition: FORM-DATA; name=model", b"m")), "m"),
        (
            form(("Content-Type: text/plain\r\nContent-Disposition: form-data; filename*=UTF-8''x; name=model", b"m")),
            None,
        ),
        (form(('Content-Disposition: form-data; name="model"; filename="m.txt"', b"m")), None),
        (form(field("model", "a\nb")), None),
        (form(field("model", "")), None),
        (form(field("model", "x" * 1000)), None),
        (form(field("xmodel", "m"), field("Model", "m")), None),
        (form(*[FILE] * MAX_PARTS, field("model", "m")), None),
        (form(("no header at all", b"m"), ("", b"m")), None),
        (b"preamble\r\n" + form(field("model", "m")), "m"),
        (form(field("model", "m")).removesuffix(b"--\r\n"), "m"),
        (b"--b\r\n" + b"x" * 5000 + b"\r\n\r\nm\r\n--b--\r\n", None),
        (b"--b", None),
        (b"", None),
        (b'{"model": "m"}', None),
    ],
)
def test_forms(body: bytes, model: str | None) -> None:
    for content_type in ("multipart/form-data; boundary=b", 'Multipart/Form-Data;charset=x; boundary="b"'):
        assert read_model("/v1/images/edits", body, content_type) == model
    for other in ("multipart/form-data", "multipart/form-data; boundary=c", "multipart/mixed; boundary=b", ""):
        assert read_model("/v1/images/edits", body, other) in (None, "m" if body.startswith(b"{") else None)


@given(st.binary(), st.text(max_size=80))
def test_no_form_makes_it_fall(body: bytes, boundary: str) -> None:
    read_model("/v1/x", b"--" + boundary.encode() + body, f"multipart/form-data; boundary={boundary}")
    read_model("/v1/x", form((boundary, body)), "multipart/form-data; boundary=b")


NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")


@given(
    st.dictionaries(st.text() | st.sampled_from(["model", "max_words"]), VALUES), st.sampled_from(NAMES), st.booleans()
)
def test_the_output_limit_is_found_wherever_it_stands(value: dict[str, Any], name: str, ascii_only: bool) -> None:
    # A key of that name further down is taken for a second limit, which is unclear: see below.
    assume(not any(f'"{each}": ' in json.dumps(value) for each in NAMES))

    def body(limit: Any) -> bytes:
        message = json.dumps({"before": value, name: limit, "after": value}, ensure_ascii=ascii_only)
        return message.encode("utf-8", "surrogatepass")

    assert read_output_limit(body(1234)) == 1234
    assert read_output_limit(body(None)) is None
    assert read_output_limit(body({name: 7})) == UNCLEAR


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        (b'{"generationConfig": {"maxOutputTokens" : 99 } }', 99),
        (b'{"max_tokens":0}', 0),
        (b'{"max_tokens":null,"max_output_tokens":\n7}', 7),
        (json.dumps({"content": 'say "max_tokens": 7'}).encode(), None),
        (b'{"max_tokens_to_sample": 5, "max_token": 6}', None),
        (b'{"max_tokens": 5, "max_tokens": 5}', UNCLEAR),
        (b'{"tool": {"max_tokens": []}, "max_tokens": 5}', UNCLEAR),
        (b'{"max_tokens": 1.5}', UNCLEAR),
        (b'{"max_tokens": 1e3}', UNCLEAR),
        (b'{"max_tokens": -1}', UNCLEAR),
        (b'{"max_tokens": "5"}', UNCLEAR),
        (b'{"max_tokens": 1234567890}', UNCLEAR),
        (b'{"max_tokens": 5', UNCLEAR),
        (b'["max",' * MAX_LIMITS + b"0" + b"]" * MAX_LIMITS, UNCLEAR),
        (b'{"max_tokens":100,"reasoning":{"max_tokens":2000}}', 100),
        (b'{"reasoning": {"effort": "low", "max_tokens": 2000}, "max_tokens": 100}', 100),
        (b'{"reasoning":{"max_tokens":2000}}', None),
        (b'{"reasoning":{"summary":{"a":1},"max_tokens":2000},"max_tokens":100}', UNCLEAR),
        (b'{"reasoning":{"effort":"low"},"max_tokens":100}', 100),
        (json.dumps({"content": '"reasoning":{', "max_tokens": 7}).encode(), 7),
        (b"", None),
    ],
)
def test_output_limits(body: bytes, limit: int | None) -> None:
    assert read_output_limit(body) == limit
