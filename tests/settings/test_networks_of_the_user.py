"""Networks, assets and RPCs that a user names: what is exactly meant, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mitmproxy_x402.protocol.networks import TOKEN_2022_PROGRAM, TOKEN_PROGRAM
from support.configurations import POLYGON, read, refusal

MINT_2022 = "2b1kV6DkPAnxd5ixfnxCpjxmKwqjjaYmCZfHsFu24GXo"


class TestPreference:
    def test_names_and_caip2_names(self, tmp_path: Path) -> None:
        expected = ("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "eip155:8453")
        assert read(tmp_path, networks="solana, eip155:8453").preference == expected
        assert read(tmp_path, 'networks = ["solana", "base"]').preference == expected
        assert read(tmp_path, 'networks = "solana,base,"').preference == expected

    def test_unknown_and_repeated_names(self, tmp_path: Path) -> None:
        assert "x402_networks = 'bas': did you mean base? expected base, base-sepolia" in refusal(
            tmp_path, networks="bas"
        )
        assert "is there twice" in refusal(tmp_path, networks="base, eip155:8453")
        assert "expected base" in refusal(tmp_path, "networks = [1]")
        assert "expected networks, separated by commas" in refusal(tmp_path, "networks = 1")

    def test_a_network_of_the_file(self, tmp_path: Path) -> None:
        assert read(tmp_path, POLYGON, networks="polygon,base").preference == ("eip155:137", "eip155:8453")

    def test_the_order_and_new_networks_are_told_apart(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, POLYGON.replace("[[network]]", "[[networks]]"))
        assert "a new network is written as [[network]]" in message


class TestRpc:
    def test_https_anywhere_and_http_on_loopback(self, tmp_path: Path) -> None:
        text = "https://a.example/?api-key=1, http://127.0.0.1:8899,http://[::1]:1/x,http://localhost"
        assert len(read(tmp_path, solana_rpc=text).solana_rpc) == 4

    @pytest.mark.parametrize(
        "url",
        ["http://rpc.example", "ftp://a", "rpc.example", "https://", "https://a:99999", "https://a b", "https://[",
     "http://127.0.0.1.evil.example", "https://a/#x"],
    )  # fmt: skip
    def test_others_are_refused_without_being_shown(self, tmp_path: Path, url: str) -> None:
        message = refusal(tmp_path, solana_rpc=f"{url}?api-key=hush" if "#" not in url else url)
        assert message.startswith("x402_solana_rpc: ")
        assert "https://" in message
        assert "hush" not in message

    def test_a_url_never_shows_in_a_repr(self, tmp_path: Path) -> None:
        assert "hush" not in repr(read(tmp_path, solana_rpc="https://a.example/?api-key=hush"))


def changed(old: str, new: str) -> str:
    assert old in POLYGON
    return POLYGON.replace(old, new)


class TestNetworks:
    def test_a_new_evm_network(self, tmp_path: Path) -> None:
        network = read(tmp_path, POLYGON).networks.get("polygon")
        assert network is not None
        assert (network.caip2, network.family, network.chain_id) == ("eip155:137", "evm", 137)
        (asset,) = network.assets
        assert (asset.decimals, asset.domain_name, asset.domain_version) == (6, "USD Coin", "2")

    def test_what_follows_may_be_said_when_it_fits(self, tmp_path: Path) -> None:
        said = changed('name = "polygon"', 'name = "polygon"\nfamily = "evm"\nchain_id = 137')
        assert read(tmp_path, said).networks.get("eip155:137") is not None

    def test_a_new_asset_of_a_known_network(self, tmp_path: Path) -> None:
        table = f'[[asset]]\nnetwork = "solana"\naddress = "{MINT_2022}"\nsymbol = "PYUSD"\ndecimals = 6\n'
        network = read(tmp_path, table).networks.get("solana")
        assert network is not None
        assert [asset.token_program for asset in network.assets] == [TOKEN_PROGRAM, TOKEN_PROGRAM]
        network = read(tmp_path, f'{table}token_program = "{TOKEN_2022_PROGRAM}"').networks.get("solana")
        assert network is not None
        assert network.assets[1].token_program == TOKEN_2022_PROGRAM

    def test_an_address_of_one_case_gets_its_checksum(self, tmp_path: Path) -> None:
        address = "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359"
        network = read(tmp_path, changed(address, address.lower())).networks.get("polygon")
        assert network is not None
        assert network.assets[0].address == address

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("eip155:137", "eip155:0137", "expected eip155:<chain id>"),
            ("eip155:137", "cosmos:137", "expected eip155:<chain id>"),
            ("eip155:137", "eip155:8453", "is already taken by eip155:8453 (base)"),
            ('name = "polygon"', 'name = "base"', "is already taken by eip155:8453 (base)"),
            ('name = "polygon"', 'name = "Poly gon"', "a short name of small letters"),
            ('name = "polygon"', "", "name is missing: expected a short name"),
            ('name = "polygon"', 'name = "polygon"\nchain_id = 138', "eip155:137 says 137"),
            ('name = "polygon"', 'name = "polygon"\nchain_id = true', "eip155:137 says 137"),
            ('name = "polygon"', 'name = "polygon"\nfamily = "svm"', "eip155:137 is evm"),
            ('name = "polygon"', 'name = "polygon"\nchainid = 137', "did you mean chain_id?"),
            ('network = "polygon"', 'network = "poly"', "expected one of base, "),
            ('network = "polygon"', 'network = "base"', "[[network]] polygon: has no asset"),
            ("c499c542cEF5", "c499c542ceF5", "its capitals are a checksum and do not fit; 0x3c499c542cEF5E38"),
            ("0x3c499c542cEF5E", "0x3c499c542cEF5", "expected 0x and 40 hex digits"),
            ("decimals = 6", "decimals = 19", "0 to 18"),
            ("decimals = 6", "decimals = true", "0 to 18"),
            ("decimals = 6", 'decimals = "6"', "0 to 18"),
            ("decimals = 6", "", "decimals is missing"),
            ('symbol = "USDC"', 'symbol = "US DC"', "letters or digits"),
            ('domain_name = "USD Coin"', "", "EIP-712 domain name"),
            ('domain_version = "2"', "domain_version = 2", "EIP-712 domain version"),
            ('domain_version = "2"', f'domain_version = "2"\ntoken_program = "{TOKEN_PROGRAM}"', "remove it for evm"),
        ],
    )
    def test_a_wrong_row_names_its_key(self, tmp_path: Path, old: str, new: str, expected: str) -> None:
        message = refusal(tmp_path, changed(old, new))
        assert message.startswith(f"{tmp_path}/x402.toml: [[")
        assert expected in message

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            (f'address = "{MINT_2022[:-1]}"', "base58 of 32 bytes"),
            ('address = "0OIl"', "base58 of 32 bytes"),
            (f'address = "{MINT_2022}"\ndomain_name = "x"', "remove it for svm"),
            (f'address = "{MINT_2022}"\ntoken_program = "{MINT_2022}"', "expected Tokenkeg"),
            ('address = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v"', "is already known on solana"),
        ],
    )
    def test_a_wrong_mint(self, tmp_path: Path, lines: str, expected: str) -> None:
        table = f'[[asset]]\nnetwork = "solana"\nsymbol = "X"\ndecimals = 6\n{lines}\n'
        assert expected in refusal(tmp_path, table)

    def test_the_same_asset_twice(self, tmp_path: Path) -> None:
        again = POLYGON + POLYGON[POLYGON.index("[[asset]]") :]
        assert "is already known on polygon" in refusal(tmp_path, again)

    def test_a_solana_network_has_no_chain_id(self, tmp_path: Path) -> None:
        table = '[[network]]\ncaip2 = "solana:4uhcVJyU9pJkvQyS88uRDiswHXSCkY3z"\nname = "solana-testnet"\nchain_id = 1'
        assert "remove it for svm" in refusal(tmp_path, table)

    def test_a_single_table_is_not_enough(self, tmp_path: Path) -> None:
        assert "expected tables that begin with [[asset]]" in refusal(tmp_path, "[asset]\nnetwork = 1")


class TestEvmRpc:
    def test_networks_and_their_urls(self, tmp_path: Path) -> None:
        settings = read(tmp_path, evm_rpc="base=https://a.example/k?key=hush, eip155:5042 = http://127.0.0.1:1")
        assert settings.evm_rpc == (
            ("eip155:8453", "https://a.example/k?key=hush"),
            ("eip155:5042", "http://127.0.0.1:1"),
        )
        assert "hush" not in repr(settings)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("https://a.example/?key=hush", "expected NETWORK=URL"),
            ("base", "expected NETWORK=URL"),
            ("bse=https://a.example/hush", "did you mean base"),
            ("solana=https://a.example/hush", "belong in x402_solana_rpc"),
            ("base=http://a.example/hush", "not encrypted"),
        ],
    )
    def test_others_are_refused_without_the_url(self, tmp_path: Path, text: str, reason: str) -> None:
        message = refusal(tmp_path, evm_rpc=text)
        assert message.startswith("x402_evm_rpc")
        assert reason in message
        assert "hush" not in message
