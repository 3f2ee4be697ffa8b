"""Makes instances of frozen dataclasses as quickly as those of other dataclasses.

A frozen dataclass calls `object.__setattr__` for each field when an instance is made, which takes five to ten times as
long as an assignment: 6 to 10 microseconds for 18 fields. A paid request makes a dozen such instances.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

_Class = TypeVar("_Class", bound=type)


def quick_init(cls: _Class) -> _Class:
    """Replace the `__init__` of the frozen dataclass `cls` by one that writes to the instance's `__dict__`.

    Takes the same arguments; instances are as frozen as before. Raises TypeError for what it does not know: slots,
    `__post_init__`, and keyword-only fields.
    """
    if "__slots__" in vars(cls) or hasattr(cls, "__post_init__") or any(field.kw_only for field in fields(cls)):
        raise TypeError(f"{cls.__name__} is no plain dataclass")
    scope: dict[str, Any] = {"MISSING": MISSING}
    parameters, lines = ["self"], ["    its = self.__dict__"]
    for field in fields(cls):
        name = field.name
        if not field.init and field.default_factory is MISSING:  # found in the class
            continue
        scope |= {f"default_{name}": field.default, f"new_{name}": field.default_factory}
        if field.init:
            parameters.append(name + _default(field))
        lines.append(f"    its[{name!r}] = {_value(field)}")
    exec("\n".join([f"def __init__({', '.join(parameters)}):", *lines]), scope)  # noqa: S102  # of our own names alone
    made: Callable[..., None] = scope["__init__"]
    made.__qualname__, made.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    cls.__init__ = made  # type: ignore[misc]  # with the parameters that it had
    return cls


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f"=default_{field.name}"
    return "=MISSING" if field.default_factory is not MISSING else ""


def _value(field: Field[Any]) -> str:
    """Python for the value of the field."""
    name = field.name
    if field.default_factory is MISSING:
        return name
    return f"new_{name}() if {name} is MISSING else {name}" if field.init else f"new_{name}()"
