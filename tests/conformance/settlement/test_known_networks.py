"""The known networks, tokens and signing domains are those of the reference package's own table."""

from __future__ import annotations

import pytest
from x402.mechanisms.evm.default_assets import DEFAULT_ASSETS

from mitmproxy_x402.protocol.networks import BUILT_IN


@pytest.mark.parametrize("caip2", DEFAULT_ASSETS)
def test_a_network_of_the_reference_table(caip2: str) -> None:
    network = BUILT_IN.known(caip2)
    assert network is not None
    assert f"eip155:{network.chain_id}" == caip2
    for theirs in DEFAULT_ASSETS[caip2]:
        ours = network.asset(theirs["asset"])
        assert ours is not None
        assert (ours.domain_name, ours.domain_version) == (theirs["name"], theirs["version"])
        assert ours.decimals == theirs["decimals"]
        by_permit2 = theirs.get("asset_transfer_method") == "permit2"
        assert ours.eip3009 is not by_permit2
        assert ours.eip2612 is (not by_permit2 or bool(theirs.get("supports_eip2612")))


def test_a_network_is_known_without_being_enabled() -> None:
    waiting = {network.name for network in BUILT_IN.waiting}
    assert waiting >= {"polygon", "optimism", "unichain", "hyperevm", "celo"}
    assert not waiting & {network.name for network in BUILT_IN}
