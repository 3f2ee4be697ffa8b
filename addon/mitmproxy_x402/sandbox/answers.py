"""Canned models: decides what they answer to a request, independently of the vendor's dialect.

`meaning(request)` is the one source: the modules of `vendors` put it on the wire, and a test compares it with what an
SDK assembled from there. Nothing is random: equal requests get equal answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PAID = "sandbox-1"
PARALLEL = "sandbox-parallel"
INTERLEAVED = "sandbox-interleaved"
THINKING = "sandbox-thinking"
EMPTY = "sandbox-empty"
FREE = "sandbox-free"
MODELS: Mapping[str, str] = {
    PAID: "answers text; calls the first tool when the request names tools",
    PARALLEL: "says a word, then calls two tools, one after the other",
    INTERLEAVED: "calls two tools, their fragments mixed (OpenAI chat)",
    THINKING: "like sandbox-1, and thinks before it answers",
    EMPTY: "calls the first tool with no arguments at all, not even {}",
    FREE: "like sandbox-1, and costs nothing",
}
"""Any other model name answers like `sandbox-1` and is paid."""

_TEXT = (
    "Grüße aus dem Sandkasten ☕ – this answer cost play money only. "
    'It holds quotes ("so"), a backslash \\ and a tab\t, two lines\nand 日本語 and 🦀.'
)
_PREAMBLE = "Zwei Aufrufe, gleich da ☕."
_THOUGHT = "Der Benutzer fragt – let me think ☕: 日本語, or {not} JSON? 🦀"
_STRING = 'naïve “café” ☕ "quoted" back\\slash\nnew line\ttab 日本語 🦀'
_SIZES = (1, 4, 2, 7, 3, 12, 5)
_MAX_DEPTH = 6
_COMMANDS = frozenset({"command", "cmd"})


@dataclass(frozen=True)
class ToolCall:
    """One call that the model makes. `arguments` is the JSON text whose fragments are sent."""

    name: str
    arguments: str
    seed: str

    def id(self, prefix: str) -> str:
        """Its id in a vendor's form: `call_...`, `toolu_...`."""
        return prefix + self.seed

    def parsed(self) -> Any:
        """The arguments as a value; none at all are an empty object."""
        return json.loads(self.arguments or "{}")


@dataclass(frozen=True)
class Meaning:
    """An answer before it is put into a dialect."""

    model: str
    seed: str
    """24 hex digits that ids are made of."""
    thought: str
    """The reasoning before the answer."""
    text: str
    tool_calls: tuple[ToolCall, ...]
    input_tokens: int
    output_tokens: int
    """Output tokens, with those of the reasoning."""
    reasoning_tokens: int = 0
    """Output tokens of the reasoning."""

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens

    @property
    def interleaved(self) -> bool:
        """Whether fragments of several calls are sent mixed."""
        return self.model == INTERLEAVED


def meaning(request: Mapping[str, Any], model: str = "") -> Meaning:
    """What the sandbox answers to a request body in any of the four dialects; `model` where the body does not say."""
    name = model or str(request.get("model") or PAID)
    seed = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:24]
    input_tokens = _tokens(json.dumps(request))
    calls = _calls(request, name, seed) if _may_call(request) else ()
    preamble = _PREAMBLE if name == PARALLEL else ""
    text = preamble if calls else _TEXT
    thought = _THOUGHT if name == THINKING else ""
    said = text + "".join(call.arguments for call in calls)
    reasoning_tokens = _tokens(thought)
    output_tokens = _tokens(said) + reasoning_tokens
    return Meaning(name, seed, thought, text, calls, input_tokens, output_tokens, reasoning_tokens)


