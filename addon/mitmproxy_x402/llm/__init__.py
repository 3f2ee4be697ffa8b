"""Answers and requests of language models as a person reads them, in the four dialects of the vendors. Pure.

Four dialects: OpenAI chat completions, OpenAI responses, Anthropic messages, Gemini generateContent. Which one it is,
the content says. Nothing here raises on what strangers send: what is odd is noted in words.
"""

from __future__ import annotations

from .reading import Dialect, Item, Other, Reading, Reasoning, Refusal, Text, ToolCall, Usage
from .stream import StreamReader, read_answer

__all__ = [
    "Dialect",
    "Item",
    "Other",
    "Reading",
    "Reasoning",
    "Refusal",
    "StreamReader",
    "Text",
    "ToolCall",
    "Usage",
    "read_answer",
]
