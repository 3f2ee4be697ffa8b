"""Where a reverse mode leads and listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from mitmproxy_x402.proxy.exchange import where_it_listens
from support.proxy import Proxy
from support.wire import free_port


@pytest.mark.parametrize(
    ("mode", "port", "place"),
    [
        ("reverse:https://a.example", None, ("https://a.example", "", 8080)),
        ("reverse:https://a.example", 4402, ("https://a.example", "", 4402)),
        ("reverse:https://a.example", 0, ("https://a.example", "", 0)),
        ("reverse:https://a.example@4403", 4402, ("https://a.example", "", 4403)),
        ("reverse:https://a.example@127.0.0.2:4403", 4402, ("https://a.example", "127.0.0.2", 4403)),
        ("reverse:https://a.example@[::1]:4403", 4402, ("https://a.example", "[::1]", 4403)),
    ],
)
def test_where_it_listens(mode: str, port: int | None, place: tuple[str, str, int]) -> None:
    assert where_it_listens(mode, "", port) == place


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("0", "upstream http://127.0.0.1:9; the line that says where it listens"),
        ("NUMBER", "base URL for clients is http://127.0.0.1:NUMBER "),
    ],
)
def test_the_start_names_no_port_that_it_does_not_know(option: str, said: str, home: Path) -> None:
    number = str(free_port())
    proxy = Proxy("http://127.0.0.1:9", home=home)
    proxy.command[proxy.command.index("--listen-port") + 1] = option.replace("NUMBER", number)
    with proxy:
        assert said.replace("NUMBER", number) in proxy.log
