"""Challenge in, payment out: choose, ask the policy, reserve, then sign. The only room that makes a signature.

The order is the rule (design, money rules): nothing is signed that the policy has not admitted, and that the ledger has
not found room for.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..chain.solana_rpc import CACHE_SECONDS, Blockhash, SolanaRpc
from ..deferred import Later
from ..forecast.forecast import Forecast, Prediction
from ..forecast.terms import BLOCK_HEIGHT, BLOCKHASH, with_blockhash
from ..ledger.interface import UNKNOWN, Intent, Ledger, LedgerBusy, LedgerError, OverBudget, Validity
from ..limits.limits import Budget
from ..protocol.headers import payment_header
from ..protocol.messages import AtomicUnits, Json, PaymentPayload, PaymentRequired
from ..protocol.networks import Family
from ..schemes import exact_evm, exact_svm
from ..settings.settings import Settings
from ..wallet.sources import Wallets, WalletSources, load_wallets
from . import policy
from .outcomes import Outcomes
from .policy import Offer, Purpose

logger = logging.getLogger(__name__)

NONCE_BYTES = 32
FACILITATOR_MARGIN = 6
"""Seconds that an EVM authorization must still be valid for when a facilitator sees it (protocol, section 3)."""
BLOCKHASH_SECONDS = 60 - CACHE_SECONDS
"""For how long a blockhash surely lives that has just been signed (protocol, section 3)."""
BLOCKHASH_END = 300
"""Seconds after which a transaction that was signed is dead for sure: 150 blocks, at five times their usual length."""
BUSY_PAUSES = (0.002, 0.004, 0.01, 0.02, 0.04, 0.08, 0.1)
"""Seconds between two tries to reserve where another program has locked the ledger: a quarter of a second in all."""
REFRESH_SECONDS = 20
"""From this age on another blockhash is looked up, while payments are sent ahead."""


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
            evm_key_command=settings.evm_key_command,
            svm_key_command=settings.svm_key_command,
            keyring=settings.keyring,
        )
    )


async def _patiently(reserve: Callable[[], int]) -> int:
    """What `reserve` gives, tried again for a while where another program has locked the ledger."""
    for pause in BUSY_PAUSES:
        try:
            return reserve()
        except LedgerBusy:  # noqa: PERF203 - seldom more than one round
            await asyncio.sleep(pause)
    return reserve()


def _at_once(payment: Coroutine[Any, Any, Payment]) -> Payment:
    """What comes of `payment`, in which there is nothing to wait for."""
    try:
        payment.send(None)
    except StopIteration as done:
        made: Payment = done.value
        return made
    payment.close()
    raise AssertionError("a payment that was to be made at once waited for something")


@dataclass(frozen=True)
class Payment:
    """A signed payment, ready to be sent. The header can move money: it stays out of every repr and log."""

    offer: Offer
    payer: str
    """Public address of the wallet that signed."""
    reference: str
    """What identifies the payment on its chain: the EIP-3009 nonce, or the payer's Solana signature."""
    header: tuple[str, str] = field(repr=False)
    row: int
    """Of the ledger, where it is reserved."""
    valid_until: float
    """Unix seconds; sent later it can no longer be settled."""
    window: float
    """Seconds from its signature on after which nobody can have it settled, also where our clock is fast."""
    validity: Validity = field(default=UNKNOWN, compare=False)
    """The same in the chain's own terms, for the ledger. Known to the process that signed it."""

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
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.time,
        entropy: Callable[[int], bytes] = os.urandom,
        later: Later | None = None,
    ) -> None:
        self.settings = settings
        self.wallets = wallets
        self.ledger = ledger
        self.outcomes = Outcomes(ledger, settings.budgets, later)
        self.clock = clock
        self._entropy = entropy
        self.forecast = Forecast() if settings.preauthorize else None
        """What challenges taught, with `x402_preauthorize`."""
        self._rpc = SolanaRpc(settings.solana_rpc, settings.rpc_timeout, clock=clock)

    @property
    def families(self) -> set[Family]:
        """The chain families that a wallet is there for."""
        both: tuple[Family, Family] = ("evm", "svm")
        return {family for family in both if self.wallets.for_family(family) is not None}

    async def pay(
        self,
        required: PaymentRequired,
        purpose: Purpose,
        replaces: int | None = None,
        job: str = "",
        blockhash: Blockhash | None = None,
        *,
        at_once: bool = False,
    ) -> Payment:
        """The payment for `required`: admitted, reserved in the ledger, and signed. The caller sends or releases it.

        `replaces` is the ledger's row of a payment for the same request, or of that which started `job`; `blockhash` is
        what a transaction is built on in the place of the challenge's. With `at_once` there is nothing to wait for, on
        EVM and with a `blockhash`. After any error nothing is reserved. Raises
        Refused (policy, budget, no wallet, dry run, JobPaid), LedgerError and RpcError (no blockhash): nothing was
        signed. Raises ChallengeError (the chosen entry breaks a rule of its scheme, or is too large to be echoed): no
        signature leaves this room.
        """
        offer, budgets = self._admitted(required, purpose)
        nonce = self._entropy(NONCE_BYTES)
        reserve = functools.partial(self._reserve, offer, purpose, budgets, nonce=nonce, replaces=replaces, job=job)
        row = reserve() if at_once else await _patiently(reserve)
        try:
            durable = self._make_durable(at_once)
            payment = await self._signed(required, offer, row, nonce, blockhash)
            if durable is not None:
                await durable
        except BaseException:
            self.release(row)
            raise
        return payment

    def _make_durable(self, at_once: bool) -> Awaitable[None] | None:
        """Have the reservation put on the disk. Gives what the payment has to wait for before it leaves."""
        if not self.settings.ledger_sync:
            return None
        if not at_once:
            return self.ledger.durable_soon()
        self.ledger.durable_now()
        return None

    async def renew(self, required: PaymentRequired, purpose: Purpose, row: int, nonce: bytes) -> Payment:
        """Another signature for an EVM payment that was sent before: for `required`, over that payment's own `nonce`.

        The token takes a nonce of one wallet once, so of all its signatures one can be settled, and the ledger's `row`
        stays what counts for them. The caller sees to it that wallet, network, asset and payee are those of the first,
        and the amount is not above it. Raises what `pay` does.
        """
        offer, _ = self._admitted(required, purpose)
        assert offer.network.family == "evm"
        return await self._signed(required, offer, row, nonce)

    def _admitted(self, required: PaymentRequired, purpose: Purpose) -> tuple[Offer, tuple[Budget, ...]]:
        families: set[Family] = self.families or ({"evm", "svm"} if self.settings.dry_run else set())
        offer = policy.choose(required, self.settings, families)
        budgets = policy.admit(offer, purpose, self.settings)
        if self.settings.dry_run:
            raise policy.dry_run(offer, purpose)
        return offer, budgets

    async def _signed(
        self, required: PaymentRequired, offer: Offer, row: int, nonce: bytes, blockhash: Blockhash | None = None
    ) -> Payment:
        if offer.network.family == "svm":
            payload, payer, reference, until, window, validity = await self._sign_svm(offer, nonce, blockhash)
        else:
            payload, payer, reference, until, window, validity = self._sign_evm(offer, nonce)
        message = PaymentPayload(
            required.x402_version, offer.requirement, payload, required.resource, required.extensions
        )
        return Payment(offer, payer, reference, payment_header(message), row, until, window, validity)

    def pay_ahead(self, prediction: Prediction, purpose: Purpose) -> Payment | None:
        """The payment for a challenge that is foreseen: as `pay`, and raises what it does.

        Waits for nothing: None where there is no blockhash at hand that is young enough.
        """
        required = prediction.required
        network = self.settings.networks.get(required.accepts[0].network)
        if network is None or network.family != "svm":
            return _at_once(self.pay(required, purpose, at_once=True))
        blockhash = self._blockhash_at_hand(prediction)
        renewed = None if blockhash is None else with_blockhash(required, blockhash.value, blockhash.height)
        return None if renewed is None else _at_once(self.pay(renewed, purpose, blockhash=blockhash, at_once=True))

    def _blockhash_at_hand(self, prediction: Prediction) -> Blockhash | None:
        """The youngest of the last challenge's and the RPC's. Has the RPC asked for another before it is too old."""
        now = self.clock()
        extra = prediction.required.accepts[0].extra
        known = [self._rpc.at_hand()]
        offered, height = extra.get(BLOCKHASH), extra.get(BLOCK_HEIGHT)
        if isinstance(offered, str):
            last = int(height) if isinstance(height, str) and height.isdecimal() and height.isascii() else None
            known.append(Blockhash(offered, last, prediction.received))
        young = [each for each in known if each is not None and 0 <= now - each.born < BLOCKHASH_SECONDS]
        youngest = max(young, key=lambda each: each.born, default=None)
        if youngest is None or now - youngest.born > REFRESH_SECONDS:
            self._rpc.refresh()
        return youngest

    def _reserve(
        self,
        offer: Offer,
        purpose: Purpose,
        budgets: Sequence[Budget],
        *,
        nonce: bytes,
        replaces: int | None,
        job: str,
    ) -> int:
        requirement = offer.requirement
        wallet = self.wallets.for_family(offer.network.family)
        assert wallet is not None
        intent = Intent(
            purpose.method,
            purpose.host,
            purpose.path,
            purpose.model,
            offer.network.caip2,
            offer.asset.address,
            requirement.pay_to,
            requirement.amount,
            offer.micro_usd,
            replaces,
            job,
            requirement.scheme,
            wallet.address,
            _chain_nonce(offer, nonce),
        )
        try:
            return self.ledger.reserve(intent, budgets)
        except OverBudget as over:
            raise policy.over_budget(offer, over.budget, over.spent, over.returns_in, self.clock()) from None

    def release(self, row: int) -> None:
        """Give a reservation back. Never raises: one that cannot be released lapses by itself."""
        try:
            self.ledger.release(row)
        except LedgerError as error:
            logger.warning("x402: a reservation could not be released and lapses by itself: %s", error)

    def _sign_evm(self, offer: Offer, nonce: bytes) -> tuple[Json, str, str, float, float, Validity]:
        """Payload, payer's address, reference, and how long it is valid: see `Payment`."""
        wallet = self.wallets.evm
        assert wallet is not None
        now = int(self.clock())
        payload = exact_evm.authorize(
            offer.requirement,
            offer.network,
            offer.asset,
            payer=wallet.address,
            now=now,
            nonce=nonce,
            max_validity=self.settings.max_validity,
            sign=wallet.sign_digest,
        )
        authorization = payload["authorization"]
        valid_before = int(authorization["validBefore"])
        window = valid_before - now + exact_evm.CLOCK_SKEW
        validity = Validity(valid_before, dies_in=window)
        return payload, wallet.address, authorization["nonce"], valid_before - FACILITATOR_MARGIN, window, validity

    async def _sign_svm(
        self, offer: Offer, nonce: bytes, given: Blockhash | None
    ) -> tuple[Json, str, str, float, float, Validity]:
        from solders.signature import Signature  # noqa: PLC0415  # not at the start: who pays on EVM never needs it

        wallet = self.wallets.svm
        assert wallet is not None
        offered = offer.requirement.extra.get(BLOCKHASH) if given is None else given.value
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
            nonce=nonce,
            sign=sign,
        )
        born = self.clock() if given is None else given.born
        known = self._rpc.at_hand()  # a gateway may say any height of its own blockhash
        height = known.height if known is not None and known.value == blockhash else None
        validity = Validity(blockhash=blockhash, last_height=height, dies_in=BLOCKHASH_END)
        return payload, wallet.address, signature, born + BLOCKHASH_SECONDS, BLOCKHASH_END, validity


def _chain_nonce(offer: Offer, nonce: bytes) -> str:
    """By which the chain can be asked for the payment: see `Intent.nonce`."""
    if offer.network.family == "evm":
        return f"0x{nonce.hex()}"
    memo = offer.requirement.extra.get("memo")
    return memo if isinstance(memo, str) and memo else nonce[: exact_svm.NONCE_BYTES].hex()
