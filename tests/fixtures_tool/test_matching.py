"""Which recording answers: pure rules, no socket."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.errors import SettingsError
from mitmproxy_x402.fixtures.json_diff import differences
from mitmproxy_x402.fixtures.matching import MATCHES, Asked, Miss, Shelf, canonical, is_same_path, read_match
from mitmproxy_x402.recording.format import Recording, read_recording
from support.recording.recordings import write_recording

CHAT = "/v1/chat/completions"


def shelf(tmp_path: Path, *recorded: Any, match: Any = "body", **more: Any) -> Shelf:
    """Recordings 0, 1, ... of the request bodies `recorded`."""
    folders = [write_recording(tmp_path / str(number), body, **more) for number, body in enumerate(recorded)]
    return Shelf([read_recording(folder) for folder in folders], match)


def take(shelf: Shelf, body: Any, method: str = "POST", path: str = CHAT) -> str:
    """The number of the recording, or why there is none."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = shelf.take(Asked(method, path, content))
    return found.folder.name if isinstance(found, Recording) else str(found)


class TestBody:
    def test_the_same_bytes_come_before_the_same_json(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, b'{"a":1,"b":2}', b'{"b":2,"a":1}')
        assert take(kept, b'{"b":2,"a":1}') == "1"
        assert take(kept, b'{"a":1,"b":2}') == "0"
        assert take(kept, b'{ "b": 2, "a": 1 }') == "1"  # both are equal as JSON, the first was given before

    def test_any_order_of_keys_is_the_same(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {"x": 1}, {"model": "m", "messages": [{"role": "user", "content": "é"}]})
        assert take(kept, b'{"messages": [{"content": "\\u00e9", "role": "user"}], "model": "m"}') == "1"

    def test_equal_ones_are_given_in_order_and_the_last_again(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {"a": 1}, {"b": 1}, {"a": 1})
        assert [take(kept, {"a": 1}) for _ in range(4)] == ["0", "2", "2", "2"]
        assert take(kept, {"b": 1}) == "1"

    @pytest.mark.parametrize("body", [b"", b"\x00\xff", b"a=1&b=2", b'{"a":'])
    def test_what_is_no_json_must_be_the_same_bytes(self, tmp_path: Path, body: bytes) -> None:
        kept = shelf(tmp_path, b"something else", body)
        assert take(kept, body) == "1"
        assert "No recording" in take(kept, body + b" ")

    def test_true_is_not_one(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {"a": 1}, {"a": 1.0}, {"a": True})
        assert [take(kept, {"a": value}) for value in (True, 1.0, 1)] == ["2", "1", "0"]


class TestPathAndOrder:
    def test_by_path_an_equal_body_is_preferred(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {"a": 1}, {"a": 2}, {"a": 3}, match="path")
        assert take(kept, {"a": 2}) == "1"
        assert [take(kept, {"a": 9}) for _ in range(4)] == ["0", "2", "2", "2"]
        assert take(kept, {"a": 1}) == "0"

    def test_by_order_the_body_is_not_looked_at(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {"a": 1}, {"a": 2}, {"a": 3}, match="order")
        assert [take(kept, {"a": 2}) for _ in range(4)] == ["0", "1", "2", "2"]

    @pytest.mark.parametrize("match", MATCHES)
    def test_method_and_path_must_always_be_equal(self, tmp_path: Path, match: Any) -> None:
        kept = shelf(tmp_path, {}, match=match)
        assert take(kept, {}, path="/v1/messages") == (
            "No recording matches POST /v1/messages. The nearest is 0:"
            " the path: asked /v1/messages, recorded /v1/chat/completions."
        )
        assert "the method: asked PUT, recorded POST." in take(kept, {}, method="PUT")
        assert take(kept, {}) == "0"

    def test_others_are_refused(self) -> None:
        assert [read_match(name) for name in MATCHES] == list(MATCHES)
        with pytest.raises(SettingsError, match="'digest': expected one of body, path, order"):
            read_match("digest")


class TestQueries:
    @pytest.mark.parametrize(
        ("asked", "recorded", "same"),
        [
            ("/a?x=1&y=2", "/a?x=1&y=2", True),
            ("/a?y=2&x=1", "/a?x=1&y=2", False),
            ("/a?key=secret&alt=sse", "/a?key=[redacted]&alt=sse", True),
            ("/a?key=&alt=sse", "/a?key=[redacted]&alt=sse", True),
            ("/a?key=secret&alt=json", "/a?key=[redacted]&alt=sse", False),
            ("/a?other=secret", "/a?key=[redacted]", False),
            ("/a?key=secret", "/a?key=[redacted]&alt=sse", False),
            ("/b?key=secret", "/a?key=[redacted]", False),
            ("/a", "/a?key=[redacted]", False),
            ("/a/secret/b", "/a/[redacted]/b", True),
            ("/a/secret/c", "/a/[redacted]/b", False),
            ("/a/secret/more/b", "/a/[redacted]/b", False),
            ("/a/secret/b?x&secret&y=/?", "/a/[redacted]/b?x&[redacted]&y=/?", True),
            ("/a/secret/b?x&y=1", "/a/[redacted]/b?x&[redacted]&y=1", False),
        ],
    )
    def test_a_redacted_value_equals_every_other(self, asked: str, recorded: str, same: bool) -> None:
        assert is_same_path(asked, recorded) == same

    @pytest.mark.parametrize(
        ("asked", "recorded", "same"),
        [
            ("/a?key=AIza", "/a", True),
            ("/a?key=AIza&alt=sse", "/a?alt=sse", True),
            ("/a?alt=sse&key=AIza&sort_key=1", "/a?alt=sse&sort_key=1", True),
            ("/a?sort_key=1", "/a", False),
            ("/a", "/a?key=1", False),
        ],
    )
    def test_a_key_that_the_proxy_takes_off_does_not_count(self, asked: str, recorded: str, same: bool) -> None:
        assert is_same_path(asked, recorded) == same

    def test_a_message_shows_no_value_of_a_query(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {}, path="/v1/x?key=[redacted]&alt=sse")
        said = take(kept, {}, path="/v1/x?key=sk-secret&alt=json")
        assert said == "No recording matches POST /v1/x?key=...&alt=.... The nearest is 0: the values of the query."
        assert "sk-secret" not in take(kept, {}, path="/v1/y?key=sk-secret")


