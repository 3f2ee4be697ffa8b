"""Reads answers and requests of language models, in all vendors' dialects, into one form for people. Pure.

Uses `protocol` and `limits`.

An answer is server-sent events, JSON lines, Amazon's binary frames, a growing JSON array, or one JSON object. Its
dialect is recognised by its content: OpenAI's chat completions, responses, assistants and transcriptions, Anthropic's
messages and completions, Google's generateContent and interactions, Bedrock's Converse and InvokeModel, Cohere's chat
(versions 1 and 2), Ollama's chat. Nothing here raises on strangers' data; anomalies are noted as remarks.

`read_answer` reads a whole body, `StreamReader` one that is arriving, `read_steps` returns what each event added,
`checked` notes what does not fit the tools that the request declares.
"""

from __future__ import annotations

from .bodies import is_stream, read_answer, read_steps, reading_of
from .checking import checked
from .framing.frames import text_of_frames
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
from .stream import StreamReader
from .texts.answer_text import answer_text
from .texts.compare import differences
from .texts.request_text import request_text
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
    "text_of_frames",
]
