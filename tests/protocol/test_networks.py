from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.protocol.evm.address import checksum_address, parse_address
from mitmproxy_x402.protocol.messages import AtomicUnits
from mitmproxy_x402.protocol.networks import BUILT_IN, Asset


@pytest.mark.parametrize(
    ("name", "caip2", "chain_id"),
    [
        ("base", "eip155:8453", 8453),
        ("base-sepolia", "eip155:84532", 84532),
        ("arc", "eip155:5042", 5042),
        ("solana", "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", 0),
        ("solana-devnet", "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1", 0),
    ],
)
def test_a_network_is_found_by_both_of_its_names(name: str, caip2: str, chain_id: int) -> None:
    network = BUILT_IN.get(name)
    assert network is BUILT_IN.get(caip2)
    assert network is not None
    assert (network.caip2, network.name, network.chain_id) == (caip2, name, chain_id)


@pytest.mark.parametrize("name", ["", "Base", "eip155:1", "base ", "eip155:08453", "solana:mainnet"])
def test_any_other_name_is_no_network(name: str) -> None:
    assert BUILT_IN.get(name) is None


def test_evm_assets_compare_without_case_and_mints_with_it() -> None:
    for network in BUILT_IN:
        asset = network.assets[0]
        assert network.asset(asset.address) is asset
        assert (network.asset(asset.address.lower()) is asset) is (network.family == "evm")
        assert network.asset(asset.address[:-1]) is None


def test_evm_addresses_have_their_checksum() -> None:
    for network in BUILT_IN:
        for asset in network.assets:
            if network.family == "evm":
                assert checksum_address(parse_address(asset.address)) == asset.address


def test_a_row_of_the_user_replaces_or_adds() -> None:
    base = next(iter(BUILT_IN))
    changed = replace(base, assets=())
    added = replace(base, caip2="eip155:1", name="ethereum", chain_id=1)
    table = BUILT_IN.extended([added, changed])
    assert table.get("base") is changed
    assert table.get("eip155:1") is added
    assert BUILT_IN.get("base") is base
    assert [row.name for row in table] == [*(row.name for row in BUILT_IN), "ethereum"]


@given(st.integers(0, 2**256), st.integers(0, 30))
def test_limits_are_never_passed_by_rounding(amount: int, decimals: int) -> None:
    micro = Asset("x", decimals=decimals).micro_usd(AtomicUnits(amount))
    assert type(micro) is int
    assert micro * 10**decimals >= amount * 10**6
    assert (micro - 1) * 10**decimals < amount * 10**6


@pytest.mark.parametrize(
    "address",
    [  # the examples of EIP-55
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
        "0x52908400098527886E0F7030069857D2E4169EE7",
        "0xde709f2102306220921060314715629080e2fb77",
    ],
)
def test_checksums(address: str) -> None:
    assert checksum_address(bytes.fromhex(address[2:])) == address
    assert parse_address(address) == parse_address(address.lower())
    swapped = "0x" + address[2:].swapcase()
    if swapped[2:] not in (swapped[2:].lower(), swapped[2:].upper()):
        with pytest.raises(ValueError, match="wrong checksum"):
            parse_address(swapped)
