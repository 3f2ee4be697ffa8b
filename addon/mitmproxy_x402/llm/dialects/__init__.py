"""The dialects of the vendors, each with a reader of its own, and how a dialect is told from what is said in it.

A dialect is a subclass of `Reader`: `speaks` knows its events and whole answers from all others', `event` takes one
event, `whole` an answer in one piece; what they find goes into a `Draft`, at places by which its parts are sorted. New
ones are listed in READERS, named in `reading.Dialect`, and known by their requests in `request/read.py`.
"""

from __future__ import annotations

from typing import Any

from .anthropic import CompleteReader, MessagesReader
from .bedrock import ConverseReader
from .cohere import ChatV1Reader, ChatV2Reader
from .google.gemini import GeminiReader
from .google.interactions import InteractionsReader
from .invoke_model import InvokeReader
from .ollama import OllamaReader
from .openai.assistants import AssistantsReader
from .openai.chat import ChatReader
from .openai.responses import ResponsesReader
from .openai.transcription import TranscriptionReader
from .reader import Reader

READERS: tuple[type[Reader], ...] = (
    ChatReader,
    ResponsesReader,
    MessagesReader,
    GeminiReader,
    ConverseReader,
    ChatV2Reader,
    ChatV1Reader,
    OllamaReader,
    InteractionsReader,
    AssistantsReader,
    TranscriptionReader,
    CompleteReader,
    InvokeReader,
)
"""The first that speaks as an event does reads the answer."""


def reader_for(name: str, value: dict[str, Any]) -> type[Reader] | None:
    """The reader of the dialect of `value`, an event called `name` or a whole answer; None: it does not tell."""
    return next((reader for reader in READERS if reader.speaks(name, value)), None)


__all__ = ["READERS", "Reader", "reader_for"]
