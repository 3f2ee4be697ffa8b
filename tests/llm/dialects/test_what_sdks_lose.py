"""Streams whose framing is unusual are called irregular where an SDK of the vendor loses something, and only there."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from support.vendors import vendor_streams as v
from support.vendors.reading import read
from support.vendors.vendor_server import Vendor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # google-genai's own, while it is imported
    from google import genai
    from google.genai import types

BOM = b"\xef\xbb\xbf"


def _each(change: Callable[[bytes, int], bytes]) -> Callable[[bytes], bytes]:
    """Change every event, which comes without its empty line."""

    def changed(body: bytes) -> bytes:
        return b"".join(change(event, n) for n, event in enumerate(body.split(b"\n\n")[:-1]))

    return changed


def _without_names(body: bytes) -> bytes:
    return re.sub(rb"(?m)^event:.*\n", b"", body)


def _split(event: bytes, _: int) -> bytes:
    """Data over two lines, between two of its values."""
    head, _, data = event.rpartition(b"data: ")
    first, comma, rest = data.partition(b",")
    return head + b"data: " + first + (comma + b"\ndata: " + rest if comma else b"") + b"\n\n"


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda body: body,
    "CRLF": lambda body: body.replace(b"\n", b"\r\n"),
    "CR": lambda body: body.replace(b"\n", b"\r"),
    "CRLF and LF by turns": _each(lambda e, n: e.replace(b"\n", b"\r\n" if n % 2 else b"\n") + b"\r\n\r\n"),
    "a byte order mark": lambda body: BOM + body,
    "a byte order mark before each event": _each(lambda e, _: BOM + e + b"\n\n"),
    "a byte order mark before the data": lambda body: body.replace(b"data: {", b"data: " + BOM + b"{"),
    "no space after the colon": lambda body: re.sub(rb"(?m)^(data|event): ", rb"\1:", body),
    "two spaces after the colon": lambda body: re.sub(rb"(?m)^(data): ", rb"\1:  ", body),
    "two spaces before the name": lambda body: re.sub(rb"(?m)^(event): ", rb"\1:  ", body),
    "a tab after the colon": lambda body: re.sub(rb"(?m)^(data): ", b"\\1:\t", body),
    "a space before the colon": lambda body: re.sub(rb"(?m)^(data): ", rb"\1 : ", body),
    "a space before the field": lambda body: re.sub(rb"(?m)^data: ", b" data: ", body),
    "names in capitals": lambda body: re.sub(rb"(?m)^data: ", b"Data: ", body),
    "no names": _without_names,
    "a name that is message": lambda body: re.sub(rb"(?m)^data: ", b"event: message\ndata: ", _without_names(body)),
    "an empty name": lambda body: re.sub(rb"(?m)^data: ", b"event:\ndata: ", _without_names(body)),
    "a wrong name": lambda body: re.sub(rb"(?m)^data: ", b"event: chunk\ndata: ", _without_names(body)),
    "names in other letters": lambda body: re.sub(rb"(?m)^event: (.*)$", lambda m: b"event: " + m[1].upper(), body),
    "the name after the data": _each(lambda e, _: b"\n".join(reversed(e.split(b"\n"))) + b"\n\n"),
    "the name twice": lambda body: re.sub(rb"(?m)^(event: .*\n)", rb"\1\1", body),
    "ids": _each(lambda e, n: b"id: %d\n%s\n\n" % (n, e)),
    "ids after the data": _each(lambda e, n: b"%s\nid: %d\n\n" % (e, n)),
    "a retry first": lambda body: b"retry: 3000\n\n" + body,
    "a retry in each event": _each(lambda e, _: b"retry: 10\n%s\n\n" % e),
    "a retry that is no number": lambda body: b"retry: soon\n\n" + body,
    "comments between": _each(lambda e, _: b": still here\n\n%s\n\n" % e),
    "a comment first": lambda body: b": OPENROUTER PROCESSING\n\n" + body,
    "comments within": _each(lambda e, _: b": still here\n%s\n:\n\n" % e),
    "spaces at the end of the data": lambda body: re.sub(rb"(?m)^(data: .*)$", rb"\1  ", body),
    "spaces at the end of the name": lambda body: re.sub(rb"(?m)^(event: .*)$", rb"\1 ", body),
    "no empty line at the end": lambda body: body.removesuffix(b"\n"),
    "no line end at the end": lambda body: body.removesuffix(b"\n\n"),
    "data over two lines": _each(_split),
    "no empty lines": lambda body: body.replace(b"\n\n", b"\n"),
    "three empty lines": lambda body: body.replace(b"\n\n", b"\n\n\n\n"),
    "empty lines first": lambda body: b"\n\n\n" + body,
    "lines with a space between": lambda body: body.replace(b"\n\n", b"\n \n"),
    "empty data": _each(lambda e, _: b"data:\n\n%s\n\n" % e),
    "empty data first": lambda body: b"data: \n\n" + body,
    "a field of another kind": _each(lambda e, _: b"priority: 1\n%s\n\n" % e),
    "a field alone": _each(lambda e, _: b"priority: 1\n\n%s\n\n" % e),
    "a name without data": lambda body: b"event: open\n\n" + body,
    "a ping": lambda body: b'event: ping\ndata: {"type": "ping"}\n\n' + body,
    "a ping without a name": lambda body: b'data: {"type": "ping"}\n\n' + body,
    "a ping that is no JSON": lambda body: b"event: ping\ndata: 2026-11-29\n\n" + body,
    "a mark of the end": lambda body: body.replace(b"data: [DONE]\n\n", b"") + b"data: [DONE]\n\n",
    "two marks of the end": lambda body: body.replace(b"data: [DONE]\n\n", b"") + b"data: [DONE]\n\n" * 2,
    "no mark of the end": lambda body: body.replace(b"data: [DONE]\n\n", b""),
    "a mark of the end in small letters": lambda b: b.replace(b"data: [DONE]\n\n", b"") + b"data: [done]\n\n",
    "a NUL first": lambda body: b"\0" + body,
    "a NUL between": _each(lambda e, _: b"\0\n\n%s\n\n" % e),
    "a separator of records first": lambda body: b"\x1e" + body,
    "text in Latin-1": lambda body: body.replace("ü".encode(), b"\xfc"),
    "form feeds in the text": lambda body: body.replace("ü".encode(), b"\x0c"),
    "white space in the JSON": lambda body: re.sub(rb"(?m)^data: \{", b"data: { ", body),
}
CHAT = v.chat(v.chunk({"role": "assistant", "content": "Zürich "}), v.chunk({"content": "is"}),
              v.chunk(v.call(0, "", "a", "f")), v.chunk(v.call(0, '{"x":')), v.chunk(v.call(0, "1}")),
              v.chunk({}, "tool_calls"))  # fmt: skip
MESSAGES = v.messages(
    v.start(), v.block(0, "text", text=""), v.delta(0, "text", text="Zürich "), v.delta(0, "text", text="is"),
    v.stop(0), v.block(1, "tool_use", id="t", name="f", input={}), v.delta(1, "input_json", partial_json='{"x":1}'),
    v.stop(1), *v.finish("tool_use"),
)  # fmt: skip
GEMINI = v.events(
    v.part({"text": "Zürich "}), v.part({"text": "is"}),
    v.part({"functionCall": {"name": "f", "args": {"x": 1}}}, finish="STOP"),
)  # fmt: skip
RESPONSES = v.RESPONSES["search and text"]

Said = list[Any]


def _chat(url: str) -> Said:
    asked: Any = {"model": "gpt-5", "messages": [{"role": "user", "content": "?"}]}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        with client.chat.completions.stream(**asked) as events:
            for _ in events:
                pass
            message: Any = events.get_final_completion().choices[0].message
    return [message.content, *((one.function.name, one.function.arguments) for one in message.tool_calls or [])]


def _responses(url: str) -> Said:
    deltas: Said = []
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for event in client.responses.create(model="gpt-5", input="?", stream=True):
            deltas.append(event.to_dict())
    return [one for one in deltas if one["type"] != "ping"]


def _messages(url: str) -> Said:
    asked: Any = {"model": "claude-opus-4-6", "messages": [{"role": "user", "content": "?"}], "max_tokens": 9}
    with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
        with client.messages.stream(**asked) as events:
            helped = events.get_final_message().to_dict()["content"]
        raw = [event.to_dict() for event in client.messages.create(stream=True, **asked)]
    return [helped, [one for one in raw if one["type"] != "ping"]]


def _gemini(url: str) -> Said:
    client = genai.Client(api_key="none", http_options=types.HttpOptions(base_url=url))
    answers = list(client.models.generate_content_stream(model="gemini-3-pro", contents="?"))
    client.close()
    candidates = [one for answer in answers for one in answer.candidates or []]
    return [one.model_dump(exclude_none=True) for one in candidates]


SDKS: dict[str, tuple[Callable[[str], Said], bytes]] = {
    "chat": (_chat, CHAT),
    "responses": (_responses, RESPONSES),
    "messages": (_messages, MESSAGES),
    "gemini": (_gemini, GEMINI),
}


def _said(name: str, url: str) -> Said | str:
    try:
        return SDKS[name][0](url)
    except Exception as error:  # whatever an SDK raises
        return type(error).__name__


READ_BY_THIS_SDK = {
    *(("messages", change) for change in ("a wrong name", "names in other letters", "a name that is message")),
    *(("messages", change) for change in ("two spaces before the name", "spaces at the end of the name")),
    ("gemini", "a separator of records first"),
}
"""What another version or language of the SDK loses, whatever the one here does. Anthropic's other ones look at nothing
but the name; Google's reads a record's separator as the end of a line up to version 2."""


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", SDKS)
def test_what_an_sdk_loses_is_irregular(vendor: Vendor, name: str, change: str) -> None:
    body = CHANGES[change](SDKS[name][1])
    vendor.body = SDKS[name][1]
    expected = _said(name, vendor.url)
    assert isinstance(expected, list)
    vendor.body = body
    lost = _said(name, vendor.url) != expected or (name, change) in READ_BY_THIS_SDK
    assert bool(read(body).irregular) == lost
