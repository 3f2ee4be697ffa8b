"""Whole transcriptions of speech, with segments and words or without: their text once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.audio import TranscriptionVerbose, TranslationVerbose

from mitmproxy_x402.llm import Other, Reading, Text, read_answer

SEGMENT = {"id": 0, "seek": 0, "start": 0.0, "end": 3.3, "text": " The beach.", "tokens": [1, 2], "temperature": 0.0,
           "avg_logprob": -0.28, "compression_ratio": 1.2, "no_speech_prob": 0.01}  # fmt: skip
WORDS = [{"word": "The", "start": 0.0, "end": 0.2}, {"word": "beach", "start": 0.2, "end": 0.5}]
ABOUT = {"language": "english", "duration": 8.5, "text": "The beach."}
TASK = {"task": "transcribe", **ABOUT}
SECONDS = {"usage": {"type": "duration", "seconds": 9}}


def whole(value: Any) -> Reading | None:
    return read_answer("application/json", json.dumps(value).encode())


@pytest.mark.parametrize(
    "value",
    [
        {**TASK, "segments": [SEGMENT], **SECONDS},
        {**TASK, "segments": [SEGMENT]},
        {**TASK, "words": WORDS},
        {**TASK, "words": WORDS, "segments": None, "x_groq": {"id": "req_1"}},
        {**ABOUT, "segments": [SEGMENT], "words": WORDS},
        {**ABOUT, "duration": "8.5", "segments": []},
        {**ABOUT, "task": "translate"},
        ABOUT,
        {"text": "The beach.", "x_groq": {"id": "req_1"}},
        {"text": "The beach.", **SECONDS},
    ],
)
def test_a_whole_transcription(value: Any) -> None:
    reading = whole(value)
    assert reading is not None
    assert (reading.dialect, reading.items) == ("openai-transcription", (Text("The beach."),))
    assert (reading.complete, reading.irregular, reading.unread) == (True, (), ())


def test_mistral_s() -> None:
    segment = {"type": "transcription_segment", "text": "The beach.", "start": 0.1, "end": 8.2}
    usage = {"prompt_audio_seconds": 36, "prompt_tokens": 13, "completion_tokens": 151, "total_tokens": 164}
    said = {"model": "voxtral-mini", "text": "The beach.", "language": None, "segments": [segment], "usage": usage}
    reading = whole(said)
    assert reading is not None
    assert (reading.model, reading.items, reading.irregular) == ("voxtral-mini", (Text("The beach."),), ())
    assert (reading.usage.input, reading.usage.output, reading.usage.total) == (13, 151, 164)
    spoken = whole({**said, "segments": [{**segment, "speaker_id": "speaker_1"}]})
    assert spoken is not None
    assert [one.kind for one in spoken.items if isinstance(one, Other)] == ["segment"]


def test_openai_s_sdk_reads_the_same_text() -> None:
    verbose = TranscriptionVerbose.model_validate({**ABOUT, "segments": [SEGMENT], "words": WORDS, **SECONDS})
    translated = TranslationVerbose.model_validate(ABOUT)
    for answer in (verbose, translated):
        reading = whole(answer.to_dict())
        assert reading is not None
        assert reading.text == answer.text


@pytest.mark.parametrize(
    "value",
    [
        {"text": "The beach."},
        {"text": "The beach.", "segments": [SEGMENT]},
        {"text": "The beach.", "language_code": "en", "words": WORDS},
        {"text": "The beach.", "language": "en"},
        {"text": ["The beach."], "duration": 8.5, "segments": []},
        {"type": "note", **TASK},
    ],
)
def test_what_may_be_something_else(value: Any) -> None:
    assert whole(value) is None
