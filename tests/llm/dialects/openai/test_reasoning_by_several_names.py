"""The reasoning of chat completions, which vendors say under several names: once, whole, and nothing lost."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import openai
import pytest

from mitmproxy_x402.llm import Reasoning, StreamReader, read_answer
from support.vendors import vendor_streams as v
from support.vendors.reading import read
from support.vendors.vendor_server import Vendor

KEYS = ("reasoning_content", "reasoning", "thinking")
HI, STOP = v.chunk({"content": "Hi"}), v.chunk({}, "stop")


def detail(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "reasoning.text", "text": text, "format": "anthropic-claude-v1", "index": 0, **more}


def summary(text: str, index: int = 0) -> dict[str, Any]:
    return {"type": "reasoning.summary", "summary": text, "format": "openai-responses-v1", "index": index}


def details(*said: dict[str, Any]) -> dict[str, Any]:
    return {"reasoning_details": list(said)}


SEALED = detail("", signature="SIG")
IN_DETAILS = [details(detail("Let ")), details(detail("me see")), details(SEALED)]
WHOLE_DETAILS = details(detail("Let me see", signature="SIG"))


def message(**said: Any) -> dict[str, Any]:
    whole = {"role": "assistant", "content": "Hi", **said}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-5-mini",
            "choices": [{"index": 0, "message": whole, "finish_reason": "stop"}]}  # fmt: skip


def thoughts(*deltas: Any, end: Any = STOP) -> list[tuple[str, str]]:
    """The reasoning and its signature, read at once and in pieces; nothing else may be odd."""
    chunks = [one if "choices" in one else v.chunk(one) for one in deltas]
    body = v.chat(v.ROLE, *chunks, end)
    reading = read(body)
    assert (reading.text, reading.irregular, reading.differing) == ("Hi", (), ())
    reader = StreamReader(traced=True)
    for at in range(0, len(body), 7):
        reader.feed(body[at : at + 7])
    reader.end()
    assert reader.reading() == reading
    return [(one.text, one.signature) for one in reading.items if isinstance(one, Reasoning)]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "end",
    [
        lambda key: (v.chunk({key: "Let me see"}), HI, STOP),
        lambda key: (HI, v.chunk({key: "Let me see"}), STOP),
        lambda key: (HI, v.chunk({key: "Let me see", **WHOLE_DETAILS}, "stop")),
        lambda key: (HI, STOP, message(**{key: "Let me see"})),
        lambda key: (HI, message(**{key: "Let me see"})),
        lambda key: (HI, message(**{key: "Let me see"}, **WHOLE_DETAILS)),
        lambda _: (HI, message(**WHOLE_DETAILS)),
        lambda key: (message(**{key: "Let me see"}, **WHOLE_DETAILS),),
    ],
)
def test_details_and_then_all_of_it_again(key: str, end: Any) -> None:
    *deltas, last = end(key)
    assert thoughts(*IN_DETAILS, *deltas, end=last) == [("Let me see", "SIG")]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("other", [*KEYS, "reasoning_details"])
def test_one_name_and_then_another(key: str, other: str) -> None:
    again = WHOLE_DETAILS if other == "reasoning_details" else {other: "Let me see"}
    if key != other:
        assert thoughts({key: "Let "}, {key: "me see"}, again, HI)[0][0] == "Let me see"
    assert [text for text, _ in thoughts({key: "Let "}, {key: "me see"}, HI, message(**again))] == ["Let me see"]


@pytest.mark.parametrize("lag", range(5))
def test_two_names_by_turns(lag: int) -> None:
    pieces = ["Let ", "me ", "see", ".\n\n", "Yes."]
    words: list[Any] = [{"reasoning": one} for one in pieces]
    turns: list[Any] = [*words[:lag]]
    for number, one in enumerate(pieces):
        turns += [details(detail(one)), *words[number + lag : number + lag + 1]]
    assert thoughts(*turns, HI) == [("Let me see.\n\nYes.", "")]


def test_three_names_in_each_delta() -> None:
    both = [{"reasoning": one, "reasoning_content": one, **details(detail(one))} for one in ("Let ", "me ", "see")]
    assert thoughts(*both, HI) == [("Let me see", "")]


@pytest.mark.parametrize(
    "said", [{"reasoning": "ha"}, details(detail("ha")), {"reasoning": "ha", **details(detail("ha"))}]
)
def test_what_the_model_says_twice_is_said_twice(said: dict[str, Any]) -> None:
    assert thoughts(said, said, said, HI) == [("hahaha", "")]


def test_parts_that_the_words_join_by_empty_lines() -> None:
    both = details(summary("First."), summary("Then.", 1), {"type": "reasoning.encrypted", "data": "ENC", "index": 2})
    assert thoughts(HI, {"reasoning": "First.\n\nThen.", **both}) == [("First.\n\nThen.", "ENC")]
    apart = [details(summary("First.")), details(summary("Then.", 1))]
    assert thoughts(*apart, HI, message(reasoning="First.\n\nThen.")) == [("First.Then.", "")]
    assert thoughts(*apart, {"reasoning": "First.\n\nThen."}, HI) == [("First.Then.", "")]
    assert thoughts({"reasoning": "First."}, {"reasoning": "\n\nThen."}, *apart, HI) == [("First.\n\nThen.", "")]


def test_what_only_one_of_them_says_is_added() -> None:
    assert thoughts(*IN_DETAILS, {"reasoning": "Let me see. Yes."}, HI) == [("Let me see. Yes.", "SIG")]
    assert thoughts({"reasoning": "Let"}, details(detail("Let me")), {"reasoning": " me see"}, HI) == [
        ("Let me see", "")
    ]


def test_another_text_under_another_name_is_shown_whole() -> None:
    assert thoughts({"reasoning": "Let me see"}, details(detail("Let us go")), details(detail(" now")), HI) == [
        ("Let me see", ""),
        ("Let us go now", ""),
    ]
    late = [details(detail("Let ")), details(detail("us go"))]
    assert thoughts({"reasoning": "Let me see"}, *late, HI) == [("Let me see", ""), ("Let us go", "")]


def test_a_character_that_fragments_cut_in_two() -> None:
    halves = [{"reasoning": one, **details(detail(one))} for one in ("<\ud83e", "\udd80>")]
    late = [{"reasoning": "<\ud83e"}, {"reasoning": "\udd80>"}, details(detail("<\ud83e")), details(detail("\udd80>"))]
    for deltas in (halves, late):
        chunks = [v.ROLE, *map(v.chunk, deltas), HI, STOP]
        body = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks).encode() + b"data: [DONE]\n\n"
        reading = read(body)
        assert [one.text for one in reading.items if isinstance(one, Reasoning)] == ["<🦀>"]
        assert reading.irregular == ()


def test_each_choice_has_its_own() -> None:
    first, second = (v.chunk({"reasoning": "Hm"}, index=index) for index in (0, 1))
    again = [v.chunk(details(detail("Hm")), index=index) for index in (1, 0)]
    ends = [v.chunk({"content": "Hi"}, "stop", index=index) for index in (0, 1)]
    reading = read(v.chat(first, second, *again, *ends))
    assert [(one.text, one.choice) for one in reading.items if isinstance(one, Reasoning)] == [("Hm", 0), ("Hm", 1)]


def test_openai_s_sdk_hands_on_the_same_words(vendor: Vendor) -> None:
    vendor.body = v.chat(v.ROLE, *map(v.chunk, IN_DETAILS), HI, v.chunk({"reasoning": "Let me see"}, "stop"))
    told: list[Any] = []
    with openai.OpenAI(base_url=f"{vendor.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "gpt-5", "messages": [{"role": "user", "content": "?"}]}
        for one in client.chat.completions.create(**asked, stream=True):
            told += [getattr(one.choices[0].delta, "reasoning", None)]
    (words,) = filter(None, told)
    reading = read(vendor.body)
    assert [one.text for one in reading.items if isinstance(one, Reasoning)] == [words]


def test_a_whole_answer() -> None:
    both = message(reasoning="Let me see", **WHOLE_DETAILS)
    reading = read_answer("application/json", json.dumps(both).encode())
    assert reading is not None
    assert reading.items[0] == Reasoning("Let me see", signature="SIG")
    assert len(reading.items) == 2


def pieces_of(text: str, random: Random) -> list[str]:
    cuts = sorted(random.sample(range(1, len(text)), random.randint(0, min(9, len(text) - 1)))) if len(text) > 1 else []
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def test_any_names_in_any_pieces_by_any_turns_say_it_once() -> None:
    for seed in range(500):
        random = Random(seed)
        text = "".join(random.choices("ab \n🦀x", k=random.randint(1, 25)))
        names = random.sample([*KEYS, "reasoning_details"], random.randint(1, 4))
        left = {name: pieces_of(text, random) if random.random() < 0.7 else [text] for name in names}
        deltas = []
        while any(left.values()):
            said = {name: ones.pop(0) for name, ones in left.items() if ones and random.random() < 0.5}
            as_detail = said.pop("reasoning_details", None)
            deltas.append({**said, **(details(detail(as_detail)) if as_detail else {})})
        reading = read(v.chat(v.ROLE, *map(v.chunk, deltas), HI, STOP))
        assert [one.text for one in reading.items if isinstance(one, Reasoning)] == [text], seed
        assert reading.irregular == ()
