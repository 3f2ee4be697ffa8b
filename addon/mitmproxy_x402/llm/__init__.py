"""Answers and requests of language models as a person reads them, in the four dialects of the vendors. Pure.

Four dialects: OpenAI chat completions, OpenAI responses, Anthropic messages, Gemini generateContent. Which one it is,
the content says. Nothing here raises on what strangers send: what is odd is noted in words.
"""

from __future__ import annotations

from .asking import Media, Message, RequestReading, Tool, ToolResult
from .compare import differences
from .reading import Dialect, Item, Other, Reading, Reasoning, Refusal, Text, ToolCall, Usage
from .request import read_request
from .request_text import request_text
from .stream import StreamReader, read_answer
from .text import answer_text

__all__ = [
    "Dialect",
    "Item",
    "Media",
    "Message",
    "Other",
    "Reading",
    "Reasoning",
    "Refusal",
    "RequestReading",
    "StreamReader",
    "Text",
    "Tool",
    "ToolCall",
    "ToolResult",
    "Usage",
    "answer_text",
    "differences",
    "read_answer",
    "read_request",
    "request_text",
]
