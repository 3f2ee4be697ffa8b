"""Reads Amazon Bedrock's InvokeModel, for models with a shape of their own.

Titan, Llama, Mistral, Cohere's Command, AI21's Jurassic (https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters.html).
"""

from __future__ import annotations

from typing import Any

from ..draft import Draft
from ..values import mapping, sequence
from .reader import Reader

_METRICS = "amazon-bedrock-invocationMetrics"
"""What Bedrock adds to the last event of any model."""
_ACTION, _TRACE = "amazon-bedrock-guardrailAction", "amazon-bedrock-trace"
"""What a guardrail did, and why: in any event, and in the last one."""
_LISTS = ("results", "outputs", "generations", "completions")
"""Keys of the answers in one event, as Titan, Mistral, Cohere and AI21 name them."""
_TITANS = ("completionReason", "totalOutputTextTokenCount", "inputTextTokenCount", "index", _ACTION)
"""Keys of Titan's, of which any event has one."""
_REASONS = ("completionReason", "stop_reason", "finish_reason", "finishReason")


class InvokeReader(Reader):
    """Reads fragments of the text, or all of it; the last event has the stop reason."""

    dialect = "bedrock-invoke"
    end_mark = "reason why it ended"

    def __init__(self, draft: Draft) -> None:
        super().__init__(draft)
        self._written = 0

    @staticmethod
    def speaks(_: str, value: dict[str, Any]) -> bool:
        """Whether `value` has text under a key of one of these models, and another key that only they have."""
        if isinstance(value.get("generation"), str):
            return any(key in value for key in ("stop_reason", "generation_token_count", "prompt_token_count"))
        if isinstance(value.get("outputText"), str):
            return any(key in value for key in _TITANS)
        if isinstance(value.get("text"), str) and isinstance(value.get("is_finished"), bool):
            return "event_type" not in value
        return any(_is_answer(key, value[key]) for key in _LISTS if key in value)

    def event(self, name: str, value: dict[str, Any]) -> None:
        """Read a fragment of each answer."""
        draft = self.draft
        answers = [(key, number, one) for key in _LISTS for number, one in enumerate(sequence(value.get(key)))]
        answers += [(key, 0, value) for key in ("generation", "outputText", "text") if isinstance(value.get(key), str)]
        if not answers and any(isinstance(value.get(key), str) for key in _REASONS):  # a last event without text
            answers.append(("text", 0, value))
        for key, number, one in answers[: draft.max_items]:
            self._answer(key, number, draft.mapping(one, "an answer"))
        if not answers and _METRICS not in value:
            draft.leave(name, value)
        self._usage(value)
        if value.get(_ACTION) == "INTERVENED":
            draft.detail(_ACTION, value[_ACTION])
            draft.detail(_TRACE, value.get(_TRACE))
            if value.get("totalOutputTextTokenCount") is not None and not draft.any_stopped:
                draft.stop(0, value[_ACTION])  # a prompt that it blocks has no other reason
                self.ended = True

    def whole(self, value: dict[str, Any]) -> None:
        """Read a whole answer."""
        self.draft.name(value.get("model"), value.get("id"))
        self.event("message", value)

    def _answer(self, key: str, number: int, said: dict[str, Any]) -> None:
        inner = mapping(said.get("data")) if key == "completions" else said
        text = next((inner[name] for name in ("text", "outputText", "generation") if name in inner), None)
        self.draft.piece(number, (0,), "text").add(self.draft.words(text, "text"))
        reason = next((said[name] for name in _REASONS if said.get(name) is not None), None)
        if isinstance(reason, dict):  # AI21's
            reason = reason.get("reason")
        if reason is not None:
            self.draft.stop(number, reason)
            self.ended = self.draft.all_stopped
        self._written += self.draft.tokens(said.get("tokenCount")) or 0

    def _usage(self, value: dict[str, Any]) -> None:
        use = self.draft.use
        written = value.get("totalOutputTextTokenCount", value.get("generation_token_count"))
        use(
            input=value.get("inputTextTokenCount", value.get("prompt_token_count")),
            output=written if written is not None else self._written or None,
        )
        use(**tokens_of(value))


def tokens_of(value: dict[str, Any]) -> dict[str, Any]:
    """The numbers of tokens that Bedrock itself adds to an event, by the fields of Usage; empty where it adds none."""
    metrics = mapping(value.get(_METRICS))
    read, stored = metrics.get("cacheReadInputTokenCount"), metrics.get("cacheWriteInputTokenCount")
    tokens = {"input": metrics.get("inputTokenCount"), "output": metrics.get("outputTokenCount")}
    return {**tokens, "cached": read or None, "cache_write": stored or None} if metrics else {}


def _is_answer(key: str, answers: Any) -> bool:
    first = mapping(answers[0]) if isinstance(answers, list) and answers else {}
    if key == "results":
        return isinstance(first.get("outputText"), str)
    if key == "completions":
        return isinstance(mapping(first.get("data")).get("text"), str)
    return isinstance(first.get("text"), str) and any(name in first for name in (*_REASONS, "is_finished"))
