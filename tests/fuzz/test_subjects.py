"""Whatever the bytes: those that were once interesting, and those that Hypothesis thinks of."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import effort

from .subjects import SUBJECTS

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
FILES = sorted(CORPUS.glob("*/*"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_the_corpus(file: Path) -> None:
    SUBJECTS[file.parent.name](file.read_bytes())


@pytest.mark.parametrize("subject", SUBJECTS)
@given(data=st.data())
@settings(
    max_examples=effort.examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_bytes(subject: str, data: st.DataObject) -> None:
    SUBJECTS[subject](data.draw(st.binary(max_size=400) | _changed(subject)))


def _changed(subject: str) -> st.SearchStrategy[bytes]:
    """A file of the corpus in which some bytes were replaced, left out or put in."""
    known = [file.read_bytes() for file in FILES if file.parent.name == subject]

    def change(whole: bytes, begin: int, length: int, piece: bytes) -> bytes:
        at = begin % (len(whole) + 1)
        return whole[:at] + piece + whole[at + length :]

    places, lengths = st.integers(0, 5000), st.integers(0, 8)
    return st.builds(change, st.sampled_from(known), places, lengths, st.binary(max_size=8))


def test_every_folder_of_the_corpus_has_its_subject() -> None:
    assert {file.parent.name for file in FILES} == set(SUBJECTS)
