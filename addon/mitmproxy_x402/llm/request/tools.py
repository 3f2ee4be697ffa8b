"""Reads the tools of a request, in all dialects, with their parameters in a form that fits a line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..values import dump, mapping, sequence, string
from .asking import Tool
from .parts import either, marks_of

MAX_TOOLS = 5000
"""Tools of one request that are read."""
MAX_PARAMETERS = 400
"""Characters of a tool's parameters that are shown."""
_FOUND = ("tool_search_output", "additional_tools")
"""Kinds of items of a conversation that declare further tools."""
_MAX_DEPTH = 4
_MAX_NODES = 200


def tools_of(body: dict[str, Any]) -> Iterator[Tool]:
    """The tools that a request names."""
    yield from _listed(body.get("tools", mapping(body.get("toolConfig")).get("tools")))
    for item in map(mapping, sequence(body.get("input"))):
        if item.get("type") in _FOUND:
            yield from _listed(item.get("tools"))
    yield from (_function(mapping(one)) for one in sequence(body.get("functions"))[:MAX_TOOLS])


def _listed(tools: Any) -> Iterator[Tool]:
    for tool in map(mapping, sequence(tools)[:MAX_TOOLS]):
        kind = string(tool.get("type"))
        declared = either(tool, "functionDeclarations")
        if isinstance(declared, list):
            yield from (_function(mapping(one)) for one in declared)
        elif "toolSpec" in tool:
            yield _function(mapping(tool["toolSpec"]))
        elif "function" in tool:
            yield replace(_function(mapping(tool["function"])), marks=tuple(marks_of(tool)))
        elif kind == "custom" and "custom" in tool:
            yield _named(mapping(tool["custom"]), "custom")
        elif kind in ("", "function", "custom") and "name" in tool:
            custom = kind == "custom" and "input_schema" not in tool
            yield _named(tool, "custom") if custom else _function(tool)
        elif kind:
            yield _named(tool, kind)
        else:  # Gemini's own tools: their name is the key
            yield from (Tool(key[:100], kind="built in") for key in tool)
        if kind == "namespace" and isinstance(tool.get("tools"), list):
            yield from (replace(one, namespace=string(tool.get("name"))) for one in _listed(tool["tools"]))


def _named(tool: dict[str, Any], kind: str) -> Tool:
    name = string(tool.get("name")) or string(tool.get("server_label")) or kind
    return Tool(name, string(tool.get("description")), kind=kind)


def _function(function: dict[str, Any]) -> Tool:
    keys = ("parameters", "input_schema", "parametersJsonSchema", "parameters_json_schema", "inputSchema")
    schema = next((function[key] for key in keys if function.get(key) is not None), None)
    if schema is None and isinstance(function.get("parameter_definitions"), dict):
        schema = _python_s(function["parameter_definitions"])
    inner = mapping(schema).get("json")  # Bedrock's
    schema = inner if isinstance(inner, dict) and len(mapping(schema)) == 1 else schema
    text, marks = _Short(schema).text, tuple(marks_of(function))
    return Tool(string(function.get("name")), string(function.get("description")), text, marks=marks, schema=schema)


_PYTHON_S = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}


