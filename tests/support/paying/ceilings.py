"""A payer whose chain a test plays, and challenges that offer ceilings and exact prices."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

from mitmproxy_x402.ledger.interface import Outcome
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.signing.payment import Payment
from mitmproxy_x402.protocol.messages import PaymentRequired
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets
from support.chains.token_rpc import TokenRpc
from support.proxy import EVM_KEY
from support.wire import free_port

USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
FACILITATOR = "0x14fDa13953Fc30428938E6BF950d036e77214e52"
CEILING = 17_686
EXACT = 2_000
PURPOSE = Purpose("POST", "127.0.0.1", "/v1/chat/completions", "test-1")


def entry(scheme: str = "upto", amount: int = CEILING, **extra: Any) -> dict[str, Any]:
    facilitator = {"facilitatorAddress": FACILITATOR} if scheme == "upto" else {}
    return {
        **{"scheme": scheme, "network": "eip155:8453", "amount": str(amount), "asset": USDC, "payTo": PAY_TO},
        **{"maxTimeoutSeconds": 300, "extra": {"name": "USD Coin", "version": "2", **facilitator, **extra}},
    }


def challenge(*entries: dict[str, Any], sponsored: bool = False) -> PaymentRequired:
    extensions = {"eip2612GasSponsoring": {"info": {"description": "x", "version": "1"}, "schema": {}}}
    said = {"x402Version": 2, "accepts": list(entries), "extensions": extensions if sponsored else {}}
    required = read_payment_required(None, json.dumps(said).encode())
    assert required is not None
    return required


BOTH = (entry(), entry("exact", EXACT))


class Shop:
    """A payer with one wallet, its ledger and an RPC that says what it holds."""

    def __init__(self, home: Path, rpc: TokenRpc | None, **options: str) -> None:
        self.now = 1_800_000_000.0
        url = f"http://127.0.0.1:{free_port()}" if rpc is None else rpc.url
        given = {"x402_evm_rpc": f"base={url}", "x402_schemes": "upto", "x402_rpc_timeout": "5"}
        given |= {f"x402_{key}": value for key, value in options.items()}
        settings = read_settings(given, {}, cwd=home, home=home)
        self.ledger = SqliteLedger(home / "ledger.sqlite3")
        wallets = load_wallets(WalletSources({"BLOCKRUN_WALLET_KEY": EVM_KEY}, home))
        self.payer = Payer(settings, wallets, self.ledger, clock=lambda: self.now)

    def pay(self, required: PaymentRequired, **more: Any) -> Payment:
        return asyncio.run(self.payer.pay(required, PURPOSE, **more))

    def send(self, payment: Payment) -> None:
        self.ledger.record_sent(payment.row, payment.reference, payment.valid_until, payment.validity)

    def settle(self, payment: Payment, charged: int) -> None:
        self.send(payment)
        outcome = Outcome("settled", transaction="0x" + "ab" * 32, charged_micro_usd=charged)
        self.ledger.finish(payment.row, outcome)

    def spent(self) -> int:
        return self.ledger.spent(self.payer.settings.budgets[0])


def message(payment: Payment) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(payment.header[1])))
