"""Challenge in, payment out: choose, ask the policy, then sign. The only room that makes a signature.

The order is the rule (design, money rules): nothing is signed that the policy has not admitted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import policy
from .policy import Offer
from .protocol.headers import payment_header
from .protocol.messages import AtomicUnits, Json, PaymentPayload, PaymentRequired
from .protocol.networks import Family
from .schemes import exact_evm, exact_svm
from .settings import Settings
from .solana_rpc import SolanaRpc
from .wallet import Wallets, WalletSources, load_wallets

NONCE_BYTES = 32


def find_wallets(settings: Settings, environ: Mapping[str, str], home: Path) -> Wallets:
    """The wallets that `settings` name, else those in `environ` and below `home`. Raises WalletError."""
    return load_wallets(
        WalletSources(
            environ=environ,
            home=home,
            evm_key_file=settings.evm_key_file,
            svm_key_file=settings.svm_key_file,
            keystore=settings.keystore,
            keystore_password_file=settings.keystore_password_file,
        )
    )


@dataclass(frozen=True)
class Payment:
    """A signed payment, ready to be sent. The header can move money: it stays out of every repr and log."""

    offer: Offer
    payer: str
    """Public address of the wallet that signed."""
    reference: str
    """What identifies the payment on its chain: the EIP-3009 nonce, or the payer's Solana signature."""
    header: tuple[str, str] = field(repr=False)

    @property
    def amount(self) -> AtomicUnits:
        """In atomic units of the offer's asset."""
        return self.offer.requirement.amount


class Payer:
    """Turns challenges into payments under one set of settings and wallets; both are fixed for its life."""

    def __init__(
        self,
        settings: Settings,
        wallets: Wallets,
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.settings = settings
        self.wallets = wallets
        self._clock = clock
        self._entropy = entropy
        self._rpc = SolanaRpc(settings.solana_rpc, settings.rpc_timeout)

    @property
    def families(self) -> set[Family]:
        """The chain families that a wallet is there for."""
        both: tuple[Family, Family] = ("evm", "svm")
        return {family for family in both if self.wallets.for_family(family) is not None}

    async def pay(self, required: PaymentRequired) -> Payment:
        """The payment for `required`, signed.

        Raises Refused (policy, no wallet) and RpcError (no blockhash): nothing was signed. Raises ChallengeError (the
        chosen entry breaks a rule of its scheme, or is too large to be echoed): no signature leaves this room.
        """
        offer = policy.choose(required, self.settings.networks, self.settings.preference, self.families)
        policy.admit(offer, self.settings)
        sign = self._sign_svm if offer.network.family == "svm" else self._sign_evm
        payload, payer, reference = await sign(offer)
        message = PaymentPayload(
            required.x402_version, offer.requirement, payload, required.resource, required.extensions
        )
        return Payment(offer, payer, reference, payment_header(message))

    async def _sign_evm(self, offer: Offer) -> tuple[Json, str, str]:
        wallet = self.wallets.evm
        assert wallet is not None
        payload = exact_evm.authorize(
            offer.requirement,
            offer.network,
            offer.asset,
            payer=wallet.address,
            now=int(self._clock()),
            nonce=self._entropy(NONCE_BYTES),
            max_validity=self.settings.max_validity,
            sign=wallet.sign_digest,
        )
        return payload, wallet.address, payload["authorization"]["nonce"]

    async def _sign_svm(self, offer: Offer) -> tuple[Json, str, str]:
        from solders.signature import Signature  # noqa: PLC0415  # not at the start: who pays on EVM never needs it

        wallet = self.wallets.svm
        assert wallet is not None
        offered = offer.requirement.extra.get("recentBlockhash")
        blockhash = offered if isinstance(offered, str) else await self._rpc.latest_blockhash()
        signature = ""

        def sign(message: bytes) -> bytes:
            nonlocal signature
            signed = wallet.sign_message(message)
            signature = str(Signature(signed))
            return signed

        payload = exact_svm.build(
            offer.requirement,
            offer.asset,
            payer=wallet.address,
            blockhash=blockhash,
            nonce=self._entropy(NONCE_BYTES),
            sign=sign,
        )
        return payload, wallet.address, signature
