"""Checks the options x402_dump... and turns them into a plan: what is recorded, where, and in which formats."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mitmproxy import flowfilter, http

from ..errors import SettingsError
from ..machine.private_files import folder_objection
from ..settings.settings import Settings
from .format import Headers, Recording
from .har import HarFiles
from .mitm import FlowFile, without_body
from .names import moment
from .outputs import Outputs
from .redact import Redactor
from .writing.search import CannotTell, Searcher
from .writing.search_process import Body

SEARCHED = 32 << 20
"""Most bytes of a body that a filter for bodies searches."""

_AT_THE_HEAD = {
    *("http", "tcp", "udp", "dns", "all", "q", "s", "m", "u", "d", "src", "dst", "c"),
    *("t", "tq", "ts", "a", "h", "hq", "hs", "replay", "replayq", "replays"),
}
"""Codes of mitmproxy's filters whose result is final once the answer's head is known, and that look at no body."""
_OF_BODIES = ("b", "bq", "bs")
"""Codes of its filters that search bodies, decoded as a whole and on the event loop; here neither is done."""

logger = logging.getLogger(__name__)


class Filter:
    """A filter expression in mitmproxy's syntax. Raises ValueError: it cannot be parsed."""

    def __init__(self, text: str) -> None:
        self._matches: Callable[[http.HTTPFlow], bool] = flowfilter.parse(text)
        self._searcher = Searcher()
        self._has_told = False
        self.early = _is_early(self._matches)
        """Whether its result is final once the answer's head is known."""

    def matches(self, flow: http.HTTPFlow) -> bool:
        """Whether to record `flow`; True if the filter fails on it."""
        try:
            return bool(self._matches(flow))
        except Exception as error:  # mitmproxy's filters can fail on unusual flows
            logger.debug("x402: x402_dump_filter could not be applied: %s", type(error).__name__)
            return True

    def wants(self, state: dict[str, Any], recording: Recording) -> bool:
        """Whether to record a finished flow, given its mitmproxy `state`; True if nobody can tell. Blocks."""
        try:
            return self._holds(self._matches, without_body(state, recording), recording)
        except CannotTell as error:
            if not self._has_told:
                self._has_told = True
                logger.warning("x402: x402_dump_filter: %s: what it could not tell is recorded", error)
        except Exception as error:
            logger.debug("x402: x402_dump_filter could not be applied: %s", type(error).__name__)
        return True

    def _holds(self, node: Any, flow: http.HTTPFlow, recording: Recording) -> bool:
        if isinstance(node, flowfilter.FAnd):
            return all(self._holds(part, flow, recording) for part in node.lst)
        if isinstance(node, flowfilter.FOr):
            return any(self._holds(part, flow, recording) for part in node.lst)
        if isinstance(node, flowfilter.FNot):
            return not self._holds(node.itm, flow, recording)
        code = getattr(node, "code", None)
        if code in _OF_BODIES:
            return self._searcher.holds(node.re, _bodies(recording, code), SEARCHED)
        return bool(node(flow))


def _bodies(recording: Recording, code: str) -> list[Body]:
    """The files that a filter of this `code` searches."""
    request, response, found = recording.request, recording.response, []
    if request.body is not None and code != "bs":
        found.append(Body(str(recording.folder / request.body), _coding(request.headers)))
    if response is not None and code != "bq":
        name = response.decoded or response.body
        if name is not None:
            found.append(Body(str(recording.folder / name)))
    return found


def _coding(headers: Headers) -> str:
    return ", ".join(value for name, value in headers if name.lower() == "content-encoding")


def _is_early(node: object) -> bool:
    parts = getattr(node, "lst", None) or ([node.itm] if hasattr(node, "itm") else None)
    if parts is not None:
        return all(_is_early(part) for part in parts)
    return getattr(node, "code", None) in _AT_THE_HEAD


@dataclass(frozen=True)
class Plan:
    """A checked plan of what to record, where and how."""

    asked: tuple[object, ...]
    """The settings that it was made from, as `asked_of` returns them; equal ones need no new plan."""
    folder: Path
    path: bytes
    """The same as the operating system has it."""
    filter: Filter | None
    outputs: Outputs
    redactor: Redactor

    @property
    def is_plain(self) -> bool:
        """Whether only folders are written, and none is taken back: that needs nothing of mitmproxy's."""
        return self.outputs.is_plain and (self.filter is None or self.filter.early)

    @property
    def needs_state(self) -> bool:
        """Whether mitmproxy's state of the flow is needed when a recording ends."""
        return self.outputs.mitm is not None or (self.filter is not None and not self.filter.early)


def make_plan(settings: Settings, redactor: Redactor | None = None) -> Plan | None:
    """The plan for `settings`, after creating and testing its folder; None: no recording. Raises SettingsError.

    `redactor` is used on the event loop alone: one that has seen the same headers before saves time.
    """
    folder = settings.dump
    if folder is None:
        return None
    _try_folder(folder)
    own = Redactor(settings.client_token)
    run = f"{moment(datetime.now(timezone.utc))}-{os.getpid()}"
    formats = settings.dump_formats
    outputs = Outputs(
        native="native" in formats,
        har=HarFiles(folder, run) if "har" in formats else None,
        mitm=FlowFile(folder, run, own) if "mitm" in formats else None,
    )
    chosen = Filter(settings.dump_filter) if settings.dump_filter else None
    return Plan(asked_of(settings), folder, os.fsencode(folder), chosen, outputs, redactor or own)


def asked_of(settings: Settings) -> tuple[object, ...]:
    """The values in `settings` that a plan depends on."""
    return settings.dump, settings.dump_filter, settings.dump_formats, settings.client_token


def _try_folder(folder: Path) -> None:
    try:
        for _ in range(2):  # twice, because another process may have created it meanwhile
            why = folder_objection(folder)
            if why is not None:
                raise SettingsError(f"x402_dump = {str(folder)[:200]!r}: nothing is recorded there: {why}")
            folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x402")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(
            f"x402_dump = {str(folder)[:200]!r}: cannot record there: {reason}; expected a folder that you can write "
            "to, or a new name in a folder that exists"
        ) from None
