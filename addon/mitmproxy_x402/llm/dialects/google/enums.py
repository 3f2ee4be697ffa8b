"""Names Google's reasons where they come as numbers (`enum-encoding=int`), which its two APIs do not number alike.

What the numbers mean is in the protos `google.ai.generativelanguage` and `google.cloud.aiplatform`.
"""

from __future__ import annotations

from typing import Any

_COMMON = ("FINISH_REASON_UNSPECIFIED", "STOP", "MAX_TOKENS", "SAFETY", "RECITATION", "OTHER")
_FINISHES = (
    (
        *_COMMON,
        *("LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MALFORMED_FUNCTION_CALL"),
        *("IMAGE_SAFETY", "UNEXPECTED_TOOL_CALL"),
    ),
    (
        *_COMMON,
        *("BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MALFORMED_FUNCTION_CALL", "MODEL_ARMOR"),
        *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER"),
        *("UNEXPECTED_TOOL_CALL", "NO_IMAGE"),
    ),
)
"""By their numbers, first those of the Gemini API, then those of Vertex AI."""
_BLOCKED = ("BLOCK_REASON_UNSPECIFIED", "SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT")
_BLOCKS = ((*_BLOCKED, "IMAGE_SAFETY"), (*_BLOCKED, "MODEL_ARMOR", "IMAGE_SAFETY", "JAILBREAK"))


def finish_reason(reason: Any, *, vertex: bool) -> Any:
    """The name of a finish reason; of a number that is not known, or not the same in both APIs, the number, too.

    `vertex`: whether it is Vertex AI's.
    """
    return _named(reason, _FINISHES, vertex=vertex)


def block_reason(reason: Any, *, vertex: bool) -> Any:
    """The same for the reason why a prompt was blocked."""
    return _named(reason, _BLOCKS, vertex=vertex)


def _named(reason: Any, tables: tuple[tuple[str, ...], tuple[str, ...]], *, vertex: bool) -> Any:
    if isinstance(reason, bool) or not isinstance(reason, int):
        return reason
    names = [table[reason] if 0 <= reason < len(table) else "" for table in (tables[1:] if vertex else tables)]
    if names[0] == names[-1] != "":
        return names[0]
    known = " or ".join(filter(None, names))
    return f"{reason} ({known})" if known else str(reason)[:20]
