"""Values in which anything may be wrong, for readers of answers and requests."""

from __future__ import annotations

import copy
import random
import re
from typing import Any

from hypothesis import strategies as st

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
ODD = [None, True, False, 0, 1, -1, 7, 10**9, 10**400, 1.5, 1e999, "", "x", "\ud800", "\x1b[2J\u202e", "stop", "text"]
ODD += [[], {}, [None], [[]], [{}], {"type": "text"}, {"message": "m"}, "response.completed", "message_stop"]
KEYS = [
    *("type", "object", "choices", "delta", "message", "content", "tool_calls", "function", "arguments", "name", "id"),
    *("index", "finish_reason", "usage", "error", "candidates", "parts", "text", "functionCall", "args", "item"),
    *("output_index", "content_block", "input", "partial_json", "response", "output", "summary", "role", "status"),
    *("reasoning", "reasoning_details", "thinking", "signature", "prompt_tokens", "input_tokens", "usageMetadata"),
    *("thought", "function_call", "custom", "audio", "data", "system", "messages", "contents", "tools", "parameters"),
]
TYPES = [
    *("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"),
    *("response.created", "response.output_item.added", "response.output_text.delta", "response.completed", "message"),
    *("response.function_call_arguments.delta", "response.output_item.done", "response.failed", "function_call"),
    *("reasoning", "tool_use", "text_delta", "input_json_delta", "chat.completion.chunk", "output_text", "refusal"),
]
VALUES = st.recursive(
    st.sampled_from([*ODD, *TYPES]) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=25,
)


def mutated(value: Any, choose: random.Random, chance: float) -> Any:
    if choose.random() < chance:
        return copy.deepcopy(choose.choice(ODD))
    if isinstance(value, dict):
        changed = {key: mutated(one, choose, chance) for key, one in value.items() if choose.random() > chance}
        if choose.random() < chance:
            changed[choose.choice(KEYS)] = choose.choice(ODD)
        return changed
    return [mutated(one, choose, chance) for one in value] if isinstance(value, list) else value
