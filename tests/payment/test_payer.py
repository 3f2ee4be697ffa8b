"""The payer with real wallets: which offer of a challenge is paid, and that what is signed is what the table allows.

Signatures are judged by means that are not ours: eth_account's encoder of typed data, and solders.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from solders.keypair import Keypair
from solders.message import to_bytes_versioned
from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from mitmproxy_x402.errors import ChallengeError, Refused, RpcError, X402Error, error_body, error_code
from mitmproxy_x402.ledger.interface import Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.payer import Payer, Payment
from mitmproxy_x402.payment.policy import Purpose
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.protocol.headers import payment_required_header
from mitmproxy_x402.protocol.messages import PaymentRequired
from mitmproxy_x402.protocol.networks import BUILT_IN, Asset, Network
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.evm import EvmWallet
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from mitmproxy_x402.wallet.svm import SvmWallet
from support import challenges, effort
from support.ledgers import query
from support.proxy import EVM_ADDRESS, EVM_KEY, SVM_SEED, Proxy, svm_key
from support.wire import Peer, Upstream, free_port, request

FIXTURES = Path(__file__).parents[1] / "fixtures" / "402"
SVM_ADDRESS = str(Keypair.from_seed(SVM_SEED).pubkey())
KEYS = {"evm": {"BLOCKRUN_WALLET_KEY": EVM_KEY}, "svm": {"SOLANA_WALLET_KEY": svm_key()}}
BASE, SOLANA = "eip155:8453", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"
MAX_REQUEST = 12_500  # between the recorded prices
NOW = 1_800_000_000
PURPOSE = Purpose("POST", "127.0.0.1", "/v1/x")


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((FIXTURES / f"402-{name}.json").read_text()))


RECORDED = {name: recorded(name) for name in ("base-v2-chat-body", "base-v2-exa", "solana-v2-chat", "solana-v2-small")}


class Bench:
    """A payer on an event loop of its own, which counts the signatures that it makes."""

    def __init__(self, home: Path, families: str = "evm svm", **options: str) -> None:
        given = {"x402_solana_rpc": f"http://127.0.0.1:{free_port()}"}  # where nobody listens
        given |= {"x402_budget": "1000000", "x402_ledger": str(home / f"{uuid.uuid4()}.sqlite3")}
        given |= {f"x402_{key}": value for key, value in options.items()}
        environ = {name: key for family in families.split() for name, key in KEYS[family].items()}
        found = load_wallets(WalletSources(environ, home))
        self.signed = 0
        evm = found.evm and EvmWallet(found.evm.address, found.evm.source, self._counting(found.evm.sign_digest))
        svm = found.svm and SvmWallet(found.svm.address, found.svm.source, self._counting(found.svm.sign_message))
        self.settings = read_settings(given, {}, cwd=home, home=home)
        self.ledger = SqliteLedger(self.settings.ledger)
        self.payer = Payer(self.settings, Wallets(evm, svm), self.ledger, clock=lambda: NOW + 0.9)
        self.loop = asyncio.new_event_loop()

    def _counting(self, sign: Any) -> Any:
        def counting(data: bytes) -> bytes:
            self.signed += 1
            return bytes(sign(data))

        return counting

    def pay(self, required: PaymentRequired) -> Payment:
        return self.loop.run_until_complete(self.payer.pay(required, PURPOSE))

    def answer(self, header: str | None, body: bytes) -> Payment | X402Error | None:
        """What becomes of a 402: a payment, a refusal, or nothing, because it is no challenge."""
        try:
            required = read_payment_required(header, body)
            return None if required is None else self.pay(required)
        except X402Error as refusal:
            return refusal


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Makes a bench for each set of options once."""
    made: dict[Any, Bench] = {}
    home = tmp_path_factory.mktemp("home")

    def get(families: str = "evm svm", **options: str) -> Bench:
        key = (families, *sorted(options.items()))
        if key not in made:
            made[key] = Bench(home, families, **options)
        return made[key]

    yield get
    for bench in made.values():
        bench.loop.close()
        bench.ledger.close()


@dataclass(frozen=True)
class Signed:
    """What a payment's header says, once every signature in it has been checked."""

    message: dict[str, Any]
    network: Network
    asset: Asset
    amount: int
    recipient: str
    """EVM: the payTo, lower case. Solana: the token account that gets the money."""
    unique: str
    """EVM: the nonce. Solana: the memo."""


