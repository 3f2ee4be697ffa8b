"""Checks at the start that every internal of mitmproxy that this package leans on is as it was."""

from __future__ import annotations

import inspect
import logging
import re
from typing import TYPE_CHECKING, Any

from mitmproxy import http, version

from ..errors import SettingsError
from .fast_path import CHEAPER
from .internals import (
    AddonManager,
    Context,
    HttpLayer,
    HttpStream,
    Options,
    _http1,
    layer,
)

if TYPE_CHECKING:
    from mitmproxy.master import Master

SUPPORTED = ((11, 0, 2), (12, 4))
"""mitmproxy versions from the first, up to and without the second."""


def is_starting(master: Master) -> bool:
    """Whether mitmproxy is not ready yet, though its port may be open: it still looks for errors, and would end."""
    listener = getattr(master.addons.get("errorcheck"), "logger", None)
    return listener in logging.getLogger().handlers


def unsent(proxyserver: Any) -> int:
    """Bytes that mitmproxy has yet to send, to whomever; `proxyserver` is its addon of that name."""
    transports = [each for handler in proxyserver.connections.values() for each in handler.transports.values()]
    return sum(each.writer.transport.get_write_buffer_size() for each in transports if each.writer is not None)


_NEEDED: tuple[tuple[Any, str, tuple[str, ...] | None], ...] = (
    (HttpStream, "handle_event", ("self", "event")),
    (HttpStream, "check_invalid", ("self", "request")),
    (HttpStream, "check_body_size", ("self", "request")),
    (HttpStream, "check_killed", ("self", "emit_error_hook")),
    (HttpStream, "state_wait_for_response_headers", ("self", "event")),
    (HttpStream, "make_server_connection", ("self",)),
    (HttpStream, "handle_protocol_error", ("self", "event")),
    (HttpStream, "send_response", ("self", "already_streamed")),
    (HttpStream, "state_stream_response_body", ("self", "event")),
    (HttpStream, "state_done", None),
    (HttpStream, "state_errored", None),
    (HttpLayer, "make_stream", ("self", "stream_id")),
    (HttpLayer, "_handle_event", ("self", "event")),
    (HttpLayer, "event_to_child", ("self", "child", "event")),
    (_http1.Http1Server, "send", ("self", "event")),
    (_http1.Http1Client, "send", ("self", "event")),
    (_http1.Http1Client, "read_headers", ("self", "event")),
    (_http1.Http1Client, "read_body", ("self", "event")),
    (_http1.Http1Client, "mark_done", ("self", "request", "response")),
    (layer.Layer, "handle_event", ("self", "event")),
    (AddonManager, "_iter_hooks", ("self", "addon", "event")),
    (AddonManager, "trigger_event", ("self", "event")),
    (AddonManager, "trigger", ("self", "event")),
    (AddonManager, "register", ("self", "addon")),
    (AddonManager, "remove", ("self", "addon")),
    (AddonManager, "clear", ("self",)),
    (Options, "__getattr__", ("self", "attr")),
    (Context, "fork", ("self",)),
    (http.Headers, "__init__", ("self", "fields", "headers")),
    (http.Headers, "__contains__", ("self", "key")),
    (http.Headers, "get", ("self", "key", "default")),
    (http.Headers, "get_all", ("self", "name")),
)
"""Every internal that this room leans on, with its parameters. Each has a test of what it does, too."""


def self_check() -> None:
    """Refuse a mitmproxy that this room was not written for.

    Raises SettingsError: outside SUPPORTED, or one of the internals has moved.
    """
    found = version.VERSION
    number = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    low, high = SUPPORTED
    if not low <= number < high:
        raise SettingsError(
            f"mitmproxy {found} is not supported: mitmproxy-x402 needs at least {'.'.join(map(str, low))} "
            f"and less than {'.'.join(map(str, high))}. Install one of these, for example with ./run.sh."
        )
    ours = [cheaper for _, _, cheaper in CHEAPER]
    for owner, name, parameters in _NEEDED:
        target = getattr(owner, name, None)
        if target in ours:  # checked before it was put there; the script is loaded again
            continue
        moved = (
            target is None
            or getattr(target, "__isabstractmethod__", False)
            or (parameters is not None and tuple(inspect.signature(target).parameters)[: len(parameters)] != parameters)
        )
        if moved:
            raise SettingsError(
                f"mitmproxy {found} has changed {owner.__name__}.{name}, on which the x402 handshake stands: "
                "not starting. Install the versions of requirements.lock, for example with ./run.sh."
            )
