"""The payer's side of the conformance tests: a challenge in, the header that we would send out."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from mitmproxy_x402.protocol.headers import payment_header
from mitmproxy_x402.protocol.messages import PaymentPayload
from mitmproxy_x402.protocol.networks import BUILT_IN, Asset, Network
from mitmproxy_x402.protocol.payment_required import read_entry, read_payment_required
from mitmproxy_x402.schemes import exact_evm, exact_svm, permit2
from mitmproxy_x402.wallet.evm import EvmWallet
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from mitmproxy_x402.wallet.svm import SvmWallet


def evm_wallet(secret: bytes | None = None) -> EvmWallet:
    key = (secret or os.urandom(32)).hex()
    wallet = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": key}, Path("/nonexistent"))).evm
    assert wallet
    return wallet


def svm_wallet(seed: bytes | None = None) -> SvmWallet:
    key = str(list(seed or os.urandom(32)))
    wallet = load_wallets(WalletSources({"SOLANA_WALLET_KEY": key}, Path("/nonexistent"))).svm
    assert wallet
    return wallet


def pay(
    header: str | None, body: bytes, wallet: EvmWallet | SvmWallet, *, blockhash: str = "", nonce: bytes | None = None
) -> tuple[str, str]:
    """Name and value of the header that pays the challenge's first entry."""
    required = read_payment_required(header, body)
    assert required
    entry = required.accepts[0]
    network = BUILT_IN.get(entry.network)
    assert network
    asset = network.asset(entry.asset)
    assert asset
    payload: dict[str, Any]
    if isinstance(wallet, EvmWallet):
        payload = exact_evm.authorize(
            entry,
            network,
            asset,
            payer=wallet.address,
            now=int(time.time()),
            nonce=nonce or os.urandom(32),
            max_validity=600,
            sign=wallet.sign_digest,
        )
    else:
        blockhash = entry.extra.get("recentBlockhash") or blockhash
        payload = exact_svm.build(
            entry,
            asset,
            payer=wallet.address,
            blockhash=blockhash,
            nonce=nonce or os.urandom(16),
            sign=wallet.sign_message,
        )
    sent = PaymentPayload(required.x402_version, entry, payload, required.resource, required.extensions)
    return payment_header(sent)


def over_permit2(
    network: Network, asset: Asset, entry: dict[str, Any], method: Any, wallet: EvmWallet, *, token_nonce: int | None
) -> dict[str, Any]:
    """The PaymentPayload, as JSON, for `entry`; with a permit where the token's nonce is given."""
    required = read_entry(entry, 2)
    payload = permit2.authorize(
        required,
        network,
        asset,
        method=method,
        payer=wallet.address,
        now=int(time.time()),
        nonce=os.urandom(32),
        max_validity=600,
        sign=wallet.sign_digest,
    )
    extensions: dict[str, Any] = {}
    if token_nonce is not None:
        permit = permit2.permit(
            asset,
            network,
            payer=wallet.address,
            value=required.amount,
            token_nonce=token_nonce,
            deadline=int(payload["permit2Authorization"]["deadline"]),
            sign=wallet.sign_digest,
        )
        declared = {permit2.SPONSORING: {"info": {"description": "gas", "version": "1"}, "schema": {}}}
        extensions = permit2.with_permit(declared, permit)
    return {"x402Version": 2, "accepted": entry, "payload": payload, "extensions": extensions}
