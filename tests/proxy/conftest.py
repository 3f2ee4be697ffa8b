"""One proxy for many tests, under each setting of mitmproxy's that the handshake has to live with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import effort
from support.proxy import Proxy
from support.rig import Rig
from support.wire import Upstream

SETTINGS = {
    "lazy": ("--set", "connection_strategy=lazy"),
    "eager": ("--set", "connection_strategy=eager"),
    "large": ("--set", "stream_large_bodies=1k", "--set", "body_size_limit=400m"),
    "own": (),
}


def _idle(_peer: object, _upstream: Upstream) -> None:
    raise EOFError("no script")


def _proxy(setting: str, upstream: Upstream, home: Path) -> Proxy:
    """With `own`, the process is the package's, which leaves out of each request what nobody needs."""
    return Proxy(upstream.url, *SETTINGS[setting], home=home, own=True if setting == "own" else None)


@pytest.fixture(scope="module", params=effort.chosen(SETTINGS, "lazy", "own"))
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home: Path = tmp_path_factory.mktemp("home")
    with Upstream(_idle) as upstream, _proxy(request.param, upstream, home) as proxy:
        yield Rig(proxy, upstream)
