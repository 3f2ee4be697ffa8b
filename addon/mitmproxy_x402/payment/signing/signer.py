"""Signs payments that the policy has admitted and the ledger has reserved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...chain.solana_rpc import CACHE_SECONDS, Blockhash, SolanaRpc
from ...forecast.terms import BLOCKHASH
from ...ledger.interface import Validity
from ...protocol.messages import Json
from ...quick_init import quick_init
from ...schemes import Method, exact_evm, exact_svm, gateway, permit2
from ...wallet.sources import Wallets
from ..offer import Offer

FACILITATOR_MARGIN = 6
"""Seconds that an EVM authorization must still be valid when a facilitator checks it."""
BLOCKHASH_SECONDS = 60 - CACHE_SECONDS
"""Age in seconds up to which a blockhash is used for payments sent ahead: it is valid for at least 60."""
BLOCKHASH_END = 300
"""Seconds after which a signed transaction has certainly expired: 150 blocks at five times their usual length."""


def longest(method: Method, max_validity: int) -> int:
    """The most seconds after which nobody can settle an EVM payment of this kind that is signed now."""
    return (gateway.SECONDS if method == "gateway" else max_validity) + exact_evm.CLOCK_SKEW


@quick_init
@dataclass(frozen=True)
class Signed:
    """A signed payload. It can move money, so no repr or log shows it."""

    payload: Json = field(repr=False)
    payer: str
    """Public address of the wallet that signed."""
    reference: str
    """Identifies the payment on its chain: the EIP-3009 or Permit2 nonce, or the payer's Solana signature."""
    valid_until: float
    """Unix seconds after which it can no longer be settled. Until then a repetition sends it again."""
    window: float
    """Seconds after signing when nobody can settle it any more, even if our clock is fast."""
    validity: Validity
    """Its validity in the chain's terms."""
    permit: dict[str, str] | None = field(default=None, repr=False)
    """A permit to send with it, for the extension `eip2612GasSponsoring`."""


class Signer:
    """Signs offers with one set of wallets. `max_validity` bounds the life of an EVM authorization in seconds."""

    def __init__(self, wallets: Wallets, max_validity: int, rpc: SolanaRpc, clock: Callable[[], float]) -> None:
        self._wallets = wallets
        self._max_validity = max_validity
        self._rpc = rpc
        self._clock = clock

    async def blockhash(self, offer: Offer, given: Blockhash | None) -> str:
        """The blockhash to sign for on Solana: `given`, or the challenge's, or the RPC's. Raises RpcError."""
        offered = offer.requirement.extra.get(BLOCKHASH) if given is None else given.value
        return offered if isinstance(offered, str) else await self._rpc.latest_blockhash()

    def sign(self, offer: Offer, nonce: bytes, blockhash: str = "", permit_nonce: int | None = None) -> Signed:
        """Sign the payload that pays `offer`. Waits for nothing, so that what was checked just before still holds.

        `nonce` is 32 random bytes, `blockhash` is needed on Solana, `permit_nonce` is the token's nonce if a permit is
        needed. Raises ChallengeError.
        """
        if offer.network.family == "svm":
            return self._svm(offer, nonce, blockhash)
        if offer.method == "permit2" or offer.method == "upto":  # noqa: PLR1714  (for the types)
            return self._permit2(offer, offer.method, nonce, permit_nonce)
        return self._evm(offer, nonce)

    def _permit2(self, offer: Offer, method: permit2.Permit2Method, nonce: bytes, permit_nonce: int | None) -> Signed:
        wallet = self._wallets.evm
        assert wallet is not None
        now = int(self._clock())
        payload = permit2.authorize(
            offer.requirement,
            offer.network,
            offer.asset,
            method=method,
            payer=wallet.address,
            now=now,
            nonce=nonce,
            max_validity=self._max_validity,
            sign=wallet.sign_digest,
        )
        deadline = int(payload["permit2Authorization"]["deadline"])
        permit = None
        if permit_nonce is not None:
            permit = permit2.permit(
                offer.asset,
                offer.network,
                payer=wallet.address,
                value=offer.requirement.amount,
                token_nonce=permit_nonce,
                deadline=deadline,
                sign=wallet.sign_digest,
            )
        window = deadline - now + exact_evm.CLOCK_SKEW
        validity = Validity(deadline, dies_in=window)
        reference = f"0x{nonce.hex()}"
        return Signed(payload, wallet.address, reference, deadline - FACILITATOR_MARGIN, window, validity, permit)

    def _evm(self, offer: Offer, nonce: bytes) -> Signed:
        wallet = self._wallets.evm
        assert wallet is not None
        now, what = int(self._clock()), (offer.requirement, offer.network, offer.asset)
        if offer.method == "gateway":
            payload = gateway.authorize(*what, payer=wallet.address, now=now, nonce=nonce, sign=wallet.sign_digest)
        else:
            payload = exact_evm.authorize(
                *what,
                payer=wallet.address,
                now=now,
                nonce=nonce,
                max_validity=self._max_validity,
                sign=wallet.sign_digest,
            )
        authorization = payload["authorization"]
        valid_before = int(authorization["validBefore"])
        window = valid_before - now + exact_evm.CLOCK_SKEW
        validity = Validity(valid_before, dies_in=window)
        until = valid_before - FACILITATOR_MARGIN
        return Signed(payload, wallet.address, authorization["nonce"], until, window, validity)

    def _svm(self, offer: Offer, nonce: bytes, blockhash: str) -> Signed:
        from solders.signature import Signature  # noqa: PLC0415  # not at the start: who pays on EVM never needs it

        wallet = self._wallets.svm
        assert wallet is not None
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
            nonce=nonce,
            sign=sign,
        )
        known = self._rpc.at_hand()  # a gateway may claim any height for its blockhash
        height = known.height if known is not None and known.value == blockhash else None
        validity = Validity(blockhash=blockhash, last_height=height, dies_in=BLOCKHASH_END)
        until = self._clock() + BLOCKHASH_END
        return Signed(payload, wallet.address, signature, until, BLOCKHASH_END, validity)


def chain_nonce(offer: Offer, nonce: bytes) -> str:
    """The nonce by which the payment can be found on the chain (`Intent.nonce`)."""
    if offer.network.family == "evm":
        return f"0x{nonce.hex()}"
    memo = offer.requirement.extra.get("memo")
    return memo if isinstance(memo, str) and memo else nonce[: exact_svm.NONCE_BYTES].hex()
