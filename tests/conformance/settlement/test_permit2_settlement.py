"""The reference facilitator accepts, and settles on a local chain, what we sign over Permit2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from x402.extensions.eip2612_gas_sponsoring import EIP2612_GAS_SPONSORING
from x402.mechanisms.evm.asset_cache import reset_asset_contract_cache
from x402.mechanisms.evm.exact import ExactEvmFacilitatorScheme
from x402.mechanisms.evm.upto.facilitator import UptoEvmScheme
from x402.schemas import PaymentPayload, PaymentRequirements

from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.protocol.payment_required import read_entry
from mitmproxy_x402.schemes import permit2
from mitmproxy_x402.schemes.exact_evm import domain_separator
from mitmproxy_x402.wallet.evm import EvmWallet
from support.chains.local_chains import Permit2Chain
from support.paying.own_payments import evm_wallet, over_permit2

PAY_TO = "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
CEILING = 17_686
BASE = BUILT_IN.get("base")
assert BASE is not None
USDC = BASE.assets[0]


TYPESCRIPT = json.loads((Path(__file__).parent / "permit2" / "payments.json").read_text())


class Context:
    """The reference package's FacilitatorContext, as far as it is asked."""

    def get_extension(self, key: str) -> Any:
        return EIP2612_GAS_SPONSORING if key == EIP2612_GAS_SPONSORING.key else None


@pytest.fixture(scope="module")
def world() -> Permit2Chain:
    assert BASE is not None
    return Permit2Chain(BASE)


@pytest.fixture(autouse=True)
def fresh_cache() -> None:
    reset_asset_contract_cache()


def offer(chain: Permit2Chain, method: str, amount: int = CEILING) -> dict[str, Any]:
    extra = {"assetTransferMethod": "permit2", "name": USDC.domain_name, "version": USDC.domain_version}
    if method == "upto":
        extra["facilitatorAddress"] = chain.operator
    return {
        **{"scheme": "upto" if method == "upto" else "exact", "network": "eip155:8453", "amount": str(amount)},
        **{"asset": USDC.address, "payTo": PAY_TO, "maxTimeoutSeconds": 300, "extra": extra},
    }


def sign(entry: dict[str, Any], method: Any, wallet: EvmWallet, token_nonce: int | None = None) -> PaymentPayload:
    assert BASE is not None
    return PaymentPayload.model_validate(over_permit2(BASE, USDC, entry, method, wallet, token_nonce=token_nonce))


def judge(chain: Permit2Chain, method: str) -> Any:
    return UptoEvmScheme(chain.facilitator) if method == "upto" else ExactEvmFacilitatorScheme(chain.facilitator)


def buyer(chain: Permit2Chain, balance: int = 10**6) -> EvmWallet:
    wallet = evm_wallet()
    chain.fund(wallet.address, balance)
    return wallet


@pytest.mark.parametrize("made", TYPESCRIPT["made"], ids=lambda made: f"{made['requirements']['scheme']}")
def test_the_reference_client_in_typescript_signs_the_same_bytes(made: dict[str, Any]) -> None:
    assert BASE is not None
    wallet, entry = evm_wallet(bytes.fromhex(TYPESCRIPT["key"][2:])), read_entry(made["requirements"], 2)
    theirs = made["payload"]["permit2Authorization"]
    ours = permit2.authorize(
        entry,
        BASE,
        USDC,
        method="upto" if entry.scheme == "upto" else "permit2",
        payer=wallet.address,
        now=int(theirs["deadline"]) - 300,
        nonce=int(theirs["nonce"]).to_bytes(32, "big"),
        max_validity=600,
        sign=wallet.sign_digest,
    )
    assert ours == made["payload"]


def test_the_domain_is_the_contract_s(world: Permit2Chain) -> None:
    assert domain_separator(8453, USDC) == world.domain_separator()


