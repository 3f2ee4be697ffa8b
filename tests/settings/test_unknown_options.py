"""Options that no addon declares: a start with a limit whose name is mistyped ends, and pays nothing before."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from support import effort
from support.proxy import Proxy

UPSTREAM = "http://127.0.0.1:1"

OTHER = """
class Other:
    def load(self, loader):
        loader.add_option("webhook", str, "", "an option of another script")

addons = [Other()]
"""


@pytest.mark.parametrize("own", effort.chosen([False, True], False), ids=["mitmdump", "own"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("budget=0.01/day", "There is no option 'budget'; did you mean x402_budget?"),
        ("max_requests=0.1", "There is no option 'max_requests'; did you mean x402_max_request?"),
        ("dry-run=true", "There is no option 'dry-run'; did you mean x402_dry_run?"),
        ("x402_bugdet=1", "There is no option 'x402_bugdet'; did you mean x402_budget?"),
        ("conection_strategy=lazy", "did you mean connection_strategy?"),
        ("whatever=1", "There is no option 'whatever'; those of x402 begin with x402_"),
    ],
)
def test_one_on_the_command_line_ends_the_start(given: str, said: str, own: bool, home: Path) -> None:
    with Proxy(UPSTREAM, "--set", given, home=home, own=own, expect_listen=False) as proxy:
        assert proxy.wait_for_end() == 1
        assert said in proxy.log.splitlines()[-1]
        assert "x402: upstream" not in proxy.log


def test_one_of_ours_in_mitmproxys_file_ends_the_start(home: Path) -> None:
    folder = home / ".mitmproxy"
    folder.mkdir()
    (folder / "config.yaml").write_text("webhook: abc\nbudget: 0.01/day\n")
    with Proxy(UPSTREAM, home=home, expect_listen=False) as proxy:
        assert proxy.wait_for_end() == 1
        assert "did you mean x402_budget?" in proxy.log


def test_one_of_a_script_that_is_not_loaded_in_mitmproxys_file_is_told(home: Path) -> None:
    folder = home / ".mitmproxy"
    folder.mkdir()
    (folder / "config.yaml").write_text("webhook: abc\n")
    with Proxy(UPSTREAM, home=home) as proxy:
        proxy.wait_for("mitmproxy's file sets webhook, which no loaded addon has as an option")


def test_one_of_a_script_that_is_loaded_later_is_its_own(home: Path) -> None:
    (home / "other.py").write_text(OTHER)
    with Proxy(UPSTREAM, "-s", "other.py", "--set", "webhook=abc", home=home) as proxy:
        assert "There is no option" not in proxy.log
        with closing(proxy.client()) as client:
            client.send(b"GET /x402/health HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.until(b"\r\n") == b"HTTP/1.1 200 OK\r\n"


def test_mitmproxys_allow_hosts_is_not_taken_for_ours_in_silence(home: Path) -> None:
    with Proxy(UPSTREAM, "--allow-hosts", "127.0.0.1", home=home) as proxy:
        proxy.wait_for("which hosts may be paid is said in x402_allow_hosts")
