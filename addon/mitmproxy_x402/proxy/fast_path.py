"""Replaces what mitmproxy does over and over for each request by what does the same in less time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from mitmproxy import ctx, http, optmanager

from ..deferred import DELAY, LATE, Batch, Later
from . import header_index as heads
from .dispatch import IndexedAddons
from .exchange import shallow_copy
from .internals import (
    AddLogHook,
    AddonManager,
    Context,
    LogEntry,
    Options,
    commands,
    events,
    safecall,
)

if TYPE_CHECKING:
    from mitmproxy.master import Master


class _QuickOptions(Options):
    """mitmproxy's options, which copies what a reader could change, and not texts and numbers as well."""

    def __getattr__(self, attr: str) -> Any:
        option = self.__dict__["_options"].get(attr)
        if option is not None:
            value = option._default if option.value is optmanager.unset else option.value
            if type(value) in _UNCHANGING:
                return value
        return super().__getattr__(attr)  # type: ignore[no-untyped-call]


_UNCHANGING = (str, bool, int, float, type(None))


def _make_headers(self: http.Headers, fields: Iterable[tuple[bytes, bytes]] = (), **headers: str) -> None:
    """`Headers.__init__`, which takes names and values that are bytes without an update by nothing behind it."""
    self.fields = tuple(map(tuple, fields))  # type: ignore[arg-type]
    if headers or not all(type(name) is bytes is type(value) for name, value in self.fields):
        _MAKE_HEADERS(self, self.fields, **headers)


def _fork(self: Context) -> Context:
    """`Context.fork`, without a connection that is thrown away at once."""
    forked = shallow_copy(self)
    forked.layers = self.layers.copy()
    return forked


def _new(cls: type, *_args: Any, **_kwargs: Any) -> Any:
    """`__new__` without a look at whether the class is what its author meant it to be."""
    return object.__new__(cls)


def _write_late(dumper: Any, log: logging.Handler, later: Later) -> None:
    """Have mitmdump's two lines for a flow written soon, for several together, and no other line before them.

    `dumper` is the addon that writes them, `log` what writes the log to the same place.
    """
    match, here = dumper.match, threading.get_ident()

    def write(flows: Sequence[http.HTTPFlow]) -> None:
        for flow in flows:
            with safecall():
                dumper.echo_flow(flow)

    late: Batch[http.HTTPFlow] = Batch(write, later, DELAY / 2)  # before what was paid, which is said after DELAY

    def response(flow: http.HTTPFlow) -> None:
        if match(flow):
            late.add(flow)
            if ctx.options.flow_detail > 1:  # takes longer than two lines: not several in a row
                late.flush()

    def match_in_order(flow: Any) -> bool:
        late.flush()
        return bool(match(flow))

    def log_in_order(line: logging.LogRecord) -> bool:
        if threading.get_ident() == here and not hasattr(line, LATE):
            late.flush()
        return True

    dumper.late, dumper.response, dumper.match, dumper.done = late, response, match_in_order, late.close
    log.addFilter(log_in_order)


_MAKE_HEADERS = http.Headers.__init__


CHEAPER: tuple[tuple[type, str, Any], ...] = (
    (http.Headers, "__init__", _make_headers),
    (http.Headers, "__contains__", heads.has),
    (http.Headers, "get", heads.get),
    (http.Headers, "get_all", heads.get_all),
    # Looks at the types of each head's fields, which come from mitmproxy itself.
    (http.MessageData, "__post_init__", lambda _: None),
    (Context, "fork", _fork),
    (commands.StartHook, "__new__", staticmethod(_new)),
    (events.CommandCompleted, "__new__", staticmethod(_new)),
)
"""What `economise` puts in the place of mitmproxy's own: owner, name, and what does the same in less time."""


def economise(master: Master) -> None:
    """Leave out of each request what mitmproxy does over and over, and nobody needs.

    For processes that we start; other people's are left alone.
    """
    addons = master.addons
    if type(addons) is not AddonManager:
        return
    addons.__class__ = IndexedAddons
    indexed = cast(IndexedAddons, addons)
    indexed._index = {}
    if type(master.options) is Options:
        object.__setattr__(master.options, "__class__", _QuickOptions)  # its own takes every name for an option
    for owner, name, cheaper in CHEAPER:
        setattr(owner, name, cheaper)
    dumper, termlog = addons.get("dumper"), addons.get("termlog")
    if dumper is not None and termlog is not None:
        _write_late(dumper, termlog.logger, master.event_loop.call_later)
    # A turn of the event loop for each line of the log, to tell addons that have the hook for it.
    told, here = AddLogHook(LogEntry("", "info")), threading.get_ident()
    master._legacy_log_events.addFilter(lambda _: threading.get_ident() != here or bool(indexed._asked(told)))
