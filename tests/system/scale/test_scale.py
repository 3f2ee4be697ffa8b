"""Many proxies, as on many machines, with one ledger in PostgreSQL: they share budgets and held payments."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mitmproxy_x402.cli import main as cli
from mitmproxy_x402.forecast.forecast import TRUST
from mitmproxy_x402.ledger.interface import Intent, Outcome
from mitmproxy_x402.ledger.postgres.store import PostgresLedger
from mitmproxy_x402.protocol.messages import AtomicUnits, Caip2
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from mitmproxy_x402.settings.ledger_place import PostgresUrl
from support import effort
from support.ledger.ledgers import query
from support.ledger.postgres import PASSWORD, Postgres
from support.proxy import EVM_KEY, Proxy

BODY = {"model": "sandbox-1", "messages": [{"role": "user", "content": "hello"}]}
PATH = "/v1/chat/completions"


class Farm:
    """Proxies before one sandbox."""

    def __init__(self, sandbox: Sandbox, ledger: PostgresUrl, proxies: list[Proxy]) -> None:
        self.sandbox, self.ledger, self.proxies = sandbox, ledger, proxies

    def post(self, proxy: int, body: Any = BODY, fault: str = "") -> httpx.Response:
        headers = {"x-sandbox-fault": fault} if fault else {}
        return httpx.post(self.proxies[proxy].url + PATH, json=body, headers=headers, timeout=30)

    def rows(self, columns: str = "state, sends") -> list[tuple[Any, ...]]:
        return query(self.ledger, columns)


@contextmanager
def farm(folder: Path, ledger: PostgresUrl, count: int, *options: str, **config: Any) -> Iterator[Farm]:
    """`count` proxies, each with a home of its own; they know of each other by the database alone."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(SandboxConfig(**config)).run_in_thread())
        keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "X402_LEDGER": ledger.url}
        homes = [folder / f"machine-{number}" for number in range(count)]
        for home in homes:
            home.mkdir(exist_ok=True)
        proxies = [Proxy(sandbox.url, *options, home=home, keys=keys) for home in homes]
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(stack.enter_context, proxies))
        yield Farm(sandbox, ledger, proxies)


def price() -> int:
    """Of BODY, in millionths of a dollar."""
    with Sandbox(SandboxConfig()).run_in_thread() as sandbox:
        return int(httpx.post(sandbox.url + PATH, json=BODY, timeout=30).json()["accepts"][0]["amount"])


@pytest.mark.parametrize("count", effort.chosen([2, 4], 2))
def test_proxies_at_once_pay_for_exactly_so_many(tmp_path: Path, postgres: Postgres, count: int) -> None:
    many, cost = 10, price()
    budget = ("--set", f"x402_budget={cost * many / 1e6:.6f}")
    with farm(tmp_path, postgres.fresh(), count, *budget) as shops:
        answers = [shops.post(number) for number in range(count)]  # each pays once, whoever is the fastest then
        with ThreadPoolExecutor(40) as pool:
            answers += pool.map(lambda number: shops.post(number % count), range(10 * many - count))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * many + [400] * (9 * many)
        assert {a.json()["error"]["code"] for a in answers if a.status_code == 400} == {"over_budget"}
        assert len(shops.sandbox.settled) == many
        assert sum(micro for (micro,) in shops.rows("micro_usd")) == cost * many
        assert len({process for (process,) in shops.rows("process")}) == count


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Farm]:
    with farm(tmp_path_factory.mktemp("two"), postgres.fresh(), 2) as proxies:
        yield proxies