def signed(payment: Payment) -> Signed:
    """Raises AssertionError unless the header holds a payment of our wallet that the table allows."""
    name, value = payment.header
    message = json.loads(base64.b64decode(value, validate=True))
    assert name == {1: "X-PAYMENT", 2: "PAYMENT-SIGNATURE"}[message["x402Version"]]
    assert value not in repr(payment)
    terms = message if message["x402Version"] == 1 else message["accepted"]
    network = BUILT_IN.get(terms["network"])
    assert network is not None
    assert terms["scheme"] == "exact"
    read = _signed_evm if network.family == "evm" else _signed_svm
    return read(message, network, payment)


def _signed_evm(message: dict[str, Any], network: Network, payment: Payment) -> Signed:
    said, asset = message["payload"]["authorization"], network.assets[0]
    values = {key: int(value) for key, value in said.items() if key in ("value", "validAfter", "validBefore")}
    types = [("from", "address"), ("to", "address"), ("value", "uint256")]
    types += [("validAfter", "uint256"), ("validBefore", "uint256"), ("nonce", "bytes32")]
    typed = encode_typed_data(
        {
            "name": asset.domain_name,
            "version": asset.domain_version,
            "chainId": network.chain_id,
            "verifyingContract": asset.address,
        },
        {"TransferWithAuthorization": [{"name": name, "type": kind} for name, kind in types]},
        {**said, **values, "nonce": bytes.fromhex(said["nonce"][2:])},
    )
    signer = Account.recover_message(typed, signature=message["payload"]["signature"])
    assert signer == said["from"] == payment.payer == EVM_ADDRESS
    assert values["validAfter"] == NOW - 600
    assert NOW < values["validBefore"] <= NOW + 600
    assert payment.reference == said["nonce"]
    return Signed(message, network, asset, values["value"], said["to"].lower(), said["nonce"])


def _signed_svm(message: dict[str, Any], network: Network, payment: Payment) -> Signed:
    asset = network.assets[0]
    transaction = VersionedTransaction.from_bytes(base64.b64decode(message["payload"]["transaction"], validate=True))
    compiled = transaction.message
    keys = compiled.account_keys
    assert [str(keys[1]), payment.payer] == [SVM_ADDRESS] * 2
    assert transaction.signatures[1].verify(keys[1], to_bytes_versioned(compiled))
    assert payment.reference == str(transaction.signatures[1])
    _, _, transfer, memo = compiled.instructions
    assert str(keys[transfer.program_id_index]) == asset.token_program
    source, mint, recipient, owner = (keys[index] for index in transfer.accounts)
    assert (str(mint), str(owner)) == (asset.address, SVM_ADDRESS)
    assert source == token_account(SVM_ADDRESS, asset)
    assert (transfer.data[0], transfer.data[9]) == (12, asset.decimals)
    amount = int.from_bytes(transfer.data[1:9], "little")
    return Signed(message, network, asset, amount, str(recipient), bytes(memo.data).decode())


def token_account(owner: str, asset: Asset) -> Pubkey:
    program = Pubkey.from_string(asset.token_program)
    return get_associated_token_address(Pubkey.from_string(owner), Pubkey.from_string(asset.address), program)


def assert_pays(result: Signed, entry: dict[str, Any]) -> None:
    """That `result` pays exactly what `entry` asks for."""
    assert result.network is BUILT_IN.get(entry["network"])
    assert result.network.asset(entry["asset"]) is result.asset
    assert str(result.amount) in (entry.get("maxAmountRequired"), entry.get("amount"))
    if result.network.family == "evm":
        assert result.recipient == entry["payTo"].lower()
    else:
        assert result.recipient == str(token_account(entry["payTo"], result.asset))


# The recorded challenges.


@pytest.mark.parametrize("where", ["header", "body", "both"])
@pytest.mark.parametrize(
    ("name", "amount", "network"),
    [
        ("base-v2-chat-body", 13_081, BASE),
        ("base-v2-exa", 3_000, BASE),
        ("solana-v2-chat", 11_961, SOLANA),
        ("solana-v2-small", 1_000, SOLANA),
    ],
)
def test_the_recorded_challenges_are_paid_to_the_atom(
    benches: Any, where: str, name: str, amount: int, network: str
) -> None:
    challenge = RECORDED[name]
    header = None if where == "body" else payment_required_header(challenge)
    body = b"{}" if where == "header" else json.dumps(challenge).encode()
    payment = benches().answer(header, body)
    assert isinstance(payment, Payment)
    result = signed(payment)
    (exact,) = [entry for entry in challenge["accepts"] if entry["scheme"] == "exact"]
    assert_pays(result, exact)
    assert (result.amount, result.network.caip2, payment.amount) == (amount, network, amount)
    assert result.message["accepted"] == exact
    for key in ("resource", "extensions"):
        assert result.message.get(key) == challenge.get(key)


