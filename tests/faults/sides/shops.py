"""The two chains that gateways are paid on here: the sandbox's, which check every rule and move play money."""

from __future__ import annotations

import threading
import time
from typing import Any

from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.sandbox.chains.evm_ledger import EvmLedger
from mitmproxy_x402.sandbox.chains.interface import Chain
from support import challenges

RICH = 10**12


def _row(name: str) -> Any:
    return next(network for network in BUILT_IN if network.name == name)


class EvmShop:
    """Asks for what the recorded challenges ask for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.chain: Chain = EvmLedger(_row("base-sepolia"), RICH, time.time)

    def challenge(self) -> dict[str, Any]:
        return challenges.evm()


class SvmShop:
    """Its challenges bring no blockhash: whoever pays has to ask an RPC."""

    def __init__(self) -> None:
        from mitmproxy_x402.sandbox.chains.svm_chain import SvmChain  # noqa: PLC0415  # most shops are EVM's

        self.lock = threading.Lock()
        self.svm = SvmChain(
            _row("solana-devnet"), RICH, time.time, blockhash_seconds=90, announce_blockhash=False, memo=""
        )
        self.chain: Chain = self.svm

    def challenge(self) -> dict[str, Any]:
        asked = challenges.svm(feePayer=self.svm.fee_payer)
        asked["accepts"][0]["payTo"] = self.svm.pay_to
        return asked
