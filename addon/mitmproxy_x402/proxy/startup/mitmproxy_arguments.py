"""Parses mitmproxy's command line without starting mitmproxy, for verbs that check arguments."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mitmproxy.options import Options

from ...errors import SettingsError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that mitmproxy calls
    from mitmproxy.tools import cmdline
    from mitmproxy.tools.dump import DumpMaster
    from mitmproxy.tools.web.master import WebMaster


@dataclass(frozen=True)
class Taken:
    """The result of parsing a command line for mitmproxy."""

    unknown: tuple[str, ...]
    """Arguments that neither mitmdump nor mitmweb takes."""
    flags: tuple[str, ...]
    """All flags that they take, such as `--listen-host`."""
    options: frozenset[str]
    """The option names that `--set` takes without further addons."""
    has_scripts: bool
    """Whether it names further addons, which may declare options of their own."""


def take(arguments: Sequence[str]) -> Taken:
    """Parse `arguments` as mitmproxy does. Raises SettingsError: a value is missing or of a wrong type."""
    return asyncio.run(_take(arguments))


async def _take(arguments: Sequence[str]) -> Taken:
    with _logging_as_it_is():
        unknown: list[str] = []
        flags: dict[str, None] = {}
        names: set[str] = set()
        readers: Sequence[tuple[Callable[..., Any], Callable[[Options], ArgumentParser]]] = (
            (DumpMaster, cmdline.mitmdump),
            (WebMaster, cmdline.mitmweb),
        )
        for master, make_parser in readers:
            options = Options()
            master(options)
            parser = make_parser(options)
            parser.error = _wrong  # type: ignore[method-assign]
            given, left = parser.parse_known_args(list(arguments))
            # Everything after the first word that belongs to no flag is taken as an expression.
            words: list[str] = getattr(given, "filter_args", None) or []
            found = [*left, *([] if any("~" in word for word in words) else words)]
            unknown = found if not names else [argument for argument in unknown if argument in found]
            flags |= dict.fromkeys(flag for action in parser._actions for flag in action.option_strings)
            names |= set(options.keys())
        return Taken(tuple(unknown), tuple(flags), frozenset(names), bool(given.scripts))


def _wrong(message: str) -> NoReturn:
    raise SettingsError(f"mitmproxy does not take these arguments: {message}")


@contextlib.contextmanager
def _logging_as_it_is() -> Iterator[None]:
    """Keep the logging handlers as they are: mitmproxy's masters install handlers and remove them at their end."""
    root = logging.getLogger()
    before = list(root.handlers)
    try:
        yield
    finally:
        root.handlers[:] = before