class TestNearest:
    def test_it_says_where_the_json_differs(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {"model": "z"}, {"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
        said = take(kept, {"model": "m", "messages": [{"role": "user", "content": "Good bye"}]})
        assert said == (
            "No recording matches POST /v1/chat/completions. The nearest is 1:"
            ' messages[0].content: asked "Good bye", recorded "Hello".'
        )

    def test_only_a_few_of_many(self, tmp_path: Path) -> None:
        said = take(shelf(tmp_path, dict.fromkeys("abcdefg", 1)), dict.fromkeys("abcdefg", 2))
        assert said.count("asked 2, recorded 1") == 3
        assert said.endswith("; and 4 more.")

    def test_what_is_missing_or_too_much(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {"a": [1, 2], "b": None})
        assert "a[2]: asked 3, recorded nothing; b: asked nothing, recorded null." in take(kept, {"a": [1, 2, 3]})

    def test_bodies_that_are_no_json(self, tmp_path: Path) -> None:
        kept = shelf(tmp_path, {"a": 1})
        assert "the body: asked 3 bytes that are no JSON, recorded 8 bytes of JSON." in take(kept, b"\x00\x01\x02")
        assert "the body: asked nothing," in take(kept, b"")

    def test_no_recording_at_all(self) -> None:
        found = Shelf([]).take(Asked("GET", "/v1/models"))
        assert isinstance(found, Miss)
        assert str(found) == "No recording matches GET /v1/models: there is none at all."

    def test_the_most_similar_path_of_the_same_method(self, tmp_path: Path) -> None:
        one = write_recording(tmp_path / "one", path="/v1/messages")
        two = write_recording(tmp_path / "two", path="/v1/messages/count_token", method="GET")
        three = write_recording(tmp_path / "three", path="/v1/models")
        kept = Shelf([read_recording(folder) for folder in (one, two, three)])
        assert "nearest is one:" in take(kept, {}, path="/v1/messages/count_tokens")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


class TestJson:
    @given(_JSON, _JSON)
    def test_there_is_a_difference_exactly_where_the_canonical_forms_differ(self, one: Any, other: Any) -> None:
        same = canonical(json.dumps(one).encode()) == canonical(json.dumps(other).encode())
        assert bool(differences(one, other)) != same
        assert differences(one, one) == []

    def test_one_message_more_is_one_difference(self) -> None:
        turns = [{"role": "user", "content": str(number)} for number in range(5)]
        longer = [*turns[:2], {"role": "user", "content": "more"}, *turns[2:]]
        found = differences({"m": turns}, {"m": longer})
        assert found == [("m[2]", "nothing", '{"role": "user", "content": "more"}')]
        assert differences([1, 1], [1]) == [("[1]", "1", "nothing")]

    def test_tools_are_compared_with_their_namesakes(self) -> None:
        tools = [{"type": "function", "function": {"name": name, "strict": True}} for name in "abc"]
        fewer = [{"type": "function", "function": {"name": "b", "strict": False}}, tools[2]]
        assert differences(tools, fewer) == [
            ("[0]", '{"type": "function", "function": {"name": "a", "strict": tru...', "nothing"),
            ("[1].function.strict", "true", "false"),
        ]
        assert differences(fewer, tools)[1][0] == "[0]"

    def test_long_texts_are_shown_where_they_differ(self) -> None:
        one, other = "a" * 500 + "X" + "b" * 500, "a" * 500 + "Y" + "b" * 500
        [(place, mine, theirs)] = differences({"t": one}, {"t": other})
        assert place == "t"
        assert mine.startswith('..."aaaaaaaaaaaaaaaaaaaaXbbb')
        assert theirs.startswith('..."aaaaaaaaaaaaaaaaaaaaYbbb')
        assert len(mine) < 80

    def test_deep_ones_do_not_end_it(self) -> None:
        one, other = "[" * 900 + "1" + "]" * 900, "[" * 900 + "2" + "]" * 900
        assert len(differences(json.loads(one), json.loads(other))) == 1
