"""Lists EVM networks that are known but not enabled: the user has to name them to pay there (`x402_networks`).

Unless a comment names another package, chain ids, tokens, decimals and signing domains are those of the reference
implementation: Python package x402 2.25.0, `x402.mechanisms.evm.default_assets`; npm package @x402/evm 2.27.0 has the
same. `python tests/conformance/verify_domains.py NETWORK=URL` compares a row with what the token's contract says
(`DOMAIN_SEPARATOR()`).
"""

from __future__ import annotations

from typing import NamedTuple


class KnownToken(NamedTuple):
    """The fields of `networks.Asset`."""

    address: str
    symbol: str
    decimals: int
    domain_name: str
    domain_version: str
    token_program: str = ""
    eip3009: bool = True
    eip2612: bool = True


class KnownNetwork(NamedTuple):
    """One EVM chain, with its usual token first."""

    name: str
    chain_id: int
    tokens: tuple[KnownToken, ...]


def _token(
    address: str,
    name: str,
    version: str,
    symbol: str = "USDC",
    decimals: int = 6,
    *,
    eip3009: bool = True,
    eip2612: bool = True,
) -> KnownToken:
    return KnownToken(address, symbol, decimals, name, version, "", eip3009, eip2612)


def _evm(name: str, chain_id: int, *tokens: KnownToken) -> KnownNetwork:
    return KnownNetwork(name, chain_id, tokens)


KNOWN = (
    _evm("ethereum", 1, _token("0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "USD Coin", "2")),
    _evm("avalanche", 43114, _token("0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", "USD Coin", "2")),
    _evm(
        "megaeth",
        4326,
        _token(
            "0xFAfDdbb3FC7688494971a79cc65DCa3EF82079E7", "MegaUSD", "1", symbol="MegaUSD", decimals=18, eip3009=False
        ),
    ),
    _evm("monad", 143, _token("0x754704Bc059F8C67012fEd69BC8A327a5aafb603", "USDC", "2")),
    _evm("monad-testnet", 10143, _token("0x534b2f3A21130d7a60830c2Df862319e593943A3", "USDC", "2")),
    _evm("stable", 988, _token("0x779Ded0c9e1022225f8E0630b35a9b54bE713736", "USDT0", "1", "USDT0")),
    _evm("stable-testnet", 2201, _token("0x78Cf24370174180738C5B8E352B6D14c83a6c9A9", "USDT0", "1", "USDT0")),
    _evm("polygon", 137, _token("0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "USD Coin", "2")),
    _evm("arbitrum", 42161, _token("0xaf88d065e77c8cC2239327C5EDb3A432268e5831", "USD Coin", "2")),
    _evm("arbitrum-sepolia", 421614, _token("0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d", "USD Coin", "2")),
    _evm(
        "mezo",
        31612,
        _token(
            "0xdD468A1DDc392dcdbEf6db6e34E89AA338F9F186", "Mezo USD", "1", symbol="mUSD", decimals=18, eip3009=False
        ),
    ),
    _evm(
        "mezo-testnet",
        31611,
        _token(
            "0x118917a40FAF1CD7a13dB0Ef56C86De7973Ac503", "Mezo USD", "1", symbol="mUSD", decimals=18, eip3009=False
        ),
    ),
    _evm(
        "radius",
        723487,
        _token("0x33ad9e4BD16B69B5BFdED37D8B5D9fF9aba014Fb", "Stable Coin", "1", "SBC", eip3009=False),
    ),
    _evm(
        "radius-testnet",
        72344,
        _token("0x33ad9e4BD16B69B5BFdED37D8B5D9fF9aba014Fb", "Stable Coin", "1", "SBC", eip3009=False),
    ),
    _evm("adi", 36900, _token("0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2", "USDC.e", "2", "USDC.e")),
    _evm("hpp", 190415, _token("0x401eCb1D350407f13ba348573E5630B83638E30D", "Bridged USDC", "2", "USDC.e")),
    _evm(
        "hpp-sepolia",
        181228,
        _token("0x401eCb1D350407f13ba348573E5630B83638E30D", "Bridged USDC", "2", "USDC.e"),
    ),
    _evm("xdc", 50, _token("0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1", "USDC", "2")),
    _evm("xdc-apothem", 51, _token("0xb5AB69F7bBada22B28e79C8FFAECe55eF1c771D4", "USDC", "2")),
    _evm(
        "igra", 38833, _token("0xA5b8BF902b2844dA17d4506cc827F7F1681735E7", "USDC", "1", eip3009=False, eip2612=False)
    ),
    _evm("flare", 14, _token("0xe7cd86e13AC4309349F30B3435a9d337750fC82D", "USD₮0", "1", "USDT0")),
    _evm(
        "celo",
        42220,
        _token("0xcebA9300f2b948710d2653dD7B07f33A8B32118C", "USDC", "2"),
        _token("0x48065fbBE25f71C9282ddf5e1cD6D6A887483D5e", "Tether USD", "1", "USDT"),
        _token("0xD2ab3C9A02DBBAB236BfEC45D1d755DF4267F771", "Tether America USD", "1", "USAT"),
    ),
    _evm("celo-sepolia", 11142220, _token("0x01C5C0122039549AD1493B8220cABEdD739BC44E", "USDC", "2")),
    _evm("sei", 1329, _token("0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392", "USDC", "2")),
    _evm("sei-testnet", 1328, _token("0x4fCF1784B31630811181f670Aea7A7bEF803eaED", "USDC", "2")),
    _evm("arc-testnet", 5042002, _token("0x3600000000000000000000000000000000000000", "USDC", "2")),
    # npm package x402 1.2.0 (version 1 of the protocol), `config`; the versions are x402-rs's `networks.rs`.
    _evm("avalanche-fuji", 43113, _token("0x5425890298aed601595a70AB815c96711a31Bc65", "USD Coin", "2")),
    _evm("polygon-amoy", 80002, _token("0x41E94Eb019C0762f9Bfcf9Fb1E58725BfB0e7582", "USDC", "2")),
    _evm("iotex", 4689, _token("0xcDf79194C6C285077A58da47641D4dBe51F63542", "Bridged USDC", "2", "USDC.e")),
    _evm("peaq", 3338, _token("0xbbA60da06c2c5424f03f7434542280FCAd453d10", "USDC", "2")),
    # Tokens: npm package @circle-fin/x402-batching 3.3.0; signing domains: Python package uvd_x402_sdk 0.101.0.
    _evm("optimism", 10, _token("0x0b2C639c533813f4Aa9D7837CAf62653d097Ff85", "USD Coin", "2")),
    _evm("unichain", 130, _token("0x078D782b760474a361dDA0AF3839290b0EF57AD6", "USDC", "2")),
    _evm("hyperevm", 999, _token("0xb88339CB7199b77E23DB6E890353E22632Ba630f", "USDC", "2")),
)
"""In the order of the reference table, without the networks that are paid on by default; then those of other packages.

World Chain, Sonic and Linea are not among them: no package names the signing domain of their USDC.
"""
