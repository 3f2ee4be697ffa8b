"""Reads OpenAI's transcriptions of speech, streamed or whole, and whole ones of Groq and Mistral, which are alike."""

from __future__ import annotations

from typing import Any

from ...draft import Draft
from ...values import mapping, sequence, string
from ..reader import Reader

_SEGMENT = "transcript.text.segment"


class TranscriptionReader(Reader):
    """Reads fragments of the transcript, then all of it. The end is `transcript.text.done`."""

    dialect = "openai-transcription"
    is_openai = True
    end_mark = "transcript.text.done"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._segments = False
        self._spoken = 0

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Events of a type `transcript.text.*`; a whole one by what stands beside its text, unless that is alone."""
        kind = value.get("type")
        if isinstance(kind, str) and kind.startswith("transcript."):
            return True
        if kind is not None or not isinstance(value.get("text"), str):
            return False
        parts = any(isinstance(value.get(key), list) for key in ("segments", "words"))
        verbose = value.get("duration") is not None and (parts or isinstance(value.get("language"), str))
        usage = mapping(value.get("usage"))
        told = usage.get("type") in ("tokens", "duration") or "prompt_audio_seconds" in usage
        return told or verbose or value.get("task") in ("transcribe", "translate") or list(value) == ["text", "x_groq"]

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read a fragment, a segment, or the end."""
        kind = string(value.get("type"))
        piece = self.draft.piece(0, (0,), "text")
        if self.ended and kind.startswith("transcript."):
            self.draft.notes.add("an event after transcript.text.done")
        if not kind and ("delta" in value or "text" in value):
            self.draft.notes.add("an event whose data does not say its type, which is not read")
        if kind == "transcript.text.delta":
            piece.add(self.draft.words(value.get("delta"), "a fragment"))
        elif kind == _SEGMENT:
            self._speaker(value)
            if not piece.size or self._segments:
                self._segments = True
                piece.add(self.draft.words(value.get("text"), "a segment"))
        elif kind == "transcript.text.done":
            self.whole(value)
        else:
            self.draft.leave(kind or name, value)

    def _speaker(self, segment: dict[str, Any]) -> None:
        """Keep a segment that names its speaker."""
        if string(segment.get("speaker")) or string(segment.get("speaker_id")):
            self._spoken += 1
            self.draft.piece(0, (1, self._spoken), "other").keep("segment", segment)

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole transcript."""
        piece = self.draft.piece(0, (0,), "text")
        text = self.draft.words(value.get("text"), "the transcript")
        if not piece.size:
            piece.add(text)
        elif text and not piece.says(text):
            if self._segments and "".join(piece.text.split()) == "".join(text.split()):
                piece.replace(text)  # which says how segments are parted
            else:
                self.draft.differ(piece, text)
        for one in sequence(value.get("segments")):
            self._speaker(mapping(one))
        usage = mapping(value.get("usage"))
        self.draft.name(value.get("model"))
        self.draft.use(
            input=usage.get("input_tokens", usage.get("prompt_tokens")),
            output=usage.get("output_tokens", usage.get("completion_tokens")),
            total=usage.get("total_tokens"),
        )
        self.ended = True
