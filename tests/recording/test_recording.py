"""The folder of a recorded flow: what is written is read again, what is damaged is named, nothing else is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.recording.format import (
    Chunk,
    RecordedPayment,
    RecordedRequest,
    RecordedResponse,
    Recording,
    RecordingError,
    read_recording,
    read_recordings,
)
from mitmproxy_x402.recording.head import to_document, to_text
from support.recording.recorded import BODY, recording, write


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    written = recording(folder)
    write(folder, written)
    found = read_recording(folder)
    assert found == written
    assert found.complete
    assert (found.request_body(), found.body(), found.decoded_body()) == (b"{}", BODY, BODY)
    assert found.chunks() == (Chunk(0.5, 9), Chunk(1.0, 9))
    assert list(found.pieces()) == [(0.5, b"data: 1\n\n"), (1.0, b"data: 2\n\n")]
    assert found.request.header("x-latin") == "\xff\x00\x85"
    assert found.response is not None
    assert (found.response.header("a"), found.response.header("b")) == ("1", "")


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    least = recording(tmp_path / "x", response=None, payment=None, first_byte=None, end=None, error="lost", notes=())
    found = read_recording(write(tmp_path / "x", replace(least, state="incomplete")))
    assert found == replace(least, state="incomplete")
    assert (found.body(), found.decoded_body()) == (b"", b"")


def test_one_that_was_never_finished_is_incomplete(tmp_path: Path) -> None:
    found = read_recording(write(tmp_path / "x", recording(tmp_path / "x", state="open")))
    assert (found.state, found.error) == ("incomplete", "the recording was interrupted")


_latin = st.text(st.characters(max_codepoint=255))
_headers = st.lists(st.tuples(_latin, _latin), max_size=4).map(tuple)
_seconds = st.none() | st.floats(0, 1e9)
_chunks = st.none() | st.lists(st.builds(Chunk, _seconds.map(lambda s: round(s or 0.0, 6)), st.integers(0, 99))).map(
    tuple
)
_PAIR = re.compile(r'\[\n +("(?:[^"\\]|\\.)*"|[0-9.e-]+),\n +("(?:[^"\\]|\\.)*"|[0-9]+)\n +\]')


@given(_headers, _latin)
def test_headers_and_paths_of_any_bytes(headers: tuple[tuple[str, str], ...], path: str) -> None:
    request = RecordedRequest("GET", path, "HTTP/1.1", headers)
    document = json.loads(to_text(recording(Path("x"), request=request)))
    assert (document["request"]["path"], tuple(map(tuple, document["request"]["headers"]))) == (path, headers)


@given(
    st.builds(
        recording,
        st.just(Path("x")),
        state=st.sampled_from(["open", "complete"]),
        error=st.none() | st.text(),
        request=st.builds(RecordedRequest, _latin, _latin, _latin, _headers, st.text(), st.none() | st.text()),
        response=st.none()
        | st.builds(
            RecordedResponse, st.integers(100, 999), _latin, _latin, _headers, _headers, body=st.none() | st.text()
        ),
        first_byte=_seconds,
        end=_seconds,
        payment=st.none() | st.builds(RecordedPayment, *[st.text()] * 6),
        notes=st.lists(st.text(), max_size=3).map(tuple),
        in_head=_chunks,
    )
)
def test_the_head_is_plain_json_indented_with_a_line_for_each_header(any_recording: Recording) -> None:
    indented = json.dumps(to_document(any_recording), indent=1, ensure_ascii=False)
    assert to_text(any_recording) == _PAIR.sub(r"[\1, \2]", indented) + "\n"


def test_the_head_has_a_line_for_each_header() -> None:
    assert '\n   ["A", "1"],\n   ["A", "2"]\n' in to_text(recording(Path("x")))


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ("", [(0.0, BODY)]),
        ("[0.5, 9]\n", [(0.5, BODY[:9]), (0.5, BODY[9:])]),
        ("[0.5, 9]\n[0.7", [(0.5, BODY[:9]), (0.5, BODY[9:])]),
        ("[0.5, 9]\n[0.7, 100]\n[0.9, 4]\n", [(0.5, BODY[:9]), (0.7, BODY[9:])]),
        ("[0, 0]\n[0.5, 18]\n", [(0.5, BODY)]),
        ("[5e-06, 9]\n[0.35000000000000003, 9]\n", [(5e-06, BODY[:9]), (0.35000000000000003, BODY[9:])]),
    ],
    ids=["none", "a killed proxy", "half a line", "too many", "an empty one", "all digits"],
)
def test_chunks_that_do_not_fit_the_body(tmp_path: Path, chunks: str, expected: list[tuple[float, bytes]]) -> None:
    found = read_recording(write(tmp_path / "x", recording(tmp_path / "x"), chunks))
    assert list(found.pieces()) == expected


def test_without_chunks_the_body_is_one_piece(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", recording(tmp_path / "x"))
    (folder / "chunks.jsonl").unlink()
    assert list(read_recording(folder).pieces()) == [(0.0, BODY)]


def test_chunks_in_the_head(tmp_path: Path) -> None:
    chunks = (Chunk(0.5, 9), Chunk(0.75, 5), Chunk(0.75, 4))
    folder = write(tmp_path / "x", recording(tmp_path / "x", in_head=chunks))
    (folder / "chunks.jsonl").unlink()
    found = read_recording(folder)
    assert found.chunks() == chunks
    assert list(found.pieces()) == [(0.5, BODY[:9]), (0.75, BODY[9:14]), (0.75, BODY[14:])]


@pytest.mark.parametrize("chunks", ["{}", "[1]", "[[1]]", "[[1, -1]]", '[["1", 2]]', "[[true, 2]]", "[[1, 2, 3]]"])
def test_damaged_chunks_in_the_head(tmp_path: Path, chunks: str) -> None:
    folder = write(tmp_path / "x", recording(tmp_path / "x", in_head=()))
    head = (folder / "flow.json").read_text()
    (folder / "flow.json").write_text(head.replace('"chunks": []', f'"chunks": {chunks}'))
    with pytest.raises(RecordingError, match=r"timing\.chunks: expected a list"):
        read_recording(folder)


@pytest.mark.parametrize("chunks", ["nonsense\n", "[1, -2]\n", "[1e999, 2]\n", "[0.5, 9]\n\n[1, 2]\n", "[nan, 1]\n"])
def test_damaged_chunks(tmp_path: Path, chunks: str) -> None:
    found = read_recording(write(tmp_path / "x", recording(tmp_path / "x"), chunks))
    with pytest.raises(RecordingError, match=r"chunks\.jsonl: line \d: expected"):
        found.chunks()


def test_all_of_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / name, recording(tmp_path / name, id=name))
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    assert [one.id for one in read_recordings(tmp_path)] == ["a", "b", "c"]
    assert [one.id for one in read_recordings(tmp_path / "b")] == ["b"]


@pytest.mark.parametrize("name", ["nowhere", "empty", "a file"])
def test_no_recordings(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    for read in (read_recordings, read_recording):
        with pytest.raises(RecordingError) as caught:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def put(*keys: str) -> Callable[[Any], Callable[[Any], None]]:
    def of(value: Any) -> Callable[[Any], None]:
        def change(document: Any) -> None:
            for key in keys[:-1]:
                document = document[key]
            document[keys[-1]] = value

        return change

    return of


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (put("format")(2), "format"),
        (put("format")(True), "format"),
        (put("id")(None), "id"),
        (put("state")(1), "state"),
        (put("request")(None), "request"),
        (put("request")([]), "request"),
        (put("request", "method")(None), "request.method"),
        (put("request", "headers")(None), "request.headers"),
        (put("request", "headers")([["a"]]), "request.headers"),
        (put("request", "headers")([["a", 1]]), "request.headers"),
        (put("request", "body")("../flow.json"), "request.body"),
        (put("response", "body")("/etc/passwd"), "response.body"),
        (put("response", "decoded")(".."), "response.decoded"),
        (put("response", "decoded")("a/b"), "response.decoded"),
        (put("response", "body")(""), "response.body"),
        (put("response", "status")("200"), "response.status"),
        (put("response", "status")(20), "response.status"),
        (put("response")("text"), "response"),
        (put("timing")([]), "timing"),
        (put("timing", "end")("soon"), "timing.end"),
        (put("timing", "first_byte")(-1), "timing.first_byte"),
        (put("payment")({}), "payment.state"),
        (put("legs")("two"), "legs"),
    ],
)  # fmt: skip
def test_a_damaged_head(tmp_path: Path, change: Callable[[Any], None], place: str) -> None:
    folder = write(tmp_path / "x", recording(tmp_path / "x"))
    document = json.loads((folder / "flow.json").read_text())
    change(document)
    (folder / "flow.json").write_text(json.dumps(document))
    with pytest.raises(RecordingError, match=rf"flow\.json: {re.escape(place)}: "):
        read_recordings(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{", b"[" * 100_000, b"null"])
def test_a_head_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "flow.json").write_bytes(content)
    with pytest.raises(RecordingError, match=r"flow\.json: "):
        read_recording(tmp_path)


def test_a_missing_body(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", recording(tmp_path / "x"))
    (folder / "response.sse").unlink()
    with pytest.raises(RecordingError, match=r"response\.sse: cannot be read: No such file"):
        read_recording(folder).body()
