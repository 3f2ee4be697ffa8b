"""A payer with real wallets that tries challenges, and judges what was signed by means that are not ours."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from solders.keypair import Keypair
from solders.message import to_bytes_versioned
from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from mitmproxy_x402.errors import X402Error
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.ledger.sqlite.syncing import Sync
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.messages import PaymentRequired
from mitmproxy_x402.protocol.networks import BUILT_IN, Asset, Network
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.evm import EvmWallet
from mitmproxy_x402.wallet.sources import Wallets, WalletSources, load_wallets
from mitmproxy_x402.wallet.svm import SvmWallet
from support.proxy import EVM_ADDRESS, EVM_KEY, SVM_SEED, svm_key
from support.wire import free_port

CHALLENGES = Path(__file__).parents[2] / "challenges"
SVM_ADDRESS = str(Keypair.from_seed(SVM_SEED).pubkey())
KEYS = {"evm": {"BLOCKRUN_WALLET_KEY": EVM_KEY}, "svm": {"SOLANA_WALLET_KEY": svm_key()}}
MAX_REQUEST = 12_500  # between the recorded prices
NOW = 1_800_000_000
PURPOSE = Purpose("POST", "127.0.0.1", "/v1/x")


def recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((CHALLENGES / f"402-{name}.json").read_text()))


RECORDED = {name: recorded(name) for name in ("base-v2-chat-body", "base-v2-exa", "solana-v2-chat", "solana-v2-small")}


class Bench:
    """A payer on an event loop of its own, which counts the signatures that it makes."""

    def __init__(
        self, home: Path, families: str = "evm svm", make_sync: Callable[[int], Sync] | None = None, **options: str
    ) -> None:
        given = {"x402_solana_rpc": f"http://127.0.0.1:{free_port()}"}  # where nobody listens
        given |= {"x402_budget": "1000000", "x402_ledger": str(home / f"{uuid.uuid4()}.sqlite3")}
        given |= {f"x402_{key}": value for key, value in options.items()}
        environ = {name: key for family in families.split() for name, key in KEYS[family].items()}
        found = load_wallets(WalletSources(environ, home))
        self.signed = 0
        evm = found.evm and EvmWallet(found.evm.address, found.evm.source, self._counting(found.evm.sign_digest))
        svm = found.svm and SvmWallet(found.svm.address, found.svm.source, self._counting(found.svm.sign_message))
        self.settings = read_settings(given, {}, cwd=home, home=home)
        self.ledger = SqliteLedger(self.settings.ledger, make_sync=make_sync)
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


ENTRIES = [*RECORDED["base-v2-chat-body"]["accepts"], *RECORDED["solana-v2-chat"]["accepts"]]
