"""What the chain says of ceilings, on a real node, also where a seller's own contract settles them and hides which."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_abi import encode
from eth_hash.auto import keccak

from mitmproxy_x402.chain.evm_blocks import FINAL_BLOCKS
from mitmproxy_x402.chain.lookup import look_up
from mitmproxy_x402.chain.rpc import Allowance, Rpc
from mitmproxy_x402.chain.verdict import Sent, Verdict
from mitmproxy_x402.protocol.evm.permit2_contracts import SETTLERS
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentRequirements
from mitmproxy_x402.schemes.permit2 import authorize
from mitmproxy_x402.wallet.evm import evm_wallet
from support.chains.anvil import Permit2Anvil, running
from support.patience import eventually
from support.wire import free_port

PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
COURIER = "0x00000000000000000000000000000000000c0de1"
_CODE = json.loads((Path(__file__).parents[1] / "conformance" / "contracts" / "judge.json").read_text())[
    "JudgeCourier"
]["runtime"]
_SETTLE = "settle(((address,uint256),uint256,uint256),uint256,address,(address,address,uint256),bytes)"
_PERMIT, _WITNESS = "((address,uint256),uint256,uint256)", "(address,address,uint256)"
VALIDITY = 300


class Seller:
    """Takes ceilings of one wallet by itself or through its contract."""

    def __init__(self, chain: Permit2Anvil) -> None:
        self.chain = chain
        self.wallet = evm_wallet("test", secrets.token_bytes(32))
        chain.fund(self.wallet.address, 10**9)
        chain.approve(self.wallet.address, 10**9)
        self.kept = 0

    def sign(self, ceiling: int, facilitator: str) -> tuple[Sent, dict[str, object]]:
        chain, now = self.chain, self.chain.now
        extra = {"facilitatorAddress": facilitator}
        asked = PaymentRequirements(
            "upto", chain.network.caip2, AtomicUnits(ceiling), chain.asset.address, PAY_TO, VALIDITY, extra, {}
        )
        nonce = secrets.token_bytes(32)
        payload = authorize(
            asked,
            chain.network,
            chain.asset,
            method="upto",
            payer=self.wallet.address,
            now=now,
            nonce=nonce,
            max_validity=VALIDITY,
            sign=self.wallet.sign_digest,
        )
        sent = Sent(
            int.from_bytes(nonce[:6], "big"), "permit2", self.wallet.address, PAY_TO, chain.asset.address, ceiling,
            "0x" + nonce.hex(), now, now + VALIDITY, seller="a.b",
        )  # fmt: skip
        return sent, payload

    def call(self, payload: dict[str, object], charge: int) -> bytes:
        """The call of the settling contract."""
        signed = payload["permit2Authorization"]
        assert isinstance(signed, dict)
        permitted, witness = signed["permitted"], signed["witness"]
        permit = ((permitted["token"], int(permitted["amount"])), int(signed["nonce"]), int(signed["deadline"]))
        said = (witness["to"], witness["facilitator"], int(witness["validAfter"]))
        signature = bytes.fromhex(str(payload["signature"])[2:])
        values = [permit, charge, signed["from"], said, signature]
        return keccak(_SETTLE.encode())[:4] + encode([_PERMIT, "uint256", "address", _WITNESS, "bytes"], values)

    def send(self, to: str, data: bytes) -> str:
        fields = {"from": self.chain.operator, "to": to, "data": "0x" + data.hex(), "gas": hex(2_000_000)}
        transaction = str(self.chain.rpc("eth_sendTransaction", fields))
        eventually(lambda: self.chain.rpc("eth_getTransactionReceipt", transaction))
        assert self.chain.rpc("eth_getTransactionReceipt", transaction)["status"] == "0x1"
        return transaction

    def settle_hidden(self, call: bytes, named: str) -> str:
        """Have the contract make `call`, in a transaction that has `named` in its input and nothing of `call`."""
        self.send(COURIER, keccak(b"keep(bytes)")[:4] + encode(["bytes"], [call]))
        self.kept += 1
        arguments = encode(["address", "uint256", "bytes"], [SETTLERS["upto"], self.kept - 1, bytes.fromhex(named[2:])])
        return self.send(COURIER, keccak(b"settle(address,uint256,bytes)")[:4] + arguments)


@pytest.fixture(scope="module")
def chain() -> Iterator[Permit2Anvil]:
    with running(Permit2Anvil(f"http://127.0.0.1:{free_port()}")) as node:
        yield node


@pytest.fixture
def seller(chain: Permit2Anvil) -> Seller:
    chain.rpc("anvil_setCode", COURIER, "0x")
    chain.rpc("anvil_setCode", COURIER, _CODE)
    made = Seller(chain)
    made.kept = int(chain.rpc("eth_getStorageAt", COURIER, "0x0", "latest"), 16)
    return made


def ask(chain: Permit2Anvil, *payments: Sent) -> list[Verdict]:
    chain.mine(FINAL_BLOCKS[84532])
    rpc = Rpc(chain.url, 20, Allowance(10_000))
    rpc.host = "rpc.test"
    found = asyncio.run(look_up(chain.network, list(payments), [rpc]))
    return [found[payment.key] for payment in payments]


def test_what_a_settling_contract_took_is_known(chain: Permit2Anvil, seller: Seller) -> None:
    signed = [seller.sign(10_000, chain.operator) for _ in range(3)]
    taken = [seller.send(SETTLERS["upto"], seller.call(payload, 700 + n)) for n, (_, payload) in enumerate(signed[:2])]
    found = ask(chain, *(sent for sent, _ in signed))
    assert [(one.kind, one.transaction, one.amount) for one in found[:2]] == [
        ("moved", taken[0], 700),
        ("moved", taken[1], 701),
    ]
    assert found[2].kind == "open"


def test_a_contract_that_names_another_payment_frees_nothing_of_it(chain: Permit2Anvil, seller: Seller) -> None:
    """The whole of one ceiling is taken, out of sight, and then 1 of another under the name of the first."""
    (large, its), (small, other) = seller.sign(10_000, COURIER), seller.sign(10_000, COURIER)
    seller.settle_hidden(seller.call(its, 10_000), "0x00")
    seller.settle_hidden(seller.call(other, 1), large.reference)
    assert [one.kind for one in ask(chain, large, small)] == ["used", "used"], "both count in whole"


def test_a_whole_ceiling_through_a_contract_is_known(chain: Permit2Anvil, seller: Seller) -> None:
    sent, payload = seller.sign(10_000, COURIER)
    transaction = seller.settle_hidden(seller.call(payload, 10_000), sent.reference)
    (found,) = ask(chain, sent)
    assert (found.kind, found.transaction, found.amount) == ("moved", transaction, 10_000)
