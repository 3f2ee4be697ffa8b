"""Reading while it comes in: any pieces give the same, work is linear, memory bounded, and nothing raises."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mitmproxy_x402.llm import Reading, StreamReader, ToolCall, answer_text, differences, read_answer
from mitmproxy_x402.llm.framing.elements import Elements
from support import effort
from support.running.work import allocated, kept, lines_executed
from support.vendors import more_streams
from support.vendors import vendor_streams as v
from support.vendors.mutations import UNSAFE, VALUES, mutated

STREAMS = v.every_stream() | more_streams.every_stream()
NAMES = st.sampled_from(sorted(STREAMS))
TEXTS = st.sampled_from(sorted(name for name in STREAMS if not name.startswith("converse")))


def read(chunks: Iterable[bytes], **bounds: int) -> Reading:
    reader = StreamReader(**bounds)
    for chunk in chunks:
        reader.feed(chunk)
    reader.end()
    return reader.reading()


def bytewise(body: bytes) -> list[bytes]:
    return [body[at : at + 1] for at in range(len(body))]


def pieces(body: bytes, seed: int) -> list[bytes]:
    cuts = sorted(random.Random(seed).choices(range(len(body) + 1), k=seed % 12))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@pytest.mark.parametrize("name", STREAMS)
def test_one_byte_after_the_other_reads_the_same(name: str) -> None:
    body = STREAMS[name]
    assert read(bytewise(body)) == read([body])


@settings(deadline=None)
@given(NAMES, st.integers(0, 2**32))
def test_any_pieces_read_the_same(name: str, seed: int) -> None:
    assert read(pieces(STREAMS[name], seed)) == read([STREAMS[name]])


@pytest.mark.parametrize("name", STREAMS)
def test_it_can_be_read_at_any_time(name: str) -> None:
    body, reader, sizes = STREAMS[name], StreamReader(), [0]
    before = reader.reading()
    assert (before.dialect, before.items, before.complete, before.irregular) == ("unknown", (), False, ())
    for at in range(0, len(body), 97):
        reader.feed(body[at : at + 97])
        now = reader.reading()
        assert now.irregular == ()  # nothing that is only unfinished is odd
        assert answer_text(now)
        sizes.append(sum(len(str(item)) for item in now.items))
    reader.end()
    reader.end()
    assert reader.reading() == read([body])
    reader.feed(b"data: more\n\n")
    assert reader.reading() == read([body])


def test_arguments_that_are_on_their_way_are_shown_as_they_are() -> None:
    reader = StreamReader()
    reader.feed(v.events(v.ROLE, v.chunk(v.call(0, "", "a", "x")), v.chunk(v.call(0, '{"ci'))))
    assert reader.reading().items == (ToolCall("a", "x", '{"ci', None),)


@pytest.mark.parametrize(
    ("begun", "form"), [(b"", "unknown"), (b"\n ", "unknown"), (b"d", "events"), (b" [", "array"), (b"{", "object")]
)
def test_the_form_is_told_by_the_first_character(begun: bytes, form: str) -> None:
    reader = StreamReader()
    reader.feed(begun)
    assert reader.form == form


@pytest.mark.parametrize("blank", [b"\n", b"\r\n\r\n", b" \n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n", b": hello\n\n"])
def test_what_may_precede_a_stream(blank: bytes) -> None:
    body = blank + STREAMS["chat text"]
    assert read([body[:1], body[1:]]).text == "Grüße, 🦀"


@pytest.mark.parametrize("blank", [b"", b"\n ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n"])
@pytest.mark.parametrize("name", ["gemini array two candidates", "whole"])
def test_what_may_precede_json(blank: bytes, name: str) -> None:
    one = {"candidates": [{"content": {"parts": [{"text": "Yes"}]}, "finishReason": "STOP"}]}
    body = blank + STREAMS.get(name, json.dumps(one).encode())
    for chunks in ([body], bytewise(body)):
        reading = read(chunks)
        assert (reading.text, reading.complete, reading.irregular) == ("Yes", True, ())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.lists(JSON), st.integers(0, 2**32))
def test_elements_are_those_of_the_array(values: list[Any], seed: int) -> None:
    for body in (json.dumps(values, indent=1).encode(), json.dumps(values, ensure_ascii=True).encode()):
        elements = Elements()
        found = [json.loads(one.data) for piece in pieces(body, seed) for one in elements.feed(piece)]
        elements.end()
        assert found == values
        assert (elements.ended, elements.irregular) == (True, [])


def test_brackets_and_quotes_in_strings_are_no_structure() -> None:
    values = ['"', "\\", '\\"', '],[{"', "a\\\\", {'}"': ['"]', "\\"]}, '"",']
    body = json.dumps(values).encode()
    for chunks in ([body], bytewise(body)):
        elements = Elements()
        assert [json.loads(one.data) for chunk in chunks for one in elements.feed(chunk)] == values
        assert elements.ended


def test_what_follows_an_array_is_noted_once() -> None:
    body = STREAMS["gemini array code"] + b"[1] and more"
    assert read([body]).irregular == ("something follows the array",)
    assert read(bytewise(body)) == read([body])


def test_an_element_over_the_bound_is_dropped() -> None:
    body = v.array([v.part({"text": "a"}), v.part({"text": "b" * 5000}), v.part({"text": "c"}, finish="STOP")])
    for chunks in ([body], bytewise(body)):
        reading = read(chunks, max_event=1000)
        assert (reading.text, reading.complete) == ("ac", True)
        assert reading.irregular == ("an element of the array is larger than 1000 bytes and is dropped",)


def test_text_over_the_bound_is_left_out() -> None:
    reading = read([v.chat(v.ROLE, *[v.chunk({"content": "0123456789"})] * 20, v.chunk({}, "stop"))], max_text=55)
    assert reading.text == "0123456789" * 5 + "01234"
    assert reading.irregular == ("more than 55 characters: the rest is left out (15 times)",)
    assert reading.complete


def test_a_whole_answer_over_the_bound_is_not_read() -> None:
    reading = read([b'{"choices": [', b" " * 100, b"]}"], max_event=50)
    assert reading.irregular == ("the answer is larger than 50 bytes and is not read",)


def test_parts_over_the_bound_are_left_out() -> None:
    calls = [v.chunk(v.call(index, "{}", f"c{index}", "x")) for index in range(120)]
    reading = read([v.chat(v.ROLE, *calls, v.chunk({}, "tool_calls"))], max_items=100)
    assert len(reading.items) == 100
    assert reading.irregular == ("more than 100 parts: the rest is left out (20 times)",)


FLOODS: dict[str, list[Any]] = {
    "text": [v.chunk({"content": "x"})],
    "reasoning": [v.chunk({"reasoning": "x"})],
    "calls": [v.chunk(v.call(n, "{}", f"c{n}", "name")) for n in range(5000)],
    "choices": [v.chunk({"content": "x"}, "stop", index=n) for n in range(5000)],
    "ids": [{**v.chunk(), "id": f"chatcmpl-{n}" + "x" * 1000, "model": f"m{n}"} for n in range(100)],
    "blocks": [v.start(), *(v.block(n, "text", text="x") for n in range(5000))],
    "unknown blocks": [v.start(), *(v.delta(n, "text", text="x") for n in range(5000))],
    "unknown events": [v.CREATED, *({"type": f"response.x{n}" + "y" * 1000} for n in range(500))],
    "items": [v.CREATED, *(v.item(n, {"type": "reasoning", "summary": []}) for n in range(5000))],
    "errors": [{"error": {"message": f"{n}" + "x" * 1000}} for n in range(100)],
    "names": [v.chunk(v.call(0, "", "c", f"n{n}")) for n in range(500)],
    "stops": [v.chunk({}, "x" * 10_000, index=n) for n in range(100)],
    "citations": [
        v.chunk({"annotations": [{"type": "url_citation", "url": f"x{n}", "title": "y" * 500}]}) for n in range(5000)
    ],
    "details": [{"error": {"message": "no", **{f"k{n}": "x" * 1000}}} for n in range(500)],
    "partial arguments": [
        v.part({"functionCall": {"name": "f", "willContinue": True}}),
        *(
            v.part(
                {
                    "functionCall": {
                        "willContinue": True,
                        "partialArgs": [{"jsonPath": f"$.a{n}", "stringValue": "x" * 50}],
                    }
                }
            )
            for n in range(2000)
        ),
    ],
    "slots": [
        v.CREATED,
        v.item(0, {"type": "shell_call"}),
        *(
            {"type": "response.shell_call_command.delta", "output_index": 0, "command_index": n, "delta": "x" * 50}
            for n in range(2000)
        ),
    ],
    "converse": [{"contentBlockDelta": {"contentBlockIndex": n, "delta": {"text": "x"}}} for n in range(5000)],
    "cohere": [
        more_streams.v2("tool-call-delta", n, {"tool_calls": {"function": {"arguments": "x"}}}) for n in range(5000)
    ],
    "ollama": [more_streams.said(tool_calls=[more_streams.OLLAMA_CALL]) for _ in range(2000)],
    "interactions": [more_streams.step("delta", n, delta={"type": "text", "text": "x"}) for n in range(5000)],
    "assistants": [
        {"object": "thread.message.delta", "id": f"m{n}" + "x" * 300, "delta": more_streams.spoken("x")}
        for n in range(2000)
    ],
    "transcription": [{"type": "transcript.text.delta", "delta": "x"}],
    "complete": [{"type": "completion", "completion": "x", "stop_reason": None}],
}


@pytest.mark.parametrize("name", FLOODS)
def test_memory_is_bounded_whatever_comes(name: str) -> None:
    """Of 400 KB of anything a fraction stays, as much as of ten times that."""
    body = v.events(*FLOODS[name])
    body = (body * (1 + 400_000 // len(body)))[:400_000]

    def work() -> StreamReader:
        reader = StreamReader(max_text=20_000, max_items=100)
        for at in range(0, len(body), 65536):
            reader.feed(body[at : at + 65536])
        return reader

    assert kept(work) < 160_000
    reading = work().reading()
    assert len(reading.irregular) <= 103
    assert sum(map(len, reading.irregular)) < 50_000


@pytest.mark.parametrize(
    "one",
    [
        [v.chunk({"content": "x"})],
        [v.chunk(v.call(0, "x"))],
        [v.delta(0, "text", text="x")],
        [v.fragment("output_text", 0, "x", content_index=0)],
        [v.fragment("output_text", 0, "x", content_index=0), v.whole("output_text", 0, text="x", content_index=0)],
        [v.part({"text": "x"})],
        [v.part({"functionCall": {"name": "x"}})],
        [v.block(0, "text", text="x"), v.stop(0)],
        [v.part({"functionCall": {"partialArgs": [{"jsonPath": "$.a", "stringValue": "x"}], "willContinue": True}})],
        [{"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "x"}}}],
        [more_streams.v2("content-delta", 0, {"content": {"text": "x"}})],
        [more_streams.said(content="x")],
        [more_streams.said(tool_calls=[more_streams.OLLAMA_CALL])],
        [more_streams.step("delta", 0, delta={"type": "text", "text": "x"})],
        [{"object": "thread.message.delta", "id": "m", "delta": more_streams.spoken("x")}],
        [{"type": "transcript.text.delta", "delta": "x"}],
        [{"type": "response.x.delta", "delta": "x"}],
        [v.chunk({"annotations": [{"type": "url_citation", "url": "x"}]})],
    ],
)
def test_the_steps_grow_with_the_length(one: list[Any]) -> None:
    def steps(times: int) -> int:
        body = v.events(*one) * times
        return lines_executed(lambda: read(body[at : at + 50] for at in range(0, len(body), 50)))

    assert steps(200) < 4.3 * steps(50)


@pytest.mark.parametrize(
    "one",
    [
        more_streams.delta(0, text="x"),
        more_streams.lines(more_streams.said(content="x")),
        b'data: {"choices":[]}\n',
        b'{"choices":[]}',
        b"data: x\n",
        b"error: x\n\n",
    ],
    ids=["frames", "lines", "no blank lines", "no lines", "no JSON", "errors"],
)
def test_the_steps_grow_with_the_length_in_every_form(one: bytes) -> None:
    def steps(times: int) -> int:
        body = one * times
        return lines_executed(lambda: read(body[at : at + 50] for at in range(0, len(body), 50)))

    assert steps(200) < 4.3 * steps(50)


def test_a_fragment_more_does_not_copy_what_is_there() -> None:
    size = 1 << 20
    reader = StreamReader()
    fragment = v.events(v.chunk({"content": "x"}))
    reader.feed(v.events(v.chunk({"content": "y" * size})))
    assert allocated(lambda: reader.feed(fragment), 200) < 10 * size
    reader.reading()
    assert allocated(lambda: reader.feed(fragment), 200) < 10 * size


def test_an_element_that_grows_is_not_copied() -> None:
    size = 1 << 20
    reader = StreamReader()
    reader.feed(b'[{"x": "' + b"y" * size)
    assert allocated(lambda: reader.feed(b"y"), 200) < 10 * size


def check(body: bytes) -> None:
    """Whatever it is: it is read, shown safely, and equal to itself."""
    reader = StreamReader()
    reader.feed(body[: len(body) // 2])
    answer_text(reader.reading())
    reader.feed(body[len(body) // 2 :])
    reader.end()
    reading = reader.reading()
    text = answer_text(reading)
    assert not UNSAFE.search(text)
    assert differences(reading, reading) == []
    assert not UNSAFE.search("".join([*reading.irregular, reading.error or ""]))
    read_answer("text/event-stream", body)
    read_answer("application/json", body)


@settings(deadline=None, max_examples=effort.examples(120))
@given(st.lists(VALUES, max_size=6))
def test_any_json_is_read(values: list[Any]) -> None:
    texts = [json.dumps(value) for value in values]
    check("".join(f"data: {text}\n\n" for text in texts).encode())
    check(f"[{','.join(texts)}]".encode())
    for text in texts[:1]:
        check(text.encode())


@settings(deadline=None, max_examples=effort.examples(200))
@given(TEXTS, st.integers(0, 2**32), st.sampled_from([0.01, 0.05, 0.2]))
def test_real_streams_gone_wrong_are_read(name: str, seed: int, chance: float) -> None:
    choose, out = random.Random(seed), []
    for event in STREAMS[name].decode().split("\n\n"):
        head, found, data = event.partition("data: ")
        if data.startswith("{"):
            data = json.dumps(mutated(json.loads(data), choose, chance))
        if choose.random() > chance:
            out += [head + found + data] * choose.choice([1, 1, 1, 2])
    if choose.random() < chance:
        choose.shuffle(out)
    body = bytearray("\n\n".join(out).encode())
    for _ in range(choose.choice([0, 0, 3]) if body else 0):
        body[choose.randrange(len(body))] = choose.randrange(256)
    check(bytes(body))
    assert repr(read(pieces(bytes(body), seed))) == repr(read([bytes(body)]))  # repr: NaN is not itself


@settings(deadline=None, max_examples=effort.examples(100))
@given(st.binary(max_size=200))
def test_any_bytes_are_read(body: bytes) -> None:
    check(body)
