"""Which models and paths a request may be for, however it is written.

Each case has once got past a limit by model or path, or is one that such a limit must not stop.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.limits.limits import Asked, Limit, Scope, for_request
from mitmproxy_x402.limits.whole_request import MAX_BODY, MAX_FIELDS, MAX_MARKS, WholeRequest
from support.recording import zstd

DEAR = b'{"messages": [], "model": "dear-1"}'
JSON = ("application/json",)
BY_MODEL = Limit(Scope(model="dear-*"), 1, ())


def asked(
    body: bytes, content_types: tuple[str, ...] = JSON, codings: tuple[str, ...] = (), target: str = "/v1/chat"
) -> Asked:
    return WholeRequest(target, body, content_types, codings).read()


def packed(body: bytes) -> bytes:
    return gzip.compress(body, mtime=0)


def form(*fields: tuple[str, str], boundary: str = "b") -> bytes:
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields]
    return ("".join(parts) + f"--{boundary}--\r\n").encode()


MULTIPART = ("multipart/form-data; boundary=b",)
URLENCODED = ("application/x-www-form-urlencoded",)
DEEP = b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b', "model": "dear-1"}'


@pytest.mark.parametrize(
    ("body", "content_types", "codings"),
    [
        (DEAR, JSON, ()),
        (json.dumps({"messages": [{"role": "user", "content": "x"}] * 3400, "model": "dear-1"}).encode(), JSON, ()),
        (b'{"model": "dear-1", "model": "cheap"}', JSON, ()),
        (b'{"model": "cheap", "model": "dear-1"}', JSON, ()),
        (b'{"mod\\u0065l": "dear-1"}', JSON, ()),
        (b'{"model": "d\\u0065ar-1"}', JSON, ()),
        (b'{"Model": "DEAR-1"}', JSON, ()),
        (b'{" model ": " dear-1 "}', JSON, ()),
        (b'{"model\\u0000": "dear-1"}', JSON, ()),
        (b'{"model\\u0000s": "dear-1"}', JSON, ()),
        (b'{"mod%65l": "dear-1"}', JSON, ()),
        (b'{"model": "tunedModels/dear-1"}', JSON, ()),
        (form(("mod%65l", "dear-1")), MULTIPART, ()),
        (b"\xef\xbb\xbf" + DEAR, JSON, ()),
        (DEAR.decode().encode("utf-16"), JSON, ()),
        (DEAR.decode().encode("utf-32-be"), JSON, ()),
        (b" " * 65 + DEAR, JSON, ()),
        (DEAR, MULTIPART, ()),
        (DEAR, ("multipart/form-data",), ()),
        (DEAR, ("text/plain",), ()),
        (DEAR, (), ()),
        (DEAR, (*JSON, *MULTIPART), ()),
        (packed(DEAR), JSON, ("gzip",)),
        (packed(DEAR), JSON, ("GZIP ",)),
        (zlib.compress(DEAR), JSON, ("deflate",)),
        (zlib.compress(DEAR)[2:-4], JSON, ("deflate",)),
        (zstd.compress(DEAR), JSON, ("zstd",)),
        (brotli.compress(DEAR), JSON, ("br",)),
        (packed(zstd.compress(DEAR)), JSON, ("zstd, gzip",)),
        (packed(zstd.compress(DEAR)), JSON, ("zstd", "gzip")),
        (packed(DEAR), JSON, ()),
        (DEAR, JSON, ("gzip",)),
        (DEAR, JSON, ("snappy",)),
        (DEAR, JSON, ("gzip, gzip, gzip, gzip",)),
        (DEAR + b"{}", JSON, ()),
        (DEAR + b"\nx", JSON, ()),
        (b"[" + DEAR + b"]", JSON, ()),
        (b'{"model": ["dear-1"]}', JSON, ()),
        (b'{"model": {"id": "dear-1"}}', JSON, ()),
        (b"{'model': 'dear-1'}", JSON, ()),
        (b'{"a": 1, /* */ "model": "dear-1"}', JSON, ()),
        (b'{"a": "\x01", "model": "dear-1"}', JSON, ()),
        (b'{"a": "\xff", "model": "dear-1"}', JSON, ()),
        (b'{"a": ' + b"1" * 5000 + b', "model": "dear-1"}', JSON, ()),
        (b'{"model": "dear-1"', JSON, ()),
        (b'{"model": "' + b"x" * 2000 + b'"}', JSON, ()),
        (DEEP, JSON, ()),
        (form(("prompt", "x"), ("model", "dear-1")), MULTIPART, ()),
        (form(("model", "cheap"), ("model", "dear-1")), MULTIPART, ()),
        (form(*[("x", "y")] * 500, ("MODEL", "dear-1")), MULTIPART, ()),
        (form(*[("x", "y")] * 2000, ("model", "dear-1")), MULTIPART, ()),
        (form(("model", "dear-1")), JSON, ()),
        (form(("model", "dear-1")), (), ()),
        (b"preamble" + form(("model", "dear-1")), MULTIPART, ()),
        (form(("model", "dear-1"))[:-6], MULTIPART, ()),
        (form(("model", "dear-1"), boundary="c"), MULTIPART, ()),
        (form(("model", "cheap")).replace(b'"model"', b'"model"\r\nContent-Transfer-Encoding: base64'), MULTIPART, ()),
        (form(("model", "dear-1")).replace(b'name="model"', b"name*=UTF-8''mod%65l"), MULTIPART, ()),
        (b"x=1&model=dear-1", URLENCODED, ()),
        (packed(b"model=good") + b"\0" * 4 + packed(b"&model=dear-1"), URLENCODED, ("gzip",)),
        (packed(b"model=good") + b"junk" + packed(b"&model=dear-1"), URLENCODED, ("gzip",)),
        (packed(b"model=good") + packed(b"&model=dear-1"), URLENCODED, ("gzip",)),
        (packed(b"model=good")[:-4], URLENCODED, ("gzip",)),
        (zlib.compress(b"model=good") + b"&model=dear-1", URLENCODED, ("deflate",)),
        (zlib.compress(b"model=good")[2:-4] + b"&model=dear-1", URLENCODED, ("deflate",)),
        (brotli.compress(b"model=good") + b"&model=dear-1", URLENCODED, ("br",)),
        (zstd.compress(b"model=good") + b"&model=dear-1", URLENCODED, ("zstd",)),
        (zstd.compress(b"model=good") + zstd.compress(b"&model=dear-1"), URLENCODED, ("zstd",)),
        (b"model[]=dear-1", URLENCODED, ()),
        (b"model[0]=dear-1&model=cheap", URLENCODED, ()),
        (b"x=1&Model%5Bid%5D=dear-1", URLENCODED, ()),
        (b"\xef\xbb\xbfmodel=dear-1", URLENCODED, ()),
        (form(("model[]", "dear-1")), MULTIPART, ()),
        (b"x=1&mod%65l=dear%2d1&model=cheap", URLENCODED, ()),
        (b"model=dear-1", JSON, ()),
        (b"\x00\x01", ("application/octet-stream",), ()),
    ],
)
def test_the_limit_of_a_model_holds(body: bytes, content_types: tuple[str, ...], codings: tuple[str, ...]) -> None:
    assert for_request([BY_MODEL], asked(body, content_types, codings)) == [BY_MODEL]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/chat?model=dear-1",
        "/v1beta/models/dear-1:generate",
        "/v1beta/tunedModels/dear-1:generateContent",
        "/openai/deployments/dear-1/chat/completions",
        "/model/dear-1/invoke",
        "/v1/models/%64ear-1/x",
        "/v1/chat?model[]=dear-1",
        "/v1/chat?model%5B0%5D=dear-1",
        "/v1/chat??model=dear-1",
        "/v1/chat?a=1?model=dear-1",
        "/v1/models/good%3F/../dear-1:x",
        "/v1/models/good/../dear-1:x",
    ],
)
def test_the_model_in_the_url(target: str) -> None:
    assert for_request([BY_MODEL], asked(b"{}", target=target)) == [BY_MODEL]


def test_a_model_with_a_slash_in_the_path() -> None:
    limit = Limit(Scope(model="vendor/dear-*"), 1, ())
    assert for_request([limit], asked(b"", target="/v1/models/vendor%2Fdear-1:x")) == [limit]
    assert for_request([limit], asked(b"", target="/v1/models/vendor/dear-1")) == [limit]


@pytest.mark.parametrize(
    ("body", "content_types", "codings"),
    [
        (b'{"model": "cheap-1"}', JSON, ()),
        (b'{"model": "cheap-1", "model": "cheap-2"}', JSON, ()),
        (b'{"messages": [{"model": "dear-1"}], "model": "cheap"}', JSON, ()),
        (json.dumps({"content": '"model": "dear-1"', "model": "cheap"}).encode(), JSON, ()),
        (b'{"model": null}', JSON, ()),
        (b'{"x": 1}', JSON, ()),
        (b"{}", JSON, ()),
        (b"", JSON, ()),
        (b" \n", (), ()),
        (packed(b'{"model": "cheap"}'), JSON, ("gzip",)),
        (form(("prompt", "dear-1"), ("model", "cheap")), MULTIPART, ()),
        (b"model=cheap", URLENCODED, ()),
    ],
)
def test_who_is_certainly_not_meant_is_let_alone(
    body: bytes, content_types: tuple[str, ...], codings: tuple[str, ...]
) -> None:
    found = asked(body, content_types, codings)
    assert (found.model_doubt, for_request([BY_MODEL], found)) == ("", [])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("model"), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text() | st.just("model"), VALUES), st.booleans())
def test_agrees_with_a_whole_read(value: dict[str, Any], ascii_only: bool) -> None:
    found = asked(json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    name = value.get("model")
    if not found.model_doubt:
        named = {name.strip()} if isinstance(name, str) else set()
        assert named <= set(found.models) <= named | {text.strip() for text in _texts(value)}
        assert "" not in set(found.models) - named


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        yield from value if isinstance(value, dict) else ()
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)


@given(st.binary(), st.sampled_from([JSON, MULTIPART, URLENCODED, ()]), st.sampled_from([(), ("gzip",), ("br",)]))
def test_it_never_fails(body: bytes, content_types: tuple[str, ...], codings: tuple[str, ...]) -> None:
    asked(body, content_types, codings)
    asked(b"{" + body, content_types, codings)
    asked(b"--b\r\n" + body, content_types, codings)


@given(st.text(st.characters(codec=None, categories=None) | st.sampled_from("/%.?#&=;[]\udcfc\ud800")))
def test_no_target_makes_it_fail(target: str) -> None:
    asked(b"", target=target)


def test_what_unfolds_too_far_is_unclear() -> None:
    assert "cannot be decoded" in asked(packed(b" " * (MAX_BODY + 1)), JSON, ("gzip",)).model_doubt
    assert "larger than 64 MB" in asked(b" " * MAX_BODY + b"{}").model_doubt


MANY = {
    "objects": b'{"x": [' + b'{"a":1},' * MAX_MARKS + b'1], "model": "m"}',
    "keys": b"{" + b'"a":1,' * MAX_MARKS + b'"model": "m"}',
    "quotes in a text": b'{"x": "' + b'\\"' * MAX_MARKS + b'", "model": "m"}',
    "backslashes in a text": b'{"x": "' + b"\\\\" * MAX_MARKS + b'", "model": "m"}',
    "depth": b'{"x": ' + b"[" * MAX_MARKS,
    "fields": b"a=1&" * MAX_FIELDS + b"model=m",
}


@pytest.mark.parametrize("what", MANY)
def test_a_multitude_is_unclear_before_a_parser_gets_it(what: str) -> None:
    """It would build millions of objects, for seconds in which no other thread runs."""
    found = asked(MANY[what], ("application/x-www-form-urlencoded",) if what == "fields" else JSON)
    assert re.search("more than|nested|backslashes", found.model_doubt)


@pytest.mark.parametrize(
    "text", ["a, b: [c] {d} " * MAX_MARKS, '\\"a\\\\' * 1000, "\\\\" * 400, '\\\\\\"', "[" * 1000], ids=range(5)
)
def test_a_long_text_is_no_multitude(text: str) -> None:
    found = asked(b'{"x": "%s", "model": "m"}' % text.encode())
    assert (found.models, found.model_doubt) == (("m",), "")


@pytest.mark.parametrize(
    "body",
    [
        {"model": "cheap", "models": ["cheap", "dear-1"]},
        {"fallbacks": [{"model": "dear-1"}]},
        {"modelId": "dear-1"},
        {"model_id": "dear-1"},
        {"engine": "dear-1"},
        {"request": {"model": "dear-1"}},
        {"requests": [{"params": {"model": "cheap"}}, {"params": {"model": "dear-1"}}]},
        {"requests": [{"body": {"model": "dear-1"}}]},
        {"Requests": [{"Params": {"Model": "dear-1"}}]},
        {"requests": {"first": {"params": {"model": "dear-1"}}}},
        {"requests": ['{"model":"dear-1"}']},
        {"requests": [{"params": '{"model":"dear-1"}'}]},
        {"requests": [{"params": {"models": ["dear-1"]}}]},
        {"batch": {"requests": [{"model": "dear-1"}]}},
        {"inputs": [{"model": "dear-1"}]},
        {"input": {"model": "dear-1"}, "model": None},
        {"extra_body": {"model": "dear-1"}},
        {"extra_body": {"models": ["dear-1"]}, "model": "cheap"},
        {"provider": {"model": "dear-1"}, "model": "cheap"},
        {"models": [{"id": "dear-1"}]},
        {"models": [["dear-1"]]},
        {"models": {"first": "dear-1"}},
        {"model\u017f": ["dear-1"]},
        {"fallback": "dear-1"},
        {"fallback_model": "dear-1"},
        {"context_window_fallbacks": [{"cheap": ["dear-1"]}]},
        {"deployment_id": "dear-1"},
        {"engines": ["dear-1"]},
        {"model[]": "dear-1", "model": "cheap"},
        {"$.model": "dear-1", "model": "cheap"},
        {"models": {"dear-1": {}}, "model": "cheap"},
        {"models": {"dear-1": 0.5, "cheap": 0.5}},
        {"models": [{"dear-1": None}]},
        {"fallbacks": {"dear-1": ["cheap"]}},
        {"fallbacks": [{"dear-1": []}], "model": "cheap"},
        {"deployments": {"eu": {"dear-1": {"tpm": 1}}}},
        {"model_weights": {"dear-1": 1}},
        {"prompt": {"model": "dear-1"}},
        {"prompt": {"request": {"model": "dear-1"}}, "model": "cheap"},
        {"prompts": [{"model": "dear-1", "prompt": "x"}]},
        {"prompt": {"messages": {"model": "dear-1"}}},
        *({key: {"model": "dear-1"}} for key in ("messages", "content", "system", "message", "documents", "text")),
        *({key: {"x": {"models": ["dear-1"]}}} for key in ("suffix", "generationConfig", "output_config")),
        {"tools": [{"type": "image_generation", "model": "dear-1"}], "model": "cheap"},
        {"tools": {"model": "dear-1"}},
        {"functions": {"model": "dear-1"}},
        {"response_format": {"model": "dear-1"}},
        {"tools": [{"function": {"parameters": {"properties": {"model": {}}}, "model": "dear-1"}}]},
    ],
)
def test_models_that_gateways_read_elsewhere(body: dict[str, Any]) -> None:
    assert "dear-1" in asked(json.dumps(body).encode()).models
    assert for_request((BY_MODEL,), asked(json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("body", "content_type", "target"),
    [
        (b'{"requests":[{"params":{"model":"dear-1"},"params":{"model":"cheap"}}]}', "application/json", "/"),
        (b'{"models":["dear-1"],"models":["cheap"]}', "application/json", "/"),
        (b"models=dear-1", "application/x-www-form-urlencoded", "/"),
        (b'payload={"model":"dear-1"}', "application/x-www-form-urlencoded", "/"),
        (b"{}", "application/json", "/v1/x?models=dear-1"),
        (b"{}", "application/json", "/v1/x?modelId=dear-1"),
        (b"{}", "application/json", "/v1/x?fallbacks=dear-1"),
        (b"{}", "application/json", "/v1/x;model=dear-1?a=b"),
        (b"{}", "application/json", "/v1beta/models/a%2Fmodels%2Fdear-1:generateContent"),
        *(
            (
                b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--x--\r\n' % part,
                "multipart/form-data; boundary=x",
                "/",
            )
            for part in (
                (b"models", b"dear-1"),
                (b"payload_json", b'{"model":"dear-1"}'),
                (b"requests", b'[{"model":"dear-1"}]'),
            )
        ),
    ],
)
def test_models_that_are_written_in_other_ways(body: bytes, content_type: str, target: str) -> None:
    assert "dear-1" in asked(body, (content_type,), target=target).models


@pytest.mark.parametrize("body", [b"models[dear-1]=1", b"fallbacks%5Bdear-1%5D%5B0%5D=cheap"])
def test_models_that_are_keys_of_a_form(body: bytes) -> None:
    assert for_request([BY_MODEL], asked(body, URLENCODED))


@pytest.mark.parametrize(
    "body", [{"prompt": {"id": "pmpt_1", "version": "2"}}, {"assistant_id": "a"}, {"preset": "p", "messages": []}]
)
def test_what_refers_to_something_stored_falls_under_every_limit(body: dict[str, Any]) -> None:
    """Its model is known to the vendor alone, unless the request names one."""
    assert "stored" in asked(json.dumps(body).encode()).model_doubt
    found = asked(json.dumps({**body, "model": "cheap"}).encode())
    assert (found.models, found.model_doubt) == (("cheap",), "")


@pytest.mark.parametrize("charset", ["utf-7", '"UTF-7"', "cp037", "utf-16", "iso-2022-jp"])
def test_a_body_in_another_charset_is_unclear(charset: str) -> None:
    assert "charset" in asked(b'{"model":"+AGQ-ear-1"}', (f"application/json; charset={charset}",)).model_doubt


@pytest.mark.parametrize(
    "model",
    [
        "cheap,dear-1",
        "cheap|dear-1",
        "cheap;dear-1",
        '"dear-1"',
        "/dear-1",
        "./dear-1",
        "%64ear-1",
        "cheap&model=dear-1",
    ],
)
def test_a_name_that_may_be_read_as_another_is_unclear(model: str) -> None:
    assert asked(json.dumps({"model": model}).encode()).model_doubt


@pytest.mark.parametrize(
    "model",
    ["gpt-5", "openai/gpt-5", "deepseek/r1:free", "claude@2024", "@cf/meta/llama-3", "us.anthropic.claude-3-5:0"],
)
def test_what_a_model_reads_names_none(model: str) -> None:
    """Nor do its tools and the schema of its answer; a client's own metadata may be JSON in a text."""
    schema = {"properties": {"model": {"type": "string"}}}
    found = asked(
        json.dumps(
            {
                "model": model,
                "messages": [{"role": "user", "content": '{"model":"dear-1"}', "model": "dear-1"}],
                "input": [{"model": "dear-1"}, '{"model":"dear-1"}'],
                "tools": [
                    {"function": {"name": "f", "parameters": schema}},
                    {"name": "f", "input_schema": schema, "input_examples": [{"model": "dear-1"}]},
                    {"toolSpec": {"inputSchema": {"json": schema}}},
                    {"functionDeclarations": [{"parameters": schema, "response": schema}]},
                    {"parameter_definitions": {"model": {"type": "str"}}},
                ],
                "text": {"format": {"schema": schema}},
                "prompt": ["model: dear-1", '{"model":"dear-1"}'],
                "system": [{"type": "text", "text": '{"model":"dear-1"}', "model": "dear-1"}],
                "systemInstruction": {"parts": [{"text": '{"model":"dear-1"}'}]},
                "generationConfig": {"responseSchema": schema, "response_json_schema": schema},
                "documents": [{"model": "dear-1"}],
                "functions": [{"name": "f", "parameters": schema}],
                "response_format": {"json_schema": {"schema": schema}},
                "metadata": {"user_id": '{"device":"d","session":"s"}', "note": "{no JSON"},
            }
        ).encode()
    )
    assert (found.models, found.model_doubt) == ((model,), "")


def test_json_in_texts_of_json_is_followed_so_far() -> None:
    value: Any = {"model": "dear-1"}
    for depth in range(6):
        found = asked(json.dumps({"x": json.dumps(value)}).encode())
        assert "dear-1" in found.models if depth < 3 else found.model_doubt
        value = {"x": json.dumps(value)}


def test_a_form_with_two_boundaries_is_unclear() -> None:
    body = b"--y\r\n\r\n\r\n--y--\r\n"
    assert asked(body, ("multipart/form-data; boundary=y; boundary=x",)).model_doubt