class TestOnePayment:
    @pytest.mark.parametrize("fault", ["error;n=1;settle=no", "drop;n=2;settle=no", "rate-limit;after=0;n=1;settle=no"])
    def test_a_repetition_at_another_proxy_sends_the_same_payment(self, two: Farm, fault: str) -> None:
        body, rows, seen = {**BODY, "user": fault}, len(two.rows()), len(two.sandbox.requests)
        settled = len(two.sandbox.settled)
        assert two.post(0, body, fault).status_code >= 400
        assert two.post(1, body, fault).status_code == 200
        sent = [r.get("payment-signature") for r in two.sandbox.requests[seen:]]
        assert len({header for header in sent if header}) == 1
        assert [sends for _, sends in two.rows()[rows:]] == [len([header for header in sent if header])]
        assert len(two.sandbox.settled) == settled + 1

    def test_another_request_does_not_get_it(self, two: Farm) -> None:
        rows, seen = len(two.rows()), len(two.sandbox.requests)
        assert two.post(0, {**BODY, "user": "one"}, "error;n=1").status_code == 500
        assert two.post(1, {**BODY, "user": "other"}).status_code == 200
        sent = {r.get("payment-signature") for r in two.sandbox.requests[seen:]} - {None}
        assert len(sent) == 2
        assert [sends for _, sends in two.rows()[rows:]] == [1, 1]

    def test_after_a_complete_answer_nothing_is_held(self, two: Farm) -> None:
        rows = len(two.rows())
        for number in (0, 1, 0):
            assert two.post(number, {**BODY, "user": "complete"}).status_code == 200
        assert [sends for _, sends in two.rows()[rows:]] == [1, 1, 1]


def test_a_repetition_at_another_proxy_is_not_paid_ahead_anew(tmp_path: Path, postgres: Postgres) -> None:
    """What waits for the request goes before what could be foretold for it."""
    with farm(tmp_path, postgres.fresh(), 2, "--set", "x402_preauthorize=true") as two:
        body = {**BODY, "max_tokens": 400}
        for number in [0, 1] * (TRUST + 1):  # so that both can foretell
            assert two.post(number, body).status_code == 200
        rows, seen = len(two.rows()), len(two.sandbox.requests)
        assert two.post(0, body, "error;n=1;settle=no").status_code == 500
        assert two.post(1, body, "error;n=1;settle=no").status_code == 200
        sent = [r.get("payment-signature") for r in two.sandbox.requests[seen:]]
        assert sent[0] is not None  # foretold
        assert len({header for header in sent if header}) == 1
        assert [sends for _, sends in two.rows()[rows:]] == [2]


def test_nothing_secret_lies_in_the_database_or_the_log(tmp_path: Path, postgres: Postgres) -> None:
    ledger = postgres.fresh(over="loopback")
    with farm(tmp_path, ledger, 1, "--flow-detail", "4") as one:
        assert one.post(0, {**BODY, "user": "private"}, "error;n=1").status_code == 500
        sent = {r.get("payment-signature") for r in one.sandbox.requests} - {None}
        tables = [postgres.execute(f"SELECT t::text FROM {t} AS t", url=ledger) for t in ("x402_payment", "x402_held")]
        assert [len(table) for table in tables] == [1, 1]
        assert "private" not in repr(tables)
        everything = repr(tables) + one.proxies[0].log
        one.proxies[0].process.send_signal(signal.SIGTERM)
        one.proxies[0].process.wait(10)
        everything += one.proxies[0].log
    assert "payments are recorded in postgresql://x402@127.0.0.1" in everything
    for secret in (PASSWORD, ledger.secrets[0], EVM_KEY[2:], *map(str, sent)):
        assert secret not in everything
        assert secret.encode().hex() not in everything


def test_a_killed_proxy_leaves_its_payments_counted(tmp_path: Path, postgres: Postgres) -> None:
    ledger = postgres.fresh()
    with farm(tmp_path, ledger, 2, settle="before") as two:
        with ThreadPoolExecutor(3) as pool:
            bodies = [{**BODY, "n": number} for number in range(3)]
            waiting = [pool.submit(two.post, 0, body, "stall") for body in bodies]
            while sum(sends for _, sends in two.rows()) < 3:
                assert not any(future.done() for future in waiting)
            os.kill(two.proxies[0].process.pid, signal.SIGKILL)
            assert all(isinstance(future.exception(20), httpx.TransportError) for future in waiting)
        assert two.post(1).status_code == 200
        assert two.rows()[:3] == [("sent", 1)] * 3
    with farm(tmp_path, ledger, 1) as one:
        assert one.rows()[:3] == [("unknown", 1)] * 3