def _python_s(parameters: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of parameters that Cohere's first version describes in Python's types."""
    properties = {}
    for name, one in parameters.items():
        kind = re.match(r"[a-z]*", string(mapping(one).get("type")).lower())
        known = _PYTHON_S.get(kind[0]) if kind else None
        properties[name] = {"type": known} if known else {}
    required = [name for name, one in parameters.items() if mapping(one).get("required") is True]
    return {"type": "object", "properties": properties, "required": required}


class _Short:
    """A JSON schema in the notation of a typed language; bounded work, whatever the schema."""

    def __init__(self, schema: Any) -> None:
        self._nodes = 0
        self._root = mapping(schema)
        text = ", ".join(self._properties(self._root, 0))
        self.text = text if len(text) <= MAX_PARAMETERS else text[:MAX_PARAMETERS] + "…"

    def _properties(self, schema: dict[str, Any], depth: int) -> Iterator[str]:
        required = sequence(schema.get("required"))
        for name, value in mapping(schema.get("properties")).items():
            if self._nodes >= _MAX_NODES:
                return
            yield f"{name[:100]}{'' if name in required else '?'}: {self._type(value, depth + 1)}"

    def _type(self, value: Any, depth: int) -> str:
        self._nodes += 1
        schema = mapping(value)
        if depth > _MAX_DEPTH or self._nodes >= _MAX_NODES:
            return "…"
        options = next((schema[key] for key in ("anyOf", "oneOf", "allOf") if isinstance(schema.get(key), list)), None)
        if options is not None:
            return " | ".join(self._type(option, depth + 1) for option in options[:10])
        if "const" in schema:
            return dump(schema["const"])[:60]
        if isinstance(schema.get("enum"), list):
            return " | ".join(dump(one)[:60] for one in schema["enum"][:20])
        if string(schema.get("$ref")):
            return string(schema["$ref"]).rpartition("/")[2][:60]
        kind = schema.get("type")
        if isinstance(kind, list):
            return " | ".join(self._simple(string(one), schema, depth) for one in kind[:10])
        return self._simple(string(kind), schema, depth)

    def _simple(self, kind: str, schema: dict[str, Any], depth: int) -> str:
        kind = kind.lower()[:60]  # Gemini writes STRING
        if kind == "object" or (not kind and "properties" in schema):
            inside = ", ".join(self._properties(schema, depth))
            return f"{{{inside}}}" if inside else "object"
        if kind == "array":
            inner = self._type(schema.get("items"), depth + 1) if schema.get("items") else "any"
            return f"({inner})[]" if " | " in inner else f"{inner}[]"
        return kind if kind not in ("", "type_unspecified") else "any"


_COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
_GOOGLES = ("", "string", "number", "integer", "boolean", "array", "object", "null")
"""Google's types where they come as numbers (`enum-encoding=int`)."""


_OF_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
"""Keywords whose value has schemas under names of its author's."""
_AS_GIVEN = ("enum", "const", "default", "example", "examples")


def plain_schema(schema: Any, depth: int = 0) -> Any:
    """`schema` in JSON Schema's words: Google's has its types in capitals, `nullable`, and numbers as text."""
    if isinstance(schema, list):
        return [plain_schema(one, depth + 1) for one in schema] if depth <= 64 else schema
    if not isinstance(schema, dict) or depth > 64:
        return schema
    plain: dict[str, Any] = {}
    for key, one in schema.items():
        if key in _OF_NAMES and isinstance(one, dict):
            plain[key] = {name: plain_schema(inner, depth + 2) for name, inner in one.items()}
        else:
            plain[key] = one if key in _AS_GIVEN else plain_schema(one, depth + 1)
    for key in _COUNTS & plain.keys():  # Google's are text in JSON, as all its numbers of 64 bits
        if isinstance(plain[key], str) and re.fullmatch("[0-9]{1,18}", plain[key]):
            plain[key] = int(plain[key])
    kind = _name_type(plain)
    if kind in ("integer", "number") and isinstance(plain.get("enum"), list):  # Google's: {INTEGER, ["101", "201"]}
        plain["enum"] = [*plain["enum"], *map(int, filter(_is_whole, plain["enum"]))]
    if plain.get("nullable") is True and isinstance(kind, str):
        plain["type"] = [kind, "null"]
    return plain


def _name_type(plain: dict[str, Any]) -> Any:
    """The type of a schema, which gets JSON Schema's name."""
    if "type_" in plain and "type" not in plain:
        plain["type"] = plain.pop("type_")
    kind = plain.get("type")
    if type(kind) is int and 0 < kind < len(_GOOGLES):
        plain["type"] = kind = _GOOGLES[kind]
    if isinstance(kind, str) and kind.isupper():
        plain["type"] = kind = kind.lower()
    elif isinstance(kind, list):
        plain["type"] = [one.lower() if isinstance(one, str) and one.isupper() else one for one in kind]
    return kind


def _is_whole(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("-?[0-9]{1,18}", value) is not None
