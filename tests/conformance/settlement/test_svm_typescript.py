"""The reference facilitator in TypeScript accepts what we sign for Solana, and settles it in LiteSVM.

It runs in Node.js (typescript/svm_facilitator.mjs); its keys and its chain are here.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair

from mitmproxy_x402.protocol.headers import payment_required_header
from mitmproxy_x402.protocol.networks import BUILT_IN, Network
from support.chains.local_chains import SvmChain
from support.paying.own_payments import pay, svm_wallet
from support.running import npm

PACKAGES = {"@x402/core": "2.27.0", "@x402/svm": "2.27.0"}
PAY_TO = str(Keypair.from_seed(b"\x02" * 32).pubkey())
AMOUNT = 11961
MEMOS = {"none": None, "a short one": "order 4711", "256 bytes of UTF-8": "é" * 128}


class Judge:
    """The facilitator, and the chain on which it settles."""

    def __init__(self, network: Network, process: subprocess.Popen[str]) -> None:
        self.chain = SvmChain(network)
        self.chain.fund(PAY_TO, 0)
        self._process = process
        addresses = self.chain.facilitator.get_addresses()
        self._write({"addresses": addresses, "network": network.caip2, "name": network.name})

    def __call__(self, verb: str, payment: dict[str, Any], required: dict[str, Any]) -> dict[str, Any]:
        """What it says when asked to `verify` or `settle`."""
        self._write({"verb": verb, "payload": payment, "requirements": required})
        while True:
            assert self._process.stdout is not None
            said: dict[str, Any] = json.loads(self._process.stdout.readline())
            if "ask" not in said:
                return said
            try:
                self._write({"result": self._done(said["ask"], *said["arguments"])})
            except RuntimeError as error:
                self._write({"error": str(error)})

    def _done(self, what: str, *given: str) -> Any:
        facilitator = self.chain.facilitator
        if what == "simulate_transaction":  # the fee payer has not signed yet, and LiteSVM wants all signatures
            transaction, network = given[:2]
            given = (facilitator.sign_transaction(transaction, facilitator.get_addresses()[0], network), network)
        return getattr(facilitator, what)(*given)

    def _write(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()


@pytest.fixture(scope="module", params=["solana", "solana-devnet"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    folder = npm.install("reference-svm", PACKAGES)
    script = npm.beside(folder, Path(__file__).parent / "typescript" / "svm_facilitator.mjs")
    node, network = shutil.which("node"), BUILT_IN.get(request.param)
    assert node is not None
    assert network is not None
    with ExitStack() as stack:
        command = [node, str(script)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        stack.enter_context(process)
        stack.callback(process.kill)
        yield Judge(network, process)


def offer(chain: SvmChain, version: int, memo: str | None = None) -> dict[str, Any]:
    entry = {"scheme": "exact", "network": chain.network.caip2, "amount": str(AMOUNT), "asset": chain.asset.address}
    extra = {"feePayer": chain.facilitator.get_addresses()[0], "recentBlockhash": chain.blockhash}
    entry |= {"payTo": PAY_TO, "maxTimeoutSeconds": 300, "extra": extra | ({"memo": memo} if memo else {})}
    if version == 1:
        entry["maxAmountRequired"] = entry.pop("amount")
        entry |= {"network": chain.network.name, "resource": "https://x", "description": "", "mimeType": ""}
    return entry


def signed(chain: SvmChain, entry: dict[str, Any], version: int, funds: int = AMOUNT) -> tuple[str, dict[str, Any]]:
    """The payer and the payment of `entry`, taken from the header."""
    wallet = svm_wallet()
    chain.fund(wallet.address, funds)
    said = {"x402Version": version, "accepts": [entry]}
    given = (payment_required_header(said), b"") if version == 2 else (None, json.dumps(said).encode())
    return wallet.address, json.loads(base64.b64decode(pay(*given, wallet)[1]))


@pytest.mark.parametrize("memo", MEMOS.values(), ids=MEMOS)
@pytest.mark.parametrize("version", [1, 2])
def test_it_is_accepted_and_settled_once(judge: Judge, version: int, memo: str | None) -> None:
    chain, before = judge.chain, judge.chain.balance(PAY_TO)
    entry = offer(chain, version, memo)
    payer, payment = signed(chain, entry, version)
    verdict = judge("verify", payment, entry)
    assert (verdict.get("isValid"), verdict.get("payer")) == (True, payer), verdict
    settled = judge("settle", payment, entry)
    assert settled.get("success"), settled
    assert (chain.balance(payer), chain.balance(PAY_TO)) == (0, before + AMOUNT)
    chain.fund(payer, AMOUNT)
    assert not judge("settle", payment, entry).get("success"), "a second time"
    assert chain.balance(PAY_TO) == before + AMOUNT


@pytest.mark.parametrize("version", [1, 2])
def test_it_settles_nothing_else(judge: Judge, version: int) -> None:
    """So its approval says something."""
    chain = judge.chain
    entry = offer(chain, version)
    _, payment = signed(chain, entry, version)
    key = "maxAmountRequired" if version == 1 else "amount"
    assert not judge("verify", payment, entry | {key: str(AMOUNT + 1)}).get("isValid")
    assert not judge("verify", payment, entry | {"payTo": str(Keypair().pubkey())}).get("isValid")
    _, poor = signed(chain, entry, version, funds=AMOUNT - 1)
    assert not judge("verify", poor, entry).get("isValid")
