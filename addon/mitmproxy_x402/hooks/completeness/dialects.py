"""The dialects of streams: how each is recognised, how it ends, and how it says that it failed.

    Chat, Completions    choices                            a finish reason, or `data: [DONE]`
    Gemini               candidates                         finishReason, or a prompt that was blocked
    Responses            response.*                         response.completed, response.incomplete
    Messages             message_*, content_block_*         message_stop
    Complete             completion                         stop_reason
    Interactions         interaction.*, step.*, content.*   interaction.completed, or its last status
    Assistants           thread.run.*, thread.message.*     the run's last status
    Transcriptions       transcript.text.*                  transcript.text.done
    Speech               speech.audio.*                     speech.audio.done
    Images               image_generation.*, image_edit.*   ....completed
    Cohere, version 2    message-*, content-*, ...          message-end
    Cohere, version 1    event_type and is_finished         stream-end
    Converse             messageStart, contentBlock*, ...   messageStop
    InvokeModel          the keys of each model's text      the reason why it ended
    Ollama               done                               done: true

`llm/dialects/` reads the same ones for people, with all that they say; here is only what money depends on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ...llm.values import mapping, sequence, string

Said = dict[str, Any]


def _never(_: Said) -> bool:
    return False


def _always(_: Said) -> bool:
    return True


class Dialect(NamedTuple):
    """How one is told from others, and its end from its other events."""

    begins: tuple[str, ...] = ()
    """Beginnings of the types of its events: their names, or what their data gives as `type`."""
    ends: tuple[str, ...] = ()
    """The types of events that end it."""
    keys: tuple[str, ...] = ()
    """Keys of which one is in each event that `speaks` tells."""
    speaks: Callable[[Said], bool] = _never
    """Whether what an event says can only be in it."""
    has_ended: Callable[[Said], bool] = _never
    """Whether an event says that it is the last one."""
    of_one: bool = False
    """Whether that is the end of one answer, of which a stream may have several."""


_FAILED = frozenset({"failed", "cancelled", "expired"})
_LAST = {"completed", "incomplete", "requires_action"}
_STATUSES = frozenset({*_LAST, "budget_exceeded"})
"""What an interaction, or a run, says last unless it failed."""
_OF_INTERACTIONS = ("interaction.", "step.", "content.")
_RUN = "thread.run"
_INVOKED = ("results", "outputs", "generations", "completions")
"""Keys of the answers in one event, as Titan, Mistral, Cohere and AI21 name them in InvokeModel."""
_INVOKED_REASONS = ("completionReason", "stop_reason", "finish_reason", "finishReason")


def _is_interaction(said: Said) -> bool:
    return string(said.get("event_type")).startswith(_OF_INTERACTIONS)


def _interaction_has_ended(said: Said) -> bool:
    kind = string(said.get("event_type"))
    if kind == "interaction.status_update":
        return string(said.get("status")) in _STATUSES
    return kind in ("interaction.completed", "interaction.complete")


def _is_complete_fragment(said: Said) -> bool:
    return isinstance(said.get("completion"), str) and (said.get("type") == "completion" or "stop_reason" in said)


def _is_cohere_1(said: Said) -> bool:
    return isinstance(said.get("event_type"), str) and "is_finished" in said


def _is_tool_call(said: Said) -> bool:
    """Whether an event is Cohere's, which has what it says under `delta`; others have types of the same names."""
    return string(said.get("type")).startswith("tool-call-") and isinstance(said.get("delta"), dict)


def _is_ollama(said: Said) -> bool:
    told = isinstance(said.get("created_at"), str) and isinstance(said.get("model"), str) and "done" not in said
    if said.get("done") is True:
        return True
    if not (told or said.get("done") is False):
        return False
    return isinstance(said.get("message"), dict) or isinstance(said.get("response"), str)


def _invoked(said: Said) -> list[Said]:
    """The answers in an event of InvokeModel, of a model with a shape of its own."""
    if isinstance(said.get("generation"), str):
        known = any(key in said for key in ("stop_reason", "generation_token_count", "prompt_token_count"))
    elif isinstance(said.get("outputText"), str):
        known = "completionReason" in said or "totalOutputTextTokenCount" in said
    else:
        known = isinstance(said.get("is_finished"), bool) and "event_type" not in said
    if known:
        return [said]
    found = [mapping(each) for key in _INVOKED for each in sequence(said.get(key))]
    return [each for each in found if any(key in each for key in (*_INVOKED_REASONS, "is_finished"))]


def _invoked_has_ended(said: Said) -> bool:
    return any(each.get(key) is not None for each in _invoked(said) for key in _INVOKED_REASONS)


