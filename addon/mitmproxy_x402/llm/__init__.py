"""Answers and requests of language models as a person reads them, in the dialects of the vendors. Pure.

An answer is server-sent events, JSON lines, Amazon's binary frames, a JSON array that grows, or one JSON object; it is
in the dialect that its content says: OpenAI's chat completions, responses, assistants and transcriptions, Anthropic's
messages and completions, Google's generateContent and interactions, Bedrock's Converse, Cohere's chat (versions 1 and
2), Ollama's chat. Nothing here raises on what strangers send: what is odd is noted in words.

`read_answer` reads a whole body, `StreamReader` one that comes in, `read_steps` says what each event added, `checked`
what does not fit the tools that the request declares.
"""

from __future__ import annotations

from .compare import differences
from .reading import (
    Added,
    Broken,
    Citation,
    Detail,
    Dialect,
    Item,
    Misfit,
    Other,
    Reading,
    Reasoning,
    Refusal,
    Step,
    Text,
    ToolCall,
    Usage,
)
from .request.asking import Mark, Media, Message, RequestReading, Tool, ToolResult
from .request.read import read_request
from .request_text import request_text
from .stream import StreamReader, is_stream, read_answer, read_steps, reading_of
from .text import answer_text
from .tool_check import checked
from .values import has_more_values

__all__ = [
    "Added",
    "Broken",
    "Citation",
    "Detail",
    "Dialect",
    "Item",
    "Mark",
    "Media",
    "Message",
    "Misfit",
    "Other",
    "Reading",
    "Reasoning",
    "Refusal",
    "RequestReading",
    "Step",
    "StreamReader",
    "Text",
    "Tool",
    "ToolCall",
    "ToolResult",
    "Usage",
    "answer_text",
    "checked",
    "differences",
    "has_more_values",
    "is_stream",
    "read_answer",
    "read_request",
    "read_steps",
    "reading_of",
    "request_text",
]
