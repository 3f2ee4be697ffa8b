"""Checks a value against a stranger's JSON schema, by jsonschema, within bounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from operator import ge, le
from typing import Any

from ..printing import line
from ..values import mapping, sequence
from .patterns import matches
from .problems import shown_value, told
from .work import MAX_DEPTH, MAX_STEPS, TooMuch, Work, current

MAX_MISFITS = 20
"""Misfits of one call that are told."""
_MAX_UNIQUE = 1000
_TYPES = frozenset(("string", "number", "integer", "boolean", "array", "object", "null"))
_ANY = ("any", "type_unspecified")
"""Types, in small letters, that mean any: of JSON Schema's third draft, and Google's."""
_NAME = re.compile("[A-Za-z][A-Za-z0-9_.-]{0,39}")
_NOT_MONOTONE = {"not", "oneOf", "if", "contains"}
_SKIPPED = frozenset(("format", "unevaluatedProperties", "unevaluatedItems", "contentSchema"))
"""Keywords that are not checked: they say nothing that binds, or take too long."""


def problems_of(value: Any, schema: Any, work: Work) -> list[tuple[str, str]]:
    """Pointer and problem of each place in `value` that `schema` does not allow; `work` is what it took."""
    current.set(work)
    found: list[tuple[str, str]] = []
    if not isinstance(schema, (dict, bool)):
        work.leave(_no_schema(schema))
        return found
    try:
        validator = _validator(schema)
        for error in validator.iter_errors(value) if isinstance(schema, bool) else validator.descend(value, schema):
            found += told(error)
            if len(found) > MAX_MISFITS:
                break
    except TooMuch:
        work.unchecked["the arguments are too much for its schema to be checked to their end"] = None
    except RecursionError:
        work.unchecked["its schema leads to itself, or is nested too deeply"] = None
    except ModuleNotFoundError as error:  # recordings are read without our dependencies, too
        work.unchecked[f"the package {error.name} is not installed"] = None
    except Exception as error:
        work.unchecked[f"its schema cannot be used: {line(f'{type(error).__name__}: {error}', 160)}"] = None
    return found


_DRAFTS = {"draft-04": "Draft4Validator", "draft-06": "Draft6Validator", "draft-07": "Draft7Validator"}


def _validator(schema: Any) -> Any:
    import referencing  # noqa: PLC0415  (a tenth of a second)

    declared = mapping(schema).get("$schema")
    known = (name for draft, name in _DRAFTS.items() if isinstance(declared, str) and draft in declared)
    return _bounded(next(known, "Draft202012Validator"))(schema, registry=referencing.Registry())


@cache
def _bounded(name: str) -> Any:
    """A validator that counts its steps, and leaves out what is not checked here."""
    import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415

    base: Any = getattr(jsonschema, name)
    checks = {**base.VALIDATORS, "multipleOf": _multiple_of, "pattern": _pattern}
    checks |= {key: _if_sure(checks[key]) for key in _NOT_MONOTONE & checks.keys()}
    checks["type"] = _type(checks["type"])
    checks |= {"patternProperties": _pattern_properties, "additionalProperties": _additional_properties}
    for key, of_sign in _BOUNDS.items():
        checks[key] = _bound(checks[key], *of_sign)
        checks[of_sign[0]] = _beyond(*of_sign)
    if name == "Draft202012Validator":  # many schemas have an older draft's lists, and do not say so
        checks |= {
            "items": _items(checks["items"]),
            **{key: jsonschema.Draft7Validator.VALIDATORS[key] for key in ("additionalItems", "dependencies")},
        }
    keywords: dict[str, Any] = {
        key: _left_out(key) if key in _SKIPPED else _counted(key, check) for key, check in checks.items()
    }
    checker = jsonschema.validators.extend(base, keywords)
    checker.descend = _descend(checker.descend)
    checker.evolve = _evolve(checker.evolve)
    return checker


def _evolve(within: Callable[..., Any]) -> Callable[..., Any]:
    """The same validator for another schema, also for one that declares a draft: jsonschema's own has no bounds."""

    def evolve(self: Any, **changes: Any) -> Any:
        schema = changes.get("schema", self.schema)
        if isinstance(schema, dict) and "$schema" in schema:
            changes["schema"] = {key: value for key, value in schema.items() if key != "$schema"}
        return within(self, **changes)

    return evolve


