"""One exchange instead of two, through the running proxy: when it is right, when it is not, and what it costs then."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mitmproxy_x402.forecast.forecast import TRUST
from mitmproxy_x402.sandbox import Rates, Sandbox, SandboxConfig
from support.paying.ahead import AHEAD, ENOUGH, IN_VAIN, ON, TWO_LEGS, models
from support.place import Place, place
from support.proxy import Proxy, svm_key

GIFT = Rates(0, 0, 0)


@pytest.fixture
def model() -> str:
    """One that no other test asks for."""
    return next(models)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Place]]:
    with ExitStack() as stack:

        @functools.cache
        def get(network: str) -> Place:
            return stack.enter_context(place(tmp_path_factory.mktemp("home"), *ON, network=network))

        yield get


@pytest.fixture
def base(shops: Callable[[str], Place]) -> Iterator[Place]:
    yield shops("base-sepolia")
    shops("base-sepolia").sandbox.charge(Rates())


@pytest.fixture(params=["base-sepolia", "solana-devnet"])
def shop(request: pytest.FixtureRequest, shops: Callable[[str], Place]) -> Iterator[Place]:
    yield shops(request.param)
    shops(request.param).sandbox.charge(Rates())


def chat(model: str, text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 400, **more}


class Visit:
    """What one request of the client made of the gateway."""

    def __init__(self, shop: Place, body: Any, fault: str = "", **more: Any) -> None:
        seen, rows, settled = len(shop.sandbox.requests), len(shop.rows()), len(shop.sandbox.settled)
        self.answer = shop.post(body, fault, **more)
        self.status = self.answer.status_code
        self.requests = [r for r in list(shop.sandbox.requests)[seen:] if not r.path.endswith("/rpc")]
        self.legs = [paying(r.get) for r in self.requests]
        self.settled = [payment.amount for payment in shop.sandbox.settled[settled:]]
        self.since = rows


def paying(get: Callable[[str], object]) -> bool:
    return any(get(name) is not None for name in ("payment-signature", "x-payment"))


def teach(shop: Place, body: Any, **more: Any) -> None:
    """Until the next request like this one is paid ahead."""
    for _ in range(ENOUGH):
        visit = Visit(shop, body, **more)
        assert (visit.status, visit.legs) == (200, TWO_LEGS)


def price(visit: Visit) -> int:
    (amount,) = visit.settled
    return amount


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_one_exchange_when_the_price_is_known(shop: Place, model: str, stream: bool) -> None:
    body = chat(model, stream=stream)
    before, rows = len(shop.sandbox.settled), len(shop.rows())
    teach(shop, body)
    for _ in range(3):
        visit = Visit(shop, body)
        assert (visit.status, visit.legs) == (200, AHEAD)
        assert ("[DONE]" in visit.answer.text) == stream
    shop.expect(rows, [(1,)] * (ENOUGH + 3), "sends")
    shop.expect_settled(before, ENOUGH + 3)
    assert len({payment.amount for payment in shop.sandbox.settled[before:]}) == 1


def test_off_means_two(home: Path) -> None:
    with place(home) as shop:
        teach(shop, chat("m"))
        assert Visit(shop, chat("m")).legs == TWO_LEGS


@pytest.mark.parametrize("config", [{"x402_version": 1}, {"challenge_in": "body", "shuffle": 1}], ids=["v1", "body"])
def test_other_challenges(home: Path, config: Any) -> None:
    with place(home, *ON, **config) as shop:
        teach(shop, chat("m"))
        visit = Visit(shop, chat("m"))
        assert (visit.status, visit.legs) == (200, AHEAD)


def test_the_formula_is_followed_as_the_request_grows(shop: Place, model: str) -> None:
    """At first its factors are unknown; then none but the first request after them is asked for."""
    legs, text = [], "x" * 800
    for turn in range(20):
        text += f"turn {turn}: " + "y" * (37 * turn + 11)
        visit = Visit(shop, chat(model, text))
        assert visit.status == 200
        legs.append(visit.legs)
        body = visit.requests[-1].body
        assert price(visit) == max(1000, -(-len(body) // 4) + 5 * 400)
    assert legs[:4] == [TWO_LEGS] * 4
    assert legs[-10:] == [AHEAD] * 10
    assert IN_VAIN not in legs


def test_requests_side_by_side_are_purchases_of_their_own(shop: Place, model: str) -> None:
    teach(shop, chat(model))
    rows, settled = len(shop.rows()), len(shop.sandbox.settled)
    with ThreadPoolExecutor(8) as pool:
        visits = list(pool.map(lambda _: shop.post(chat(model), "slow-head;seconds=0.3").status_code, range(8)))
    assert visits == [200] * 8
    assert len(shop.sandbox.settled) - settled == 8
    shop.expect(rows, [("settled", 1)] * 8)
    assert len(set(shop.rows("reference")[rows:])) == 8


def test_a_price_that_rose_is_paid_once_and_never_twice(shop: Place, model: str) -> None:
    body = chat(model)
    teach(shop, body)
    before = price(Visit(shop, body))
    shop.sandbox.charge(Rates(1000, 2, 10))
    visit = Visit(shop, body)
    assert (visit.status, visit.legs, visit.settled) == (200, IN_VAIN, [2 * before])
    shop.expect(visit.since, [("superseded", before, "PAYMENT_UNDERPAID"), ("settled", 2 * before, None)], COLUMNS)
    (first, _), (_, replaces) = shop.rows("id, replaces")[visit.since :]
    assert replaces == first
    shop.proxy.wait_for(f"predicted .* \\({model}\\); the gateway did not take it: PAYMENT_UNDERPAID")
    for _ in range(TRUST):  # learnt anew
        assert Visit(shop, body).legs == TWO_LEGS


COLUMNS = "state, micro_usd, code"


def test_a_price_that_fell_is_not_paid_twice(base: Place, model: str) -> None:
    """The sandbox wants to be paid to the atom. What a client gets is what it gets for any rejection of this kind."""
    base.sandbox.charge(Rates(1000, 2, 10))
    teach(base, chat(model))
    base.sandbox.charge(Rates())
    visit = Visit(base, chat(model))
    assert (visit.status, visit.legs, visit.settled) == (402, AHEAD, [])
    base.expect(visit.since, [("unknown", "PAYMENT_INVALID")], "state, code")
    assert Visit(base, chat(model, "hellO")).legs == TWO_LEGS


def test_many_under_way_when_the_price_rises(base: Place, model: str) -> None:
    teach(base, chat(model))
    rows = len(base.rows())
    base.sandbox.charge(Rates(1000, 2, 10))
    before = len(base.sandbox.settled)
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda _: base.post(chat(model)).status_code, range(6)))
    assert statuses == [200] * 6
    paid = [payment.amount for payment in base.sandbox.settled[before:]]
    assert len(paid) == 6
    assert len(set(paid)) == 1
    states = base.outcomes(rows)
    assert states.count("settled") == 6
    assert set(states) <= {"settled", "superseded"}


@pytest.mark.parametrize(
    ("code", "status", "fresh"),
    [("PAYMENT_BLOCKHASH_STALE", 402, "no"), ("PAYMENT_UNDERPAID", 401, "auto"), ("PAYMENT_UNDERPAID", 400, "no")],
)
def test_what_was_never_broadcast_is_paid_anew_once(
    base: Place, model: str, code: str, status: int, fresh: str
) -> None:
    teach(base, chat(model))
    fault = f"reject;code={code};status={status};challenge={fresh}"
    visit = Visit(base, chat(model), f"{fault};n=1")
    assert visit.status == 200
    assert visit.legs == (IN_VAIN if fresh == "auto" else [True, False, True])
    base.expect(visit.since, [("superseded", code), ("settled", None)], "state, code")


def test_what_is_rejected_twice_is_not_paid_a_third_time(base: Place, model: str) -> None:
    teach(base, chat(model))
    visit = Visit(base, chat(model), "reject;code=PAYMENT_UNDERPAID")
    assert (visit.status, visit.legs) == (402, IN_VAIN)
    assert visit.answer.json()["code"] == "PAYMENT_UNDERPAID"
    base.expect(visit.since, [("superseded",), ("rejected",)], "state")


@pytest.mark.parametrize("code", ["PAYMENT_INVALID", "SETTLEMENT_FAILED", "PAYMENT_REPLAY", "OTHER"])
def test_after_other_rejections_there_is_no_second_signature(base: Place, model: str, code: str) -> None:
    """As without prediction: the client gets the rejection, and its next try sends the very same payment."""
    teach(base, chat(f"{model}-too"))  # where nothing is predicted, a payment in PostgreSQL is looked for after the 402
    teach(base, chat(model))
    fault = f"reject;code={code};n=1"
    visit = Visit(base, chat(model), fault)
    assert (visit.status, visit.legs, visit.settled) == (402, AHEAD, [])
    assert visit.answer.json()["code"] == code
    base.expect(visit.since, [("unknown", 1)])
    again = Visit(base, chat(model), fault)
    assert (again.status, again.legs) == (200, AHEAD)
    base.expect(visit.since, [("settled", 2)])


@pytest.mark.parametrize(
    "fault", ["error;status=500;n=1;settle=no", "rate-limit;after=0;n=1;settle=no", "drop;n=1;settle=no"]
)
def test_a_client_that_repeats_sends_the_same_payment(shop: Place, model: str, fault: str) -> None:
    teach(shop, chat(f"{model}-too"))  # as above
    teach(shop, chat(model))
    first = Visit(shop, chat(model), fault)
    assert first.status >= 429
    assert first.legs == AHEAD
    again = Visit(shop, dict(reversed(chat(model).items())), fault)
    assert (again.status, again.legs) == (200, AHEAD)
    shop.expect(first.since, [("settled", 2)])
    assert Visit(shop, chat(model)).legs == TWO_LEGS  # an answer like that proves nothing of the price


def test_what_the_gateway_finds_fault_with_ends_it(base: Place, model: str) -> None:
    teach(base, chat(model))
    assert Visit(base, chat(model), "error;status=400").legs == AHEAD
    assert Visit(base, chat(model, "other words")).legs == TWO_LEGS


def test_a_model_that_has_become_free(base: Place, model: str) -> None:
    """One payment goes out that nobody asked for: it stays counted, and it is the last."""
    teach(base, chat(model))
    base.sandbox.charge(GIFT)
    visit = Visit(base, chat(model))
    assert (visit.status, visit.legs, visit.settled) == (200, AHEAD, [])
    base.expect(visit.since, [("unknown", 1)])
    for _ in range(3):
        visit = Visit(base, chat(model))
        assert (visit.status, visit.legs) == (200, [False])
    base.sandbox.charge(Rates())
    for _ in range(2 * TRUST):  # of which it must foretell twice as many now
        assert Visit(base, chat(model)).legs == TWO_LEGS
    assert Visit(base, chat(model)).legs in (AHEAD, TWO_LEGS)


def test_a_gateway_that_never_acknowledges_is_never_paid_ahead(base: Place, model: str) -> None:
    for _ in range(ENOUGH + 3):
        visit = Visit(base, chat(model), "receipt;as=none")
        assert (visit.status, visit.legs) == (200, TWO_LEGS)


def test_huge_requests_are_not_measured(base: Place, model: str) -> None:
    body = chat(model, "x" * 300_000)
    for _ in range(ENOUGH + 1):
        assert Visit(base, body).legs == TWO_LEGS


@pytest.fixture
def mint(home: Path) -> Iterator[Callable[..., Place]]:
    """A proxy before a Solana sandbox, which is also its RPC."""
    closing = []

    def make(**config: Any) -> Place:
        sandbox = Sandbox(SandboxConfig(networks=("solana-devnet",), **config))
        running = sandbox.run_in_thread()
        closing.append(running)
        running.__enter__()
        rpc = ("--set", f"x402_solana_rpc={sandbox.url}/api/v1/solana/rpc")
        proxy = Proxy(sandbox.url, *ON, *rpc, home=home, keys={"SOLANA_WALLET_KEY": svm_key()})
        closing.append(proxy)
        return Place(home, sandbox, proxy.__enter__())

    yield make
    for each in reversed(closing):
        each.__exit__(None, None, None)


def test_a_stale_blockhash_is_replaced(mint: Callable[..., Place]) -> None:
    shop = mint()
    teach(shop, chat("m"))
    shop.sandbox.expire_blockhashes()
    visit = Visit(shop, chat("m"))
    assert (visit.status, visit.legs) == (200, IN_VAIN)
    assert len(visit.settled) == 1
    shop.expect(visit.since, [("superseded", "PAYMENT_BLOCKHASH_STALE"), ("settled", None)], "state, code")


def test_challenges_without_a_blockhash(mint: Callable[..., Place]) -> None:
    """What the RPC said for the ordinary payments is at hand: no request waits for it."""
    shop = mint(recent_blockhash=False)
    teach(shop, chat("m"))
    asked = sum(b"getLatestBlockhash" in r.body for r in shop.sandbox.requests)
    assert asked == 1
    visit = Visit(shop, chat("m"))
    assert (visit.status, visit.legs) == (200, AHEAD)


def test_what_the_policy_refuses_is_asked_for_and_refused(home: Path) -> None:
    options = ("--set", "x402_max_request=0.0025", "--set", "x402_budget=0.03")
    with place(home, *ON, *options) as shop:
        for turn in range(9):
            visit = Visit(shop, chat("m", "x" * (800 + 100 * turn)))
            assert visit.status == 200
        assert visit.legs == AHEAD
        visit = Visit(shop, chat("m", "x" * 4000))
        assert (visit.status, visit.legs) == (400, [False])
        assert visit.answer.json()["error"]["code"] == "over_request_limit"
        assert len(shop.rows()) == 9
        while (visit := Visit(shop, chat("m", "x" * 1700))).status == 200:
            assert visit.legs in (AHEAD, TWO_LEGS)
        assert (visit.status, visit.legs) == (400, [False])
        assert visit.answer.json()["error"]["code"] == "over_budget"
        assert "Before that" not in visit.answer.json()["error"]["message"]


def test_what_was_sent_in_vain_takes_room_in_the_budget(home: Path) -> None:
    with place(home, *ON, "--set", "x402_budget=0.012") as shop:
        teach(shop, chat("m"))
        spent = sum(amount for (amount,) in shop.rows("micro_usd"))
        shop.sandbox.charge(Rates(12_000 - spent - 1000, 1, 5))
        visit = Visit(shop, chat("m"))
        assert (visit.status, visit.legs, visit.settled) == (400, AHEAD, [])
        error = visit.answer.json()["error"]
        assert error["code"] == "over_budget"
        assert "the gateway said that it did not take it" in error["message"]
        assert shop.rows("state")[visit.since :] == [("superseded",)]


def test_the_end_tells_how_often_it_was_right(home: Path) -> None:
    with place(home, *ON) as shop:
        teach(shop, chat("m"))
        assert Visit(shop, chat("m")).legs == AHEAD
        shop.sandbox.charge(Rates(1000, 2, 10))
        assert Visit(shop, chat("m")).legs == IN_VAIN
    assert "payments sent ahead: 2, 1 right, 1 wrong" in shop.proxy.log
