"""Every refusal says what was asked for and what to change; the choice among offers is in test_payer.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.errors import Refused
from mitmproxy_x402.payment.offer import Offer, Payers, Purpose
from mitmproxy_x402.payment.offered import rules_of
from mitmproxy_x402.payment.policy import admit, choose
from mitmproxy_x402.payment.reasons.refusals import KEY_VARIABLES
from mitmproxy_x402.protocol.amounts import format_usd
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequired, PaymentRequirements
from mitmproxy_x402.protocol.networks import BUILT_IN, TOKEN_PROGRAM, Asset, Family, Network
from mitmproxy_x402.settings.settings import Settings, read_settings
from mitmproxy_x402.wallet.sources import EVM_VARIABLE, SVM_VARIABLE

DEFAULTS = read_settings({}, {}, cwd=Path("/"), home=Path("/nonexistent"))
PURPOSE = Purpose("POST", "127.0.0.1", "/v1/x")
RULES = rules_of(DEFAULTS)
BOTH: Payers = {"evm": None, "svm": None}
PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
SVM_PAY_TO, FEE_PAYER = "AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA", "93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX"
USDC = {network.name: network.assets[0].address for network in BUILT_IN}


def entry(network: str = "base", amount: int = 13_081, *, scheme: str = "exact", asset: str = "") -> Any:
    row = BUILT_IN.get(network)
    caip2 = network if row is None else row.caip2
    raw = {"scheme": scheme, "network": caip2, "amount": str(amount)}
    svm = network.startswith("solana")
    pay_to, extra = (SVM_PAY_TO, {"feePayer": FEE_PAYER}) if svm else (PAY_TO, {})
    return PaymentRequirements(
        scheme, caip2, AtomicUnits(amount), asset or USDC.get(network, "?"), pay_to, 60, extra, raw
    )


def challenge(*entries: PaymentRequirements, unreadable: tuple[str, ...] = ()) -> PaymentRequired:
    return PaymentRequired(2, entries, unreadable=unreadable)


def refused(required: PaymentRequired, wallets: Any = BOTH) -> Refused:
    with pytest.raises(Refused) as caught:
        choose(required, RULES, dict.fromkeys(wallets))
    assert "Nothing was paid." in str(caught.value)
    return caught.value


@pytest.fixture
def limits(tmp_path: Path) -> Any:
    def of(max_request: str) -> Settings:
        return read_settings({"x402_max_request": max_request}, {}, cwd=tmp_path, home=tmp_path)

    return of


def test_the_variables_that_are_named_are_those_that_are_read() -> None:
    assert {"evm": EVM_VARIABLE, "svm": SVM_VARIABLE} == KEY_VARIABLES


@pytest.mark.parametrize(
    ("asked", "wallets", "variable", "other"),
    [
        (["base"], set(), "BLOCKRUN_WALLET_KEY", "SOLANA_WALLET_KEY"),
        (["base"], {"svm"}, "BLOCKRUN_WALLET_KEY", "SOLANA_WALLET_KEY"),
        (["solana-devnet"], set(), "SOLANA_WALLET_KEY", "BLOCKRUN_WALLET_KEY"),
        (["solana-devnet"], {"evm"}, "SOLANA_WALLET_KEY", "BLOCKRUN_WALLET_KEY"),
        (["arc", "base"], {"svm"}, "BLOCKRUN_WALLET_KEY", "SOLANA_WALLET_KEY"),
    ],
)
def test_without_a_wallet_network_price_and_variable_are_named(
    asked: list[str], wallets: set[Family], variable: str, other: str
) -> None:
    refusal = refused(challenge(*map(entry, asked)), wallets)
    assert refusal.reason == "no_wallet"
    for name in asked:
        assert f"0.013081 USDC on {name}" in str(refusal)
    assert f"wallet new, or set {variable} to the key" in str(refusal)
    assert other not in str(refusal)


def test_without_a_wallet_either_variable_will_do_where_either_network_will() -> None:
    refusal = refused(challenge(entry("base", 2000), entry("base", 1000), entry("solana", 3000)), set())
    assert "wallet new, or set BLOCKRUN_WALLET_KEY or SOLANA_WALLET_KEY to the key" in str(refusal)
    assert "0.001 USDC on base" in str(refusal), "the cheapest of a network"
    assert "0.002 USDC" not in str(refusal).partition(" The challenge's 3 entries")[0]
    assert "0.003 USDC on solana" in str(refusal)


@pytest.mark.parametrize(
    ("code", "asked", "named"),
    [
        ("network_not_allowed", entry("eip155:123456", asset="0x" + "ab" * 20), '"eip155:123456"'),
        ("network_not_allowed", entry("EIP155:8453"), '"EIP155:8453"'),
        ("asset_not_allowed", entry(asset="0x" + "ab" * 20), '"0x' + "ab" * 20 + '" on base'),
        ("asset_not_allowed", entry("solana", asset=USDC["base"]), "on solana"),
        ("asset_not_allowed", entry("base", asset=USDC["base-sepolia"]), "on base"),
        ("scheme_not_supported", entry(scheme="upto"), "set the option x402_schemes to auto or upto"),
        ("scheme_not_supported", entry("solana", scheme="upto"), '"upto" on "solana:'),
        ("scheme_not_supported", entry(scheme="EXACT"), '"EXACT"'),
        ("scheme_not_supported", entry("solana", scheme="batch-settlement"), '"batch-settlement"'),
    ],
)
def test_what_the_table_does_not_have_is_named_and_what_it_has(code: str, asked: Any, named: str) -> None:
    refusal = refused(challenge(asked))
    assert refusal.reason == code
    assert named in str(refusal)
    if "x402_schemes" not in named:
        assert "is set to pay by exact, with USDC on base, base-sepolia, arc, solana, solana-devnet." in str(refusal)
    can_be_added = code != "scheme_not_supported" and named not in {'"EIP155:8453"', "on solana"}
    assert ("x402.toml" in str(refusal)) == can_be_added, "advice that can help, and no other"


def test_a_payable_offer_among_others_is_taken() -> None:
    others = [entry("eip155:1", 1), entry("base", 1, scheme="upto"), entry("base", 1, asset="0x" + "ab" * 20)]
    offer = choose(challenge(*others, entry("base", 5)), RULES, BOTH)
    assert (offer.network.name, offer.micro_usd) == ("base", 5)


def test_a_refusal_says_of_each_entry_why_it_cannot_be_paid() -> None:
    entries = [
        entry("eip155:1", 1, asset="0x" + "ab" * 20),
        replace(entry("base", 5), pay_to="0xE9030014F5DAe217d0A152f02A043567b16c1aBf"),
        replace(entry("solana", 6), extra={}),
        entry("base", 7, scheme="upto"),
        replace(entry("base", 8), extra={"name": "GatewayWalletBatched", "version": "1"}),
    ]
    text = str(refused(challenge(*entries, unreadable=("accepts[5]: asset must be a string, got nothing",))))
    for why in (
        'the asset "0xabab',
        "0.000005 USDC on base: its payTo",
        "wrong checksum",
        "0.000006 USDC on solana: its extra.feePayer must be 32 bytes",
        "at most 0.000007 USDC on base; it is paid by a ceiling (upto), which is not chosen",
        "settled by Circle Gateway, which is not chosen",
        "accepts[5]: asset must be a string",
        "x402_schemes",
    ):
        assert why in text


def test_a_known_network_is_one_option_away_and_shown() -> None:
    polygon = BUILT_IN.known("polygon")
    assert polygon is not None
    asked = entry("eip155:137", 1000, asset=polygon.assets[0].address)
    refusal = refused(challenge(asked))
    assert refusal.reason == "network_not_allowed"
    assert 'x402_allow_networks="base,base-sepolia,arc,solana,solana-devnet,polygon"' in str(refusal)


@pytest.mark.parametrize(
    ("options", "advised", "paid"),
    [
        ({}, 'x402_allow_networks="base,base-sepolia,arc,solana,solana-devnet,polygon"', "polygon"),
        ({"x402_allow_networks": "arc,base"}, 'x402_allow_networks="arc,base,polygon"', "polygon"),
        ({"x402_networks": "base,arc"}, 'x402_networks="base,arc,polygon"', "base"),
    ],
)
def test_the_advice_enables_a_network_and_changes_nothing_else(
    options: dict[str, str], advised: str, paid: str
) -> None:
    polygon = BUILT_IN.known("polygon")
    assert polygon is not None
    asked = entry("eip155:137", 1000, asset=polygon.assets[0].address)
    settings = read_settings(options, {}, cwd=Path("/"), home=Path("/nonexistent"))
    with pytest.raises(Refused) as caught:
        choose(challenge(asked), rules_of(settings), BOTH)
    assert f"--set {advised}." in str(caught.value)
    name, _, value = advised.partition("=")
    followed = read_settings({**options, name: value.strip('"')}, {}, cwd=Path("/"), home=Path("/nonexistent"))
    assert choose(challenge(asked), rules_of(followed), BOTH).network.name == "polygon"
    both = challenge(asked, entry("base", 900_000))
    assert choose(both, rules_of(followed), BOTH).network.name == paid, "in the order that the user had"


TOKEN = "0x6D15861C50605b6a715d234f44900B4029D59Fb5"
MINT = "Es9vMFrzaCERmJfrF4H2FYD4KCoNkY11McCe8BenwNYB"


def follow(refusal: Refused, place: Path) -> Settings:
    """The settings after the rows of `refusal` were pasted into x402.toml."""
    (place / "x402.toml").write_text(str(refusal).partition("x402.toml:\n")[2])
    return read_settings({}, {}, cwd=place, home=place)


@pytest.mark.parametrize(
    ("network", "asset", "extra"),
    [
        ("eip155:196", TOKEN, {"name": "USD Coin", "version": "2"}),
        ("eip155:196", TOKEN, {"name": "USD₮0", "version": "1", "decimals": 18}),
        ("base", TOKEN, {"name": "USD Coin", "version": "2"}),
        ("solana", MINT, {"feePayer": FEE_PAYER}),
        ("solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z", MINT, {"feePayer": FEE_PAYER}),
    ],
)
def test_an_unknown_network_or_token_comes_with_rows_to_paste(
    tmp_path: Path, network: str, asset: str, extra: dict[str, Any]
) -> None:
    asked = replace(entry(network, 1000, asset=asset), extra=extra)
    if "solana" in network:
        asked = replace(asked, pay_to=SVM_PAY_TO)
    offer = choose(challenge(asked), rules_of(follow(refused(challenge(asked)), tmp_path)), BOTH)
    assert (offer.network.caip2, offer.asset.address, offer.asset.symbol) == (asked.network, asset, "UNKNOWN")


@given(name=st.text(max_size=40), version=st.text(max_size=40), network=st.sampled_from(["base", "eip155:196"]))
def test_rows_can_be_pasted_whatever_a_seller_writes(
    tmp_path_factory: pytest.TempPathFactory, name: str, version: str, network: str
) -> None:
    asked = replace(entry(network, 1000, asset=TOKEN), extra={"name": name, "version": version})
    refusal = refused(challenge(asked))
    if "\n" in str(refusal):
        followed = follow(refusal, tmp_path_factory.mktemp("home"))
        assert choose(challenge(asked), rules_of(followed), BOTH).asset.domain_name == name


@pytest.mark.parametrize(
    "network",
    ["tron:x", "stellar:pubnet", "eip155:0", "eip155:08453", "eip155:", "BASE", "EIP155:8453", "solana:mainnet", "a b"],
)
def test_no_advice_where_no_row_can_help(network: str) -> None:
    refusal = str(refused(challenge(entry(network, asset=TOKEN))))
    assert "no network has that name" in refusal
    assert "x402.toml" not in refusal


@pytest.mark.parametrize(
    ("network", "asset", "why"),
    [
        ("base", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914", "wrong checksum"),
        ("eip155:196", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02914", "wrong checksum"),
        ("base", "USDC", "the asset is not an address"),
        ("base", f"eip155:8453/erc20:{TOKEN}", "the asset is not an address"),
        ("solana", TOKEN, "the asset is not a mint"),
        ("solana", "So1111", "the asset is not a mint"),
    ],
)
def test_an_asset_that_is_none_is_called_so(network: str, asset: str, why: str) -> None:
    refusal = str(refused(challenge(entry(network, asset=asset))))
    assert why in refusal
    assert "x402.toml" not in refusal


@pytest.mark.parametrize("name", ['"\n[[limit]]', "x" * 100, "USD\x1b", None, "GatewayWalletBatched"])
def test_what_a_seller_writes_is_no_row_to_paste_unless_it_is_plain(name: object) -> None:
    asked = replace(entry("eip155:196", asset="0x" + "ab" * 20), extra={"name": name, "version": "2"})
    assert "\n" not in str(refused(challenge(asked)))


def test_a_challenge_with_nothing_in_it_says_why() -> None:
    refusal = refused(challenge(unreadable=("accepts[0]: asset must be a string, got nothing",)))
    assert refusal.reason == "challenge_invalid"
    assert "asset must be a string" in str(refusal)


@given(scheme=st.text(), network=st.text(max_size=200), asset=st.text(max_size=500))
def test_words_of_strangers_are_quoted_on_one_line(scheme: str, network: str, asset: str) -> None:
    many = [entry(network, scheme=scheme), entry(network), entry("base", asset=asset + "?")] * 10
    message = str(refused(challenge(*many)))
    assert message.isprintable()
    assert message.isascii()
    assert len(message) < 2500


def test_over_the_limit_price_limit_and_option_are_named(limits: Any) -> None:
    offer = choose(challenge(entry(amount=1_000_001)), RULES, BOTH)
    with pytest.raises(Refused) as caught:
        admit(offer, PURPOSE, rules_of(limits("1")))
    assert caught.value.reason == "over_request_limit"
    for words in ("1.000001 USDC on base", "may cost at most 1 USDC", "Nothing was paid", "x402_max_request"):
        assert words in str(caught.value)


@given(amount=st.integers(1, 2**256 - 1), limit=st.integers(0, 10**12), decimals=st.integers(0, 24))
def test_the_limit_counts_dollars_to_the_millionth(amount: int, limit: int, decimals: int) -> None:
    asset = Asset("x", decimals=decimals, token_program=TOKEN_PROGRAM)
    network = Network(BUILT_IN.get("solana").caip2, "svm", "solana", (asset,))  # type: ignore[union-attr]
    offer = Offer(entry(amount=amount), network, asset)
    settings = read_settings({"x402_max_request": format_usd(limit)}, {}, cwd=Path("/"), home=Path("/nonexistent"))
    over = amount * 10**6 > limit * 10**decimals
    try:
        admit(offer, PURPOSE, rules_of(settings))
    except Refused:
        assert over
    else:
        assert not over
