"""The sandbox and the reference facilitator say the same yes or no to the same payments, good and spoilt.

The reference's verdict is that of its server (the entry matches, the extensions are echoed) and of its facilitator
over a local chain. Both judges get the same bytes; what the reference cannot decode, or trips over, counts as no.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from solders.account import Account
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from x402.http.utils import decode_payment_signature_header
from x402.mechanisms.evm.asset_cache import reset_asset_contract_cache
from x402.mechanisms.evm.exact import ExactEvmFacilitatorScheme
from x402.mechanisms.evm.exact.v1.facilitator import ExactEvmSchemeV1
from x402.mechanisms.svm.exact import ExactSvmFacilitatorScheme
from x402.mechanisms.svm.exact.v1.facilitator import ExactSvmSchemeV1
from x402.schemas import PaymentRequired, PaymentRequirements
from x402.schemas.v1 import PaymentPayloadV1, PaymentRequirementsV1

from mitmproxy_x402.protocol.networks import BUILT_IN, Network
from mitmproxy_x402.sandbox import Sandbox, SandboxConfig
from support.chains.local_chains import EvmChain, SvmChain
from support.chains.reference_payer import Shopper, challenge_of, decoded, encoded, exact
from support.paying.own_payments import evm_wallet, pay, svm_wallet
from support.spoils.envelope import Case
from support.spoils.evm import EVM, EVM_V1, STRICTER_EVM
from support.spoils.svm import STRICTER_SVM, SVM, SVM_V1
from x402 import x402ResourceServerSync

FUNDS = 10**9


@dataclass
class Court:
    """The two judges of one network, and a payer with the same money before both."""

    network: Network
    version: int
    sandbox: Sandbox
    shopper: Shopper
    chain: Any

    @property
    def name(self) -> str:
        """The network as this version of the protocol calls it."""
        return self.network.caip2 if self.version == 2 else self.network.name

    def challenge(self) -> dict[str, Any]:
        return challenge_of(self.shopper.ask())

    def sandbox_accepts(self, header: Mapping[str, str]) -> bool:
        response = self.shopper.ask(**header)
        assert response.status_code in (200, 402)
        assert response.status_code == 200 or response.json()["code"].startswith("PAYMENT_")
        return bool(response.status_code == 200)

    def reference_accepts(self, challenge: Mapping[str, Any], header: Mapping[str, str]) -> bool:
        [value] = header.values()
        facilitator: Any
        required: Any
        try:
            if self.version == 2:
                payload: Any = decode_payment_signature_header(value)
                offered = PaymentRequired.model_validate(challenge)
                server = x402ResourceServerSync()
                available = [one for one in offered.accepts if one.scheme == "exact" and one.network == self.name]
                required = server.find_matching_requirements(available, payload)
                if required is None or not server.validate_extensions(offered, payload).valid:
                    return False
                assert isinstance(required, PaymentRequirements)
            else:
                payload = PaymentPayloadV1.model_validate(decoded(value))
                required = PaymentRequirementsV1.model_validate(exact(challenge, self.name))
            facilitator = self._facilitator()
            verified = facilitator.verify(payload, required)
            if not verified.is_valid:
                return False
        except Exception:
            return False
        assert facilitator.settle(payload, required).success
        return True

    def _facilitator(self) -> Any:
        kinds: dict[tuple[str, int], Any] = {
            ("evm", 2): ExactEvmFacilitatorScheme,
            ("evm", 1): ExactEvmSchemeV1,
            ("svm", 2): ExactSvmFacilitatorScheme,
            ("svm", 1): ExactSvmSchemeV1,
        }
        return kinds[self.network.family, self.version](self.chain.facilitator)


def court(name: str, version: int) -> Iterator[Court]:
    network = BUILT_IN.get(name)
    assert network
    reset_asset_contract_cache()
    chain: Any = EvmChain(network) if network.family == "evm" else SvmChain(network)
    now = time.time()  # on Solana it stands still, so that the adopted blockhash stays the newest
    clock = time.time if network.family == "evm" else lambda: now
    config = SandboxConfig(networks=(name,), x402_version=2 if version == 2 else 1, opening_balance=FUNDS, clock=clock)
    sandbox = Sandbox(config)
    if network.family == "svm":
        ours: Any = sandbox.chain(name)
        ours.adopt_blockhash(chain.blockhash)
        chain.fee_payers.append(Keypair.from_seed(hashlib.sha256(f"mitmproxy-x402 sandbox {name}".encode()).digest()))
        assert str(chain.fee_payers[-1].pubkey()) == ours.fee_payer
        chain.svm.set_account(chain.fee_payers[-1].pubkey(), Account(10**12, b"", Pubkey.default()))
        chain.fund(ours.pay_to, 0)
    with sandbox.run_in_thread(), Shopper(sandbox.url) as shopper:
        judges = Court(network, version, sandbox, shopper, chain)
        shopper.network = judges.name
        chain.fund(shopper.address, FUNDS)
        yield judges


Judges = Callable[[str, int], Court]


@pytest.fixture(scope="module")
def judges() -> Iterator[Judges]:
    """The court for a network and a version, the same for all cases."""
    with ExitStack() as sessions:
        yield functools.cache(lambda name, version: sessions.enter_context(contextmanager(court)(name, version)))


def cases(version_2: list[Case], version_1: list[Case]) -> pytest.MarkDecorator:
    """Every case in its version."""
    every = [(2, case) for case in version_2] + [(1, case) for case in version_1]
    params = [pytest.param(version, case, id=f"v{version}, {case}") for version, case in every]
    return pytest.mark.parametrize(("version", "case"), params)


def agree(court: Court, case: Case) -> None:
    challenge = court.challenge()
    header = encoded(case.spoil(court.shopper.payer.payment(challenge, court.name), court.shopper.payer))
    verdicts = {
        "sandbox": court.sandbox_accepts(header),
        "reference": court.reference_accepts(challenge, header),
    }
    assert verdicts == {"sandbox": case.good, "reference": case.good}


@cases(EVM, EVM_V1)
def test_evm_payments(judges: Judges, version: int, case: Case) -> None:
    agree(judges("base-sepolia", version), case)


@cases(SVM, SVM_V1)
def test_solana_payments(judges: Judges, version: int, case: Case) -> None:
    agree(judges("solana-devnet", version), case)


@cases(STRICTER_EVM, STRICTER_EVM)
def test_evm_payments_where_the_sandbox_is_stricter(judges: Judges, version: int, case: Case) -> None:
    """The Python reference takes these; others do not, and a payer has no reason to send them."""
    evm = judges("base-sepolia", version)
    challenge = evm.challenge()
    header = encoded(case.spoil(evm.shopper.payer.payment(challenge, evm.name), evm.shopper.payer))
    assert evm.reference_accepts(challenge, header)
    assert not evm.sandbox_accepts(header)


@cases(STRICTER_SVM, STRICTER_SVM)
def test_solana_payments_where_the_sandbox_is_stricter(judges: Judges, version: int, case: Case) -> None:
    svm = judges("solana-devnet", version)
    challenge = svm.challenge()
    header = encoded(case.spoil(svm.shopper.payer.payment(challenge, svm.name), svm.shopper.payer))
    assert svm.reference_accepts(challenge, header)
    assert not svm.sandbox_accepts(header)


@pytest.mark.parametrize("version", [2, 1], ids=["v2", "v1"])
@pytest.mark.parametrize("name", [network.name for network in BUILT_IN if network.name != "arc"])
def test_what_we_sign_is_accepted_by_both(name: str, version: int) -> None:
    for its in court(name, version):
        wallet: Any = evm_wallet() if its.network.family == "evm" else svm_wallet()
        its.chain.fund(wallet.address, FUNDS)
        unpaid = its.shopper.ask()
        header = dict([pay(unpaid.headers.get("payment-required"), unpaid.content, wallet)])
        assert its.reference_accepts(challenge_of(unpaid), header)
        assert its.sandbox_accepts(header)
        assert [payment.payer for payment in its.sandbox.settled] == [wallet.address]