@pytest.mark.parametrize(("method", "charge"), [("permit2", CEILING), ("upto", 686), ("upto", CEILING)])
def test_a_sponsored_payment_is_accepted_and_settled(world: Permit2Chain, method: str, charge: int) -> None:
    wallet, entry = buyer(world), offer(world, method)
    payment, required = sign(entry, method, wallet, 0), PaymentRequirements.model_validate(entry)
    verdict = judge(world, method).verify(payment, required, Context())
    assert (verdict.is_valid, verdict.invalid_reason) == (True, None)
    taken = PaymentRequirements.model_validate({**entry, "amount": str(charge)})
    before = world.balance(PAY_TO)
    settled = judge(world, method).settle(payment, taken, Context())
    assert (settled.success, settled.error_reason) == (True, None)
    assert world.balance(wallet.address) == 10**6 - charge
    assert world.balance(PAY_TO) == before + charge
    assert world.allowance(wallet.address) == CEILING - charge
    assert world.used_over_permit2(wallet.address, int(payment.payload["permit2Authorization"]["nonce"]))
    assert not judge(world, method).settle(payment, taken, Context()).success, "once"


def test_what_a_permit_left_serves_without_another(world: Permit2Chain) -> None:
    wallet, entry = buyer(world), offer(world, "upto")
    first = sign(entry, "upto", wallet, 0)
    taken = PaymentRequirements.model_validate({**entry, "amount": "686"})
    assert judge(world, "upto").settle(first, taken, Context()).success
    second = offer(world, "upto", 17_000)
    payment, required = sign(second, "upto", wallet), PaymentRequirements.model_validate(second)
    assert judge(world, "upto").verify(payment, required, Context()).is_valid
    assert judge(world, "upto").settle(payment, required, Context()).success


def test_without_an_allowance_it_is_refused_in_the_words_that_we_know(world: Permit2Chain) -> None:
    wallet, entry = buyer(world), offer(world, "upto")
    payment, required = sign(entry, "upto", wallet), PaymentRequirements.model_validate(entry)
    assert judge(world, "upto").verify(payment, required, Context()).invalid_reason == "permit2_allowance_required"


def test_more_than_the_ceiling_is_not_taken(world: Permit2Chain) -> None:
    wallet, entry = buyer(world), offer(world, "upto")
    payment = sign(entry, "upto", wallet, 0)
    taken = PaymentRequirements.model_validate({**entry, "amount": str(CEILING + 1)})
    settled = judge(world, "upto").settle(payment, taken, Context())
    assert not settled.success
    assert world.balance(wallet.address) == 10**6


def test_a_signature_that_was_settled_at_nothing_can_be_settled_later(world: Permit2Chain) -> None:
    """Why a charge of 0 frees no money: the rule of `ledger.interface`."""
    wallet, entry = buyer(world), offer(world, "upto")
    payment = sign(entry, "upto", wallet, 0)
    nothing = judge(world, "upto").settle(
        payment, PaymentRequirements.model_validate({**entry, "amount": "0"}), Context()
    )
    assert (nothing.success, nothing.transaction) == (True, "")
    assert not world.used_over_permit2(wallet.address, int(payment.payload["permit2Authorization"]["nonce"]))
    later = PaymentRequirements.model_validate({**entry, "amount": "5000"})
    assert judge(world, "upto").settle(payment, later, Context()).success
    assert world.balance(wallet.address) == 10**6 - 5000


def test_of_two_permits_over_one_token_nonce_one_settles(world: Permit2Chain) -> None:
    """Why one sponsored payment is under way at a time."""
    wallet, entry = buyer(world), offer(world, "upto")
    both = [sign(entry, "upto", wallet, 0) for _ in range(2)]
    required = PaymentRequirements.model_validate(entry)
    assert all(judge(world, "upto").verify(each, required, Context()).is_valid for each in both)
    assert [judge(world, "upto").settle(each, required, Context()).success for each in both] == [True, False]