def test_a_challenge_without_an_asset_is_refused(benches: Any) -> None:
    refusal = benches().answer(None, json.dumps(recorded("v1-clawrouter-docs")).encode())
    assert isinstance(refusal, ChallengeError)
    assert "asset" in str(refusal)


def test_version_1_is_answered_in_version_1(benches: Any) -> None:
    (entry,) = copy.deepcopy(RECORDED["base-v2-exa"]["accepts"])
    entry |= {"network": "base", "maxAmountRequired": entry.pop("amount"), "resource": "https://x/"}
    payment = benches().answer(None, json.dumps({"x402Version": 1, "accepts": [entry]}).encode())
    assert isinstance(payment, Payment)
    result = signed(payment)
    assert result.message.keys() == {"x402Version", "scheme", "network", "payload"}
    assert_pays(result, entry)


# The choice.

ENTRIES = [*RECORDED["base-v2-chat-body"]["accepts"], *RECORDED["solana-v2-chat"]["accepts"]]
CHOICES = {
    "both wallets, the cheapest": ({}, 11_961),
    "only an EVM wallet": ({"families": "evm"}, 13_081),
    "only a Solana wallet": ({"families": "svm"}, 11_961),
    "Base preferred": ({"networks": "base"}, 13_081),
    "Base before Solana": ({"networks": "base, solana"}, 13_081),
    "Solana before Base": ({"networks": "solana, base"}, 11_961),
    "a network preferred that is not offered": ({"networks": "arc"}, 11_961),
    "a network preferred without a wallet": ({"families": "evm", "networks": "solana"}, 13_081),
}


@pytest.mark.parametrize("name", CHOICES)
@given(entries=st.permutations(ENTRIES))
@settings(max_examples=15, deadline=None)
def test_the_choice_is_never_by_position(benches: Any, name: str, entries: list[Any]) -> None:
    options, amount = CHOICES[name]
    payment = benches(**options).answer(payment_required_header({"x402Version": 2, "accepts": entries}), b"")
    assert isinstance(payment, Payment)
    assert signed(payment).amount == amount


def equals() -> list[dict[str, Any]]:
    """Offers at one price: on two chains, to two recipients, and one with less time."""
    (base,) = RECORDED["base-v2-exa"]["accepts"]
    solana = {**RECORDED["solana-v2-chat"]["accepts"][0], "amount": base["amount"]}
    other = {**base, "payTo": "0x14fDa13953Fc30428938E6BF950d036e77214e52"}
    return [base, solana, other, {**base, "maxTimeoutSeconds": 60}]


@given(entries=st.permutations(equals()))
@settings(max_examples=30, deadline=None)
def test_equal_prices_are_not_decided_by_position(benches: Any, entries: list[Any]) -> None:
    chosen = [
        benches().answer(payment_required_header({"x402Version": 2, "accepts": accepts}), b"")
        for accepts in (equals(), entries)
    ]
    assert chosen[0].offer.requirement.raw == chosen[1].offer.requirement.raw


def test_over_the_limit_nothing_is_signed(benches: Any) -> None:
    bench, challenge = benches(max_request="0.011960"), RECORDED["solana-v2-chat"]
    refusal = bench.answer(payment_required_header(challenge), b"")
    assert isinstance(refusal, Refused)
    assert (refusal.reason, bench.signed) == ("over_request_limit", 0)
    bench = benches(max_request="0.011961")
    assert isinstance(bench.answer(payment_required_header(challenge), b""), Payment)
    assert bench.signed == 1


def test_without_a_blockhash_and_without_an_rpc_nothing_is_signed(benches: Any) -> None:
    bench, challenge = benches(rpc_timeout="1"), copy.deepcopy(RECORDED["solana-v2-chat"])
    del challenge["accepts"][0]["extra"]["recentBlockhash"]
    assert isinstance(bench.answer(payment_required_header(challenge), b""), RpcError)
    assert bench.signed == 0