def test_a_database_that_goes_and_comes_again(tmp_path: Path, postgres: Postgres) -> None:
    """What costs nothing passes without it; what costs is refused, and paid again when it is back."""
    ledger = postgres.fresh(over="loopback")
    with farm(tmp_path, ledger, 1) as one:
        assert one.post(0).status_code == 200
        one.proxies[0].wait_for("payment of .* paid 0x")
        postgres.stop()
        try:
            for _ in range(3):
                refused = one.post(0)
                assert (refused.status_code, refused.json()["error"]["code"]) == (400, "ledger_unavailable")
                assert "postgresql://x402@127.0.0.1" in refused.text
                assert PASSWORD not in refused.text
            assert httpx.get(f"{one.proxies[0].url}/v1/models", timeout=30).status_code == 200
            assert len(one.sandbox.payments) == 1
        finally:
            postgres.start()
        one.proxies[0].wait_for("can be used again")
        assert one.post(0).status_code == 200
        assert len(one.sandbox.settled) == len(one.rows()) == 2
        assert PASSWORD not in one.proxies[0].log


def test_no_database_at_the_start_is_said(home: Path, postgres: Postgres) -> None:
    keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "X402_LEDGER": postgres.url(over="loopback", password="wrong-s3cret").url}
    with Proxy("http://127.0.0.1:9", home=home, keys=keys, expect_listen=False) as proxy:
        proxy.wait_for("cannot be used: .*password authentication failed")
        assert proxy.wait_for_end() != 0
        assert "s3cret" not in proxy.log


class TestVerbs:
    @pytest.fixture
    def paid(
        self, home: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Any:
        """`report` and `check`, as a user types them, where one payment was made."""
        url = postgres.fresh(over="loopback")
        with closing(PostgresLedger(url)) as ledger:
            row = ledger.reserve(Intent("POST", "h", "/", "m", Caip2("n"), "a", "b", AtomicUnits(1), 1), [])
            ledger.record_sent(row, "n", 0)
            ledger.finish(row, Outcome("settled", "0xt"))
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.chdir(home)

        def run(*arguments: str, ledger: str = url.url) -> tuple[int, str, str]:
            monkeypatch.setenv("X402_LEDGER", ledger)
            code = cli.main(arguments)
            said = capsys.readouterr()
            assert PASSWORD not in said.out + said.err
            assert url.secrets[0] not in said.out + said.err
            return code, said.out, said.err

        return run

    def test_report(self, paid: Any, postgres: Postgres) -> None:
        code, out, _ = paid("report", "--json")
        found = json.loads(out)
        assert (code, found["total"]["payments"]) == (0, 1)
        assert found["ledger"].startswith("postgresql://x402@127.0.0.1:")
        assert "127.0.0.1" in paid("report")[1]
        assert "Nothing was paid" in paid("report", ledger=postgres.fresh().url)[1]
        named = paid("report", "--ledger", postgres.fresh(over="loopback").url)
        assert named[0] == 1
        assert "There is no ledger" in named[2]
        assert "postgresql://x402@127.0.0.1" in named[2]
        assert paid("report", "--ledger", f"postgresq://x402:{PASSWORD}@h/d")[0] == 1

    def test_check(self, paid: Any, postgres: Postgres) -> None:
        def line_of_ledger(**named: Any) -> str:
            """What is said once the server is not far away: on a busy machine any server may seem so."""
            (line,) = [line for line in paid("check", **named)[1].splitlines() if "ledger" in line]
            return line_of_ledger(**named) if "is far away" in line else str(line)

        line = line_of_ledger()
        assert "is writable and holds 1 payment (PostgreSQL" in line
        assert "no TLS, round trip" in line
        line = line_of_ledger(ledger=postgres.fresh().url)
        assert line.startswith("ok")
        assert "will be made when the proxy starts" in line
        line = line_of_ledger(ledger="postgresql://u:p@127.0.0.1:9/d")
        assert line.startswith("TO DO")
        assert "Connection refused. Without it" in line