def _tokens(text: str) -> int:
    return -(-len(text) // 4)


def fragments(text: str) -> Iterator[str]:
    """`text` in uneven pieces of one to twelve characters, as vendors stream it."""
    position = number = 0
    while position < len(text):
        size = _SIZES[number % len(_SIZES)]
        yield text[position : position + size]
        position += size
        number += 1


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One server-sent event with JSON as its data; UTF-8 is not escaped, so that pieces can be cut inside of it."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {dump(data)}\n\n".encode()


def dump(data: Mapping[str, Any] | Sequence[Any]) -> str:
    """JSON as the vendors write it: compact, UTF-8."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


def example(schema: Any, salt: str = "", root: Any = None, depth: int = 0) -> Any:
    """A value that fits a JSON schema: unicode and escapes in its strings, nothing random."""
    if not isinstance(schema, Mapping):
        return f"{salt}{_STRING}"
    root = schema if root is None else root
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][-1]
    inner = _reference(schema, root) or _alternative(schema)
    if inner is not None:
        return example(inner, salt, root, depth + 1) if depth < _MAX_DEPTH else None
    return _by_type(schema, salt, root, depth)


def _by_type(schema: Mapping[str, Any], salt: str, root: Any, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = next((one for one in kind if one != "null"), "null") if isinstance(kind, list) else kind
    kind = str(kind).lower()  # Gemini writes STRING
    if kind == "object":
        properties = schema.get("properties")
        if not isinstance(properties, Mapping) or depth >= _MAX_DEPTH:
            return {}
        if _COMMANDS & properties.keys() and isinstance(schema.get("required"), list):
            # It will be run: where and for how long must not be nonsense.
            properties = {key: value for key, value in properties.items() if key in schema["required"]}
        return {key: _property(key, value, salt, root, depth) for key, value in properties.items()}
    if kind == "array":
        return [example(schema.get("items"), f"{salt}{n}", root, depth + 1) for n in (1, 2)]
    if kind == "integer":
        return max(int(schema.get("minimum", 42)), 1)
    fixed: Mapping[str, Any] = {"number": 2.5, "boolean": True, "null": None}
    return fixed[kind] if kind in fixed else f"{salt}{_STRING}"[: schema.get("maxLength")]


def _property(key: str, schema: Any, salt: str, root: Any, depth: int) -> Any:
    if key in _COMMANDS:  # agents run what they are told: let it be harmless
        listed = isinstance(schema, Mapping) and schema.get("type") == "array"
        return ["echo", "sandbox"] if listed else "echo sandbox"
    return example(schema, f"{salt}{key}: ", root, depth + 1)


def _reference(schema: Mapping[str, Any], root: Any) -> Any:
    """The schema that a `$ref` within the same document points to."""
    path = schema.get("$ref")
    if not isinstance(path, str) or not path.startswith("#/"):
        return None
    for step in path[2:].split("/"):
        root = root.get(step) if isinstance(root, Mapping) else None
    return root


def _alternative(schema: Mapping[str, Any]) -> Any:
    """The first alternative that is not null."""
    for key in ("anyOf", "oneOf", "allOf"):
        options = schema.get(key)
        if isinstance(options, list):
            return next((one for one in options if one != {"type": "null"}), None)
    return None


def _calls(request: Mapping[str, Any], model: str, seed: str) -> tuple[ToolCall, ...]:
    tools = list(_functions(request))
    if not tools:
        return ()
    chosen = [tools[0], tools[1 % len(tools)]] if model in (PARALLEL, INTERLEAVED) else tools[:1]
    calls = []
    for number, (name, schema) in enumerate(chosen):
        arguments = json.dumps(example(schema, f"{number}. " if number else ""), ensure_ascii=False)
        arguments = "" if model == EMPTY else arguments
        calls.append(ToolCall(name, arguments, f"{seed[:-1]}{number}"))
    return tuple(calls)


def _functions(request: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Name and parameter schema of every function among the tools, in any dialect."""
    tools = request.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        if not isinstance(tool, Mapping):
            continue
        declared = tool.get("functionDeclarations")
        for one in declared if isinstance(declared, list) else [tool.get("function", tool)]:
            if isinstance(one, Mapping) and isinstance(one.get("name"), str):
                schemas = (one.get(key) for key in ("parameters", "input_schema", "parametersJsonSchema"))
                yield one["name"], next((schema for schema in schemas if schema is not None), {"type": "object"})


def _may_call(request: Mapping[str, Any]) -> bool:
    """No call when tools are forbidden, or when the last message brings a tool's result: then the turn ends."""
    choice = request.get("tool_choice")
    if choice == "none" or (isinstance(choice, Mapping) and choice.get("type") == "none"):
        return False
    for key in ("messages", "input", "contents"):
        turns = request.get(key)
        if isinstance(turns, list) and turns and isinstance(turns[-1], Mapping):
            return not _is_result(turns[-1])
    return True


def _is_result(turn: Mapping[str, Any]) -> bool:
    if turn.get("role") == "tool" or str(turn.get("type", "")).endswith("_output"):
        return True
    parts = turn.get("content") or turn.get("parts")
    return isinstance(parts, list) and any(
        isinstance(part, Mapping) and (part.get("type") == "tool_result" or "functionResponse" in part)
        for part in parts
    )