def _descend(within: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """The step from a schema to one within it. jsonschema does not say where it is if that one is `false`.

    Null fits wherever OpenAPI's `nullable` stands, also beside `$ref` and `enum`. What is no schema allows everything.
    """
    import jsonschema  # noqa: PLC0415

    def descend(self: Any, instance: Any, schema: Any, path: Any = None, schema_path: Any = None, **more: Any) -> Any:
        if schema is False:
            at, by = ([] if step is None else [step] for step in (path, schema_path))
            problem = f"is {shown_value(instance)}, and its schema is false, which allows nothing"
            yield jsonschema.ValidationError(problem, path=at, schema_path=by, instance=instance, schema=schema)
        elif not isinstance(schema, (dict, bool)):
            current.get().doubt(_no_schema(schema))
        elif instance is not None or mapping(schema).get("nullable") is not True:
            yield from within(self, instance, schema, path=path, schema_path=schema_path, **more)

    return descend


def _counted(key: str, check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        work = current.get()
        work.steps += 1
        if work.steps > MAX_STEPS:
            raise TooMuch
        if work.depth >= MAX_DEPTH:  # whatever the interpreter's own limit is
            raise RecursionError("it leads to itself, or is nested too deeply")
        if key == "uniqueItems" and value and len(sequence(instance)) > _MAX_UNIQUE:
            work.doubt(f"lists of more than {_MAX_UNIQUE:,} items are not searched for equal ones")
            return
        work.depth += 1
        try:
            yield from check(validator, value, instance, schema) or ()
        except (TooMuch, RecursionError, ModuleNotFoundError):
            raise
        except Exception:  # whatever jsonschema and referencing raise at what is no schema; the rest is checked
            work.doubt(_unusable(key, value))
        finally:
            work.depth -= 1

    return counted


def _no_schema(value: Any) -> str:
    return f"its schema cannot be used: {shown_value(value)} stands where a schema should"


def _unusable(key: str, value: Any) -> str:
    """Why a keyword could not be checked."""
    if key.endswith(("$ref", "Ref")) and isinstance(value, str):
        away = ":" in value or value.startswith("//")
        return f"its schema refers to {line(value, 100)}, which is {'not fetched' if away else 'not in it'}"
    return f"its schema cannot be used: its {line(key, 40)} is {shown_value(value)}"


def _type(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """`type`, which takes every value where it has a word that JSON Schema does not know, and vendors do: `any`."""

    def of_type(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        kinds = value if isinstance(value, list) else [value]
        unknown = [kind for kind in kinds if _is_unknown(kind)]
        known = [kind for kind in kinds if not _is_unknown(kind)]
        if not unknown:
            yield from check(validator, value, instance, schema) or ()
        elif not any(validator.is_type(instance, kind) for kind in known):
            current.get().unsure += 1
            for kind in unknown:
                if kind and str(kind).lower() not in _ANY:
                    current.get().leave(f"the type {line(str(kind), 40)} of its schema is none of JSON Schema's")

    return of_type


def _is_unknown(kind: Any) -> bool:
    """Whether a type is a name that JSON Schema has not, or says that there is none."""
    return kind in (None, 0, "") or (isinstance(kind, str) and bool(_NAME.fullmatch(kind)) and kind not in _TYPES)


def _if_sure(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """A keyword by which a value can be wrong because it fits a schema: left out where nobody knows whether it does."""

    def sure(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        before = current.get().unsure
        found = list(check(validator, value, instance, schema) or ())
        if current.get().unsure == before:
            yield from found

    return sure


def _items(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """`items` of a recent draft, which takes lists as the drafts before it did."""

    def items(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if not isinstance(value, list):
            yield from check(validator, value, instance, schema) or ()
            return
        for number, (one, inner) in enumerate(zip(sequence(instance), value, strict=False)):
            yield from validator.descend(one, inner, path=number, schema_path=number)

    return items


_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool], str]] = {
    "minimum": ("exclusiveMinimum", le, "less than or equal to the minimum"),
    "maximum": ("exclusiveMaximum", ge, "greater than or equal to the maximum"),
}
"""Bounds of numbers: the keyword for one that is no value itself, which is beyond it, and in words.

That keyword is a number of its own, or (in the fourth draft, and in OpenAPI 3.0) says of the other that it is no value.
"""


def _bound(check: Callable[..., Any], strict: str, *of_strict: Any) -> Callable[..., Iterator[Any]]:
    beyond = _beyond(strict, *of_strict)

    def bound(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        yield from (beyond if schema.get(strict) is True else check)(validator, value, instance, schema) or ()

    return bound


def _beyond(_: str, is_beyond: Callable[[Any, Any], bool], words: str) -> Callable[..., Iterator[Any]]:
    import jsonschema  # noqa: PLC0415

    def beyond(validator: Any, value: Any, instance: Any, _: Any) -> Iterator[Any]:
        if not isinstance(value, bool) and validator.is_type(instance, "number") and is_beyond(instance, value):
            yield jsonschema.ValidationError(f"{instance!r} is {words} of {value!r}")

    return beyond


def _multiple_of(_: Any, value: Any, instance: Any, __: Any) -> Iterator[Any]:
    """`multipleOf`, exact in decimal, not in binary floats."""
    import jsonschema  # noqa: PLC0415

    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (value, instance)) or value <= 0:
        return
    try:
        rest = Fraction(repr(instance)) % Fraction(repr(value))
    except ValueError:  # infinite
        return
    if rest:
        yield jsonschema.ValidationError(f"is {line(repr(instance), 40)}, and must be a multiple of {value}")


def _pattern(_: Any, value: Any, instance: Any, __: Any) -> Iterator[Any]:
    import jsonschema  # noqa: PLC0415

    if isinstance(instance, str) and isinstance(value, str) and matches(value, instance) is False:
        yield jsonschema.ValidationError(f"is {shown_value(instance)}, and must match {line(value, 60)}")


def _pattern_properties(validator: Any, value: Any, instance: Any, _: Any) -> Iterator[Any]:
    for pattern, inner in mapping(value).items():
        for name, one in mapping(instance).items():
            if matches(pattern, name):
                yield from validator.descend(one, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    import jsonschema  # noqa: PLC0415

    declared, patterns = mapping(schema.get("properties")), mapping(schema.get("patternProperties"))
    for name, one in mapping(instance).items():
        if name in declared or any(matches(pattern, name) is not False for pattern in patterns):
            continue
        if value is False:
            yield jsonschema.ValidationError("is not declared", path=[name])
        elif isinstance(value, dict):
            yield from validator.descend(one, value, path=name)


def _left_out(key: str) -> Callable[..., Iterator[Any]]:
    """A check that does nothing; keywords that would bind are listed as not checked."""

    def left_out(_: Any, value: Any, *__: Any) -> Iterator[Any]:
        if key.startswith("unevaluated") and value not in (True, {}):
            current.get().doubt(f"{key} of its schema is not checked")
        elif key == "format":  # what is not of that form may be of another: only `oneOf` and the like care
            current.get().unsure += 1
        return iter(())

    return left_out