@pytest.mark.parametrize("name", RECORDED)
def test_no_two_payments_share_a_nonce_or_a_memo(benches: Any, name: str) -> None:
    bench, header = benches(), payment_required_header(RECORDED[name])
    required = read_payment_required(header, b"")
    assert required

    async def many() -> list[Payment]:
        return await asyncio.gather(*(bench.payer.pay(required, PURPOSE) for _ in range(50)))

    payments = bench.loop.run_until_complete(many())
    assert len({signed(payment).unique for payment in payments}) == 50
    assert len({payment.header for payment in payments}) == len({payment.reference for payment in payments}) == 50


# Any JSON whatever.

words = st.text(max_size=20) | st.sampled_from(
    [
        *(
            "exact",
            "upto",
            "base",
            "solana",
            BASE,
            SOLANA,
            "eip155:1",
            "authorization",
            "upfront",
            "permit2",
            "eip3009",
        ),
        *("0", "1", "0x1", "-1", "1e3", " 1000", "1000 ", "007", "12500", "12501", str(2**64), str(2**256), "9" * 90),
        *(EVM_ADDRESS, SVM_ADDRESS, "0x" + "0" * 40, "11111111111111111111111111111111", "\ud800", "a\nb", "\x1b[0m"),
        *(asset.address for network in BUILT_IN for asset in network.assets),
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.sampled_from([2**64, 10**4000, -0.0])
keys = words | st.sampled_from(["scheme", "network", "amount", "asset", "payTo", "extra", "x402Version", "accepts"])
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=12
)
VALID = [
    *RECORDED.values(),
    {"x402Version": 2, "accepts": ENTRIES},
    {"x402Version": 1, "accepts": [{**entry, "maxAmountRequired": entry["amount"]} for entry in ENTRIES]},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside of `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid challenge with up to three of its values changed, doubled or taken out."""
    challenge = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        if not challenge:
            break
        *way, last = draw(st.sampled_from(list(places(challenge))))
        parent = challenge
        for step in way:
            parent = parent[step]
        change = draw(st.sampled_from(["replace", "remove", "case", "nest", "number", "extra"]))
        old = parent[last]
        if change == "remove":
            del parent[last]
        elif change == "case" and isinstance(old, str):
            parent[last] = old.swapcase()
        elif change == "number" and isinstance(old, str) and old.isdigit():
            parent[last] = int(old)
        elif change == "extra" and isinstance(old, dict):
            old[draw(keys)] = draw(anything)
        else:
            parent[last] = [old] if change == "nest" else draw(anything)
    return challenge


@st.composite
def said(draw: st.DrawFn) -> tuple[str | None, bytes]:
    """Header and body of a 402 that say `anything`, or nearly what a gateway would say."""

    def one() -> bytes:
        value = draw(mutated() | anything | st.fixed_dictionaries({"x402Version": scalars, "accepts": anything}))
        text = json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
        if draw(st.integers(0, 9)) == 0:  # bytes that are nearly JSON
            cut = draw(st.integers(0, len(text)))
            text = text[:cut] + draw(st.binary(max_size=5)) + text[cut + draw(st.integers(0, 3)) :]
        return text

    header = base64.b64encode(one()).decode() if draw(st.booleans()) else draw(st.none() | st.text(max_size=30))
    return header, one() if draw(st.booleans()) else draw(st.binary(max_size=30))


@given(said())
@example((None, json.dumps({"x402Version": 2, "accepts": [{**ENTRIES[0], "network": "\ud800\n"}]}).encode()))
@example((None, json.dumps({"x402Version": 2, "accepts": [{**ENTRIES[1], "network": "\x1b[0m\ud800"}]}).encode()))
@example((None, b'{"x402Version": 2, "accepts": [{"amount": ' + b"9" * 5000 + b"}]}"))
@settings(
    max_examples=effort.examples(1000),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_any_json_becomes_an_allowed_payment_or_a_clear_refusal(benches: Any, said: tuple[str | None, bytes]) -> None:
    bench: Bench = benches(max_request=f"0.{MAX_REQUEST:06d}", rpc_timeout="0.1")
    bench.signed = 0
    result = bench.answer(*said)
    if isinstance(result, Payment):
        payment = signed(result)
        assert bench.signed == 1
        assert payment.amount <= MAX_REQUEST
        entry = result.offer.requirement.raw
        assert_pays(payment, dict(entry))
        assert entry in offered(*said)
        if payment.message["x402Version"] == 2:
            assert payment.message["accepted"] == entry
    else:
        assert bench.signed == 0
    if isinstance(result, X402Error):
        told = json.loads(error_body("x402_refused", error_code(result), str(result)))["error"]["message"]
        assert told == str(result)
        assert told.isprintable(), "one line, and nothing that a terminal would obey"
        assert told.endswith(".")
        assert len(told) < 2000


def offered(header: str | None, body: bytes) -> list[Any]:
    """Every entry that header or body offers, read by nothing of ours."""
    found = []
    for read in (lambda: base64.b64decode(header or "", validate=True), lambda: body):
        with suppress(ValueError, LookupError, TypeError):
            found += json.loads(read())["accepts"]
    return found


# And at the socket.


class Till:
    """A gateway that asks for payment in the words of `challenge`, and thanks for any."""

    challenge = b""

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            message = upstream.read(peer)
            if message.get(b"payment-signature") or message.get(b"x-payment"):
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                peer.send(self.challenge)


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Till, Proxy]]:
    till = Till()
    options = {"x402_solana_rpc": f"http://127.0.0.1:{free_port()}", "x402_rpc_timeout": "1"}
    arguments = [argument for name, value in options.items() for argument in ("--set", f"{name}={value}")]
    keys = KEYS["evm"] | KEYS["svm"]
    with (
        Upstream(till) as upstream,
        Proxy(upstream.url, *arguments, home=tmp_path_factory.mktemp("home"), keys=keys) as proxy,
    ):
        yield till, proxy
        assert "Traceback" not in proxy.log
        assert "internal_error" not in proxy.log


@given(said=said(), raw=st.none() | st.binary(max_size=60), coding=st.sampled_from(["", "gzip", "br", "zstd", "x"]))
@example(said=(None, json.dumps(VALID[0]).encode()), raw=None, coding="")
@example(said=(None, b'{"x402Version": 2, "accepts": [{"scheme": "\\ud800"}]}'), raw=None, coding="")
@settings(
    max_examples=effort.examples(250),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_no_challenge_whatever_leaves_a_client_without_an_answer(
    counter: tuple[Till, Proxy], said: tuple[str | None, bytes], raw: bytes | None, coding: str
) -> None:
    till, proxy = counter
    header, body = said
    value = raw if raw is not None else (header or "").encode("utf-8", "replace")
    value = bytes(byte for byte in value if byte not in b"\r\n\0")
    head = b"HTTP/1.1 402 Payment Required\r\nPAYMENT-REQUIRED: " + value + b"\r\n"
    if coding:
        head += b"Content-Encoding: " + coding.encode() + b"\r\n"
    till.challenge = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with proxy.client() as client:
        got = client.ask(request(body=b"{}"))
    assert got.status in (200, 400, 402, 502)
    if got.status == 200:
        assert got.body == b"ok"
    elif got.status == 402:
        assert got.body == body
    else:
        error = json.loads(got.body)["error"]
        assert error["message"]
        assert error["code"] != "internal_error"


def test_what_is_being_signed_at_the_end_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that ends in the middle of load leaves no reservation, and no fault in its log."""
    bench = Bench(tmp_path)
    synced = bench.loop.create_future()  # a disk may be done before anybody waits for it
    monkeypatch.setattr(bench.ledger, "durable_soon", lambda: synced)
    identity = RequestIdentity(("POST", "http://127.0.0.1:1", "/v1/x"), b"{}")
    purchase = Purchase(bench.payer, RetainedPayments(lambda: NOW), PURPOSE, identity)
    required = read_payment_required(None, json.dumps(challenges.evm()).encode())
    assert required is not None
    buying = bench.loop.create_task(purchase.buy(required))
    bench.loop.run_until_complete(asyncio.sleep(0))
    assert query(bench.settings.ledger, "state") == [("reserved",)]
    purchase.break_off(Outcome("unknown"))
    bench.payer.close()
    bench.ledger.close()
    synced.set_result(None)
    with closing(bench.loop), pytest.raises(Refused, match="shutting down"):
        bench.loop.run_until_complete(buying)
    assert query(bench.settings.ledger, "state") == [("released",)]
