"""Asking RPCs over HTTPS leaves nothing over for the event loop's log."""

from __future__ import annotations

import ssl
from typing import Any, cast

import pytest
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import _HTTPConnection

from mitmproxy_x402.chain.json_rpc import HttpClient


@pytest.mark.parametrize(
    ("error", "quiet"),
    [
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), True),
        (ConnectionResetError(), True),
        (StreamClosedError(), True),
        (ValueError(), False),
    ],
)
def test_what_fails_behind_a_time_out_is_not_logged_unless_it_is_a_fault(error: Exception, quiet: bool) -> None:
    """A handshake may fail in the moment in which the time runs out: who asked was told of that already."""
    connection = object.__new__(HttpClient._connection_class(cast(Any, None)))  # a client would need an event loop
    assert isinstance(connection, _HTTPConnection)
    connection.final_callback = None  # type: ignore[assignment]  # as Tornado leaves it once it was called
    assert connection._handle_exception(type(error), error, None) is quiet