DIALECTS: dict[str, Dialect] = {
    "chat": Dialect(keys=("choices",), speaks=_always),
    "gemini": Dialect(keys=("candidates",), speaks=_always),
    "responses": Dialect(("response.",), ("response.completed", "response.incomplete")),
    "messages": Dialect(("message_", "content_block_"), ("message_stop",)),
    "complete": Dialect(
        keys=("completion",),
        speaks=_is_complete_fragment,
        has_ended=lambda said: said.get("stop_reason") is not None,
    ),
    "interactions": Dialect(keys=("event_type",), speaks=_is_interaction, has_ended=_interaction_has_ended),
    "assistants": Dialect(
        ("thread.run.", "thread.message."),
        tuple(f"{_RUN}.{status}" for status in sorted(_LAST)),
        keys=("object",),
        speaks=lambda said: string(said.get("object")).startswith((_RUN, "thread.message.delta")),
        has_ended=lambda said: said.get("object") == _RUN and string(said.get("status")) in _LAST,
    ),
    "transcription": Dialect(("transcript.text.",), ("transcript.text.done",)),
    "speech": Dialect(("speech.audio.",), ("speech.audio.done",)),
    "images": Dialect(
        ("image_generation.", "image_edit."), ("image_generation.completed", "image_edit.completed"), of_one=True
    ),
    "cohere-v2": Dialect(
        ("message-start", "message-end", "content-start", "content-delta", "content-end", "tool-plan-delta"),
        ("message-end",),
        keys=("delta",),
        speaks=_is_tool_call,
    ),
    "cohere-v1": Dialect(
        keys=("is_finished",),
        speaks=_is_cohere_1,
        has_ended=lambda said: said.get("event_type") == "stream-end" or said.get("is_finished") is True,
    ),
    "converse": Dialect(
        ("messageStart", "contentBlockStart", "contentBlockDelta", "contentBlockStop", "messageStop"), ("messageStop",)
    ),
    "invoke": Dialect(
        keys=("generation", "outputText", "is_finished", *_INVOKED),
        speaks=lambda said: bool(_invoked(said)),
        has_ended=_invoked_has_ended,
        of_one=True,
    ),
    "ollama": Dialect(keys=("done", "created_at"), speaks=_is_ollama, has_ended=lambda said: said.get("done") is True),
}
_WORDS = tuple(word for dialect in DIALECTS.values() for word in dialect.begins)
_BY_TYPE = tuple((name, dialect) for name, dialect in DIALECTS.items() if dialect.begins)
_BY_KEY: dict[str, list[str]] = {}
for _name, _dialect in DIALECTS.items():
    for _key in _dialect.keys:
        _BY_KEY.setdefault(_key, []).append(_name)

_TOLD = frozenset(
    {
        *(*_BY_KEY, *DIALECTS["converse"].begins, *_INVOKED_REASONS),
        *("type", "event_type", "status", "response", "interaction"),
    }
)


def told_by(said: Any) -> Said:
    """What `said` has of the keys by which dialects and ends are told."""
    return {key: said[key] for key in _TOLD & said.keys()} if isinstance(said, dict) else {}


BY_PATH: tuple[tuple[str, str], ...] = (
    ("/completions", "chat"),
    ("/responses", "responses"),
    ("/messages", "messages"),
    (":streamGenerateContent", "gemini"),
)
"""Dialects that the end of a request's path tells for certain."""


def types_of(name: str, said: Said) -> tuple[str, ...]:
    """The types that an event gives itself: its name, that of its data, or the only key of its data (Converse)."""
    kind = string(said.get("type"))
    types = (name,) if kind in (name, "") else (name, kind)
    if len(said) == 1:
        (key,) = said
        if key.startswith(DIALECTS["converse"].begins) and isinstance(said[key], dict):
            return (*types, key)
    return types


def _ends(dialect: Dialect, types: tuple[str, ...], said: Said) -> bool:
    return any(kind in dialect.ends for kind in types) or dialect.has_ended(said)


def dialects_of(types: tuple[str, ...], said: Said) -> dict[str, bool]:
    """The dialects that an event can be in, and whether it ends them."""
    asked = {name for key in said.keys() & _BY_KEY.keys() for name in _BY_KEY[key]}
    found = {name for name in asked if DIALECTS[name].speaks(said)}
    for kind in types:
        if kind.startswith(_WORDS):
            found.update(name for name, dialect in _BY_TYPE if kind.startswith(dialect.begins))
    return {name: _ends(DIALECTS[name], types, said) for name in found}


FAILURES = frozenset(
    {
        *("error", "response.failed", "response.error", "response.cancelled"),
        *(f"{_RUN}.{status}" for status in _FAILED),
    }
)
"""Types of events that report a failure."""


def event_says_that_it_failed(said: Any) -> bool:
    """Whether an event reports a failure, also as the end of a response that failed."""
    if isinstance(said, list):  # Google's, for clients of OpenAI
        return any(isinstance(each, dict) and has_error(each) for each in said)
    if not isinstance(said, dict):
        return False
    keys = ("type", "event_type", "status", "finish_reason")
    kind, event_type, status, reason = (string(said.get(key)) for key in keys)
    inner = [said[key] for key in ("response", "interaction") if isinstance(said.get(key), dict)]
    delta = mapping(said.get("delta"))
    return (
        any(has_error(each) or each.get("status") in ("failed", "cancelled") for each in inner)
        or has_error(said)
        or kind in FAILURES
        or (said.get("object") == _RUN and status in _FAILED)
        or (event_type.startswith("interaction.") and status in _FAILED)
        or (event_type == "stream-end" and reason.startswith("ERROR"))
        or ("finish_reason" in delta and (bool(delta.get("error")) or is_failed_reason(delta)))
    )


def has_error(said: Said) -> bool:
    """Whether `said` has an error: under that key in whatever case, as its kind (vLLM), or in a vendor's own place."""
    status = mapping(said.get("base_resp")).get("status_code")  # MiniMax
    return (
        any(value and key.lower() in ("error", "errors") for key, value in said.items())
        or said.get("object") == "error"
        or bool(mapping(said.get("x_groq")).get("error"))
        or status not in (None, 0, "0", "")
    )


def is_failed_reason(said: Said) -> bool:
    """Whether the finish reason of an answer is that it failed."""
    return string(said.get("finish_reason")).lower() in ("error", "timeout")
