"""Turns a challenge into a signed payment: choose an offer, admit it, reserve it in the ledger, sign it.

The order is the rule: nothing is signed that the policy has not admitted and the ledger has not reserved.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chain.solana_rpc import Blockhash, SolanaRpc
from ..errors import ChallengeError, EvmRpcError, Refused, RpcError, X402Error
from ..forecast.forecast import Forecast, Prediction
from ..forecast.terms import BLOCK_HEIGHT, BLOCKHASH, with_blockhash
from ..ledger.interface import Intent, Ledger, LedgerBusy, LedgerError, OverBudget, Submitted
from ..limits.limits import Budget
from ..limits.whole_request import normal_path
from ..protocol.messages import PaymentRequired
from ..quick_init import quick_init
from ..reconcile.rpcs import named_rpcs, rpcs
from ..settings.settings import Settings
from ..wallet.sources import Wallets, WalletSources, load_wallets
from . import policy
from .balances import Balances
from .offer import Offer, Purpose
from .offered import Challenges, payers_of, rules_of
from .outcomes import Later, Outcomes
from .reasons import refusals
from .signing.ceilings import OVER_PERMIT2, Ceilings
from .signing.payment import Identifiers, Payment, payment_of
from .signing.signer import BLOCKHASH_SECONDS, Signer, chain_nonce, longest

logger = logging.getLogger(__name__)

NONCE_BYTES = 32
BUSY_PAUSES = (0.002, 0.004, 0.01, 0.02, 0.04, 0.08, 0.1)
"""Seconds between attempts to reserve while another program locks the ledger: a quarter of a second in all."""
REFRESH_SECONDS = 20
"""Age in seconds at which another blockhash is looked up, while payments are sent ahead."""

CLIENT_LEFT = "client_left"
"""Code of the refusal to sign for a client that has cancelled its request."""
MAX_TRIED = 16
"""Most offers of a challenge that fail in the ledger, at an RPC or when they are signed, before no more are tried."""
_BY_POLICY = frozenset({"upstream_not_allowed", "over_request_limit", "wallet_unfunded"})
"""Codes of refusals that take no look-up, and so do not count towards MAX_TRIED."""
_NEXT_MAY_DO = frozenset(
    {"upstream_not_allowed", "over_request_limit", "over_budget", "balance_too_low", "wallet_unfunded"}
    | {"permit2_allowance_missing", "permit_under_way"}
)
"""Codes of refusals after which the next offer is tried."""


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
    """The result of `reserve`, retried for a moment while another program locks the ledger."""
    for pause in BUSY_PAUSES:
        try:
            return reserve()
        except LedgerBusy:  # noqa: PERF203 - seldom more than one round
            await asyncio.sleep(pause)
    return reserve()


def _at_once(payment: Coroutine[Any, Any, Payment]) -> Payment:
    """Run the coroutine `payment`, which must not wait for anything, and return its result."""
    try:
        payment.send(None)
    except StopIteration as done:
        made: Payment = done.value
        return made
    payment.close()
    raise AssertionError("a payment that was to be made at once waited for something")


@quick_init
@dataclass(frozen=True)
class _Order:
    """The arguments of one `Payer.pay`."""

    required: PaymentRequired
    purpose: Purpose
    replaces: int | None
    job: str
    blockhash: Blockhash | None
    at_once: bool
    syncs_later: bool
    instead_of: Payment | None
    is_cancelled: Callable[[], bool]


class _Tries:
    """The offers of one challenge that could not be paid, so that no RPC is asked the same thing twice."""

    def __init__(self, order: _Order) -> None:
        self._order = order
        self.failures: list[tuple[Offer, X402Error]] = []
        self._unreachable: dict[str, RpcError] = {}
        """Failures of RPCs, by network."""
        self._costly = 0

    def check(self, offer: Offer) -> None:
        """Raise the error that `offer` would end in, if that is known before it is tried."""
        if offer.method in OVER_PERMIT2 and self._order.at_once:
            raise _waits(offer)
        needs_rpc = offer.method in OVER_PERMIT2 or (self._order.blockhash is None and _needs_blockhash(offer))
        error = self._unreachable.get(offer.network.caip2) if needs_rpc else None
        if error is not None:
            raise error
        if self._costly >= MAX_TRIED:
            raise ChallengeError(f"it was not tried, since {MAX_TRIED} others could not be paid")

    def failed(self, offer: Offer, error: X402Error) -> None:
        """Note that `offer` cannot be paid."""
        self.failures.append((offer, error))
        if isinstance(error, RpcError):
            self._unreachable[offer.network.caip2] = error
        if not isinstance(error, Refused) or error.reason not in _BY_POLICY:
            self._costly += 1


def _needs_blockhash(offer: Offer) -> bool:
    return offer.network.family == "svm" and not isinstance(offer.requirement.extra.get(BLOCKHASH), str)


def ended() -> Refused:
    """The refusal while the proxy is shutting down."""
    return Refused("shutting_down", "This x402 proxy is shutting down. Nothing was paid. Ask again later.")


def cancelled() -> Refused:
    """The refusal where the client has left before anything was signed; nobody reads it."""
    return Refused(CLIENT_LEFT, "The client has cancelled the request. Nothing was signed.")


def _waits(offer: Offer) -> EvmRpcError:
    return EvmRpcError(f"{offer} can only be paid after the chain was asked. Nothing was paid.")


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
        self.rules = rules_of(settings)
        self.payers = payers_of(wallets, settings)
        """The paying address for each family of chains; None in a dry run without a wallet."""
        self._challenges = Challenges(self.rules, self.payers)
        self._identifiers = Identifiers()
        self.forecast = Forecast() if settings.preauthorize else None
        """Predicts challenges from earlier ones; None without `x402_preauthorize`."""
        self._rpc = SolanaRpc(settings.solana_rpc, settings.rpc_timeout, clock=clock)
        self._ceilings = Ceilings(
            ledger, settings.schemes, lambda network: rpcs(network, settings), settings.rpc_timeout, clock
        )
        self.balances = Balances(lambda network: named_rpcs(network, settings), settings.rpc_timeout, clock)
        self._signer = Signer(wallets, settings.max_validity, self._rpc, clock)
        self._unsigned: set[int] = set()
        """Rows of the ledger that are reserved for payments which are being signed."""
        self._is_closed = False

    async def pay(
        self,
        required: PaymentRequired,
        purpose: Purpose,
        replaces: int | None = None,
        job: str = "",
        *,
        blockhash: Blockhash | None = None,
        at_once: bool = False,
        syncs_later: bool = False,
        instead_of: Payment | None = None,
        is_cancelled: Callable[[], bool] = bool,
    ) -> Payment:
        """The payment for `required`: admitted, reserved in the ledger, and signed. The caller sends or releases it.

        `replaces` is the ledger's row of an earlier payment for the same request, or of the one that started `job`.
        `blockhash` is used instead of the challenge's. `instead_of` is a payment for the same request that the gateway
        says it did not take: over Permit2 its nonce is used again, so that only one of the two can be settled. With
        `at_once` the coroutine waits for nothing, on EVM or with a `blockhash`, and does not pay over Permit2. With it
        and with `syncs_later`, the caller awaits `Payment.durable` before it is sent. `is_cancelled` is asked at
        the beginning, and directly before the signature, when everything else has been awaited.

        Where an entry cannot be paid, the next best is tried; after the last, the error is the first entry's and names
        the reasons for all. After any error nothing is reserved. Raises Refused (policy, budget, no wallet, dry run,
        JobPaid, CLIENT_LEFT), LedgerError and RpcError (no blockhash): nothing was signed. Raises ChallengeError: an
        entry is too large to be echoed; a signature made by then is discarded.
        """
        self._check_wanted(is_cancelled)
        await self.read_whole(purpose, at_once=at_once)
        later = syncs_later or at_once
        order = _Order(required, purpose, replaces, job, blockhash, at_once, later, instead_of, is_cancelled)
        tries = _Tries(order)
        offers = self._challenges.offered(required).offers
        if not at_once and any(offer.method in OVER_PERMIT2 for offer in offers):
            offers = self._ceilings.order(offers, purpose)
        for offer in offers:
            try:
                tries.check(offer)
                payment = await self._paid(order, offer)
            except (ChallengeError, RpcError, Refused) as error:  # noqa: PERF203 - one round, but for what fails
                if isinstance(error, Refused) and error.reason not in _NEXT_MAY_DO:
                    raise
                tries.failed(offer, error)
            else:
                if tries.failures and not at_once:
                    why = "; ".join(f"{other}: {refusals.reason_of(error)}" for other, error in tries.failures)
                    logger.info("x402: %s is paid, since another way was not open: %s", offer, why)
                return payment
        raise policy.none_of(tries.failures, required, self.rules, self.payers)

    async def _paid(self, order: _Order, offer: Offer) -> Payment:
        budgets = policy.admit(offer, order.purpose, self.rules)
        if self.settings.dry_run:
            raise refusals.dry_run(offer, order.purpose)
        payer = self.payers[offer.network.family]
        if payer is not None:
            self.balances.check(order.purpose.host, offer, payer)
        look = None
        if offer.method in OVER_PERMIT2 and payer is not None:
            self.outcomes.flush()  # a settled payment can take no more money
            look = await self._ceilings.look(offer, payer, order.required)
        nonce = self._nonce(order, offer)
        reserve = functools.partial(self._reserve, order, offer, budgets, nonce)
        row = reserve() if order.at_once else await _patiently(reserve)
        self._unsigned.add(row)
        try:
            permit_nonce = None
            if look is not None and payer is not None:
                permit_nonce = self._ceilings.permit_nonce(offer, payer, row, look, order.required)
            durable = self.ledger.durable_soon() if self.settings.ledger_sync else None
            blockhash = ""
            if offer.network.family == "svm":
                blockhash = await self._signer.blockhash(offer, order.blockhash)
            self._check_wanted(order.is_cancelled)
            signed = self._signer.sign(offer, nonce, blockhash, permit_nonce)
            identifier = self._identifiers.new(row, order.replaces, nonce)
            offered = self._challenges.offered(order.required)
            later = durable if order.syncs_later else None
            payment = payment_of(order.required, offered, offer, signed, row=row, identifier=identifier, durable=later)
            if durable is not None and later is None:
                await durable
            if self._is_closed:
                raise ended()
        except BaseException:
            if self._is_closed:  # so was the ledger, and what waited for it has failed
                raise ended() from None
            self.release(row)
            raise
        finally:
            self._unsigned.discard(row)
        self.balances.signed(offer, payment.payer)
        if permit_nonce is not None:
            self._ceilings.signed(offer, payment.payer, row, permit_nonce, self.clock() + payment.window)
        return payment

    def _check_wanted(self, is_cancelled: Callable[[], bool]) -> None:
        """Raise Refused if a payment would never leave: its client or the proxy has gone. Nothing is signed then."""
        if self._is_closed:
            raise ended()
        if is_cancelled():
            raise cancelled()

    def _nonce(self, order: _Order, offer: Offer) -> bytes:
        before = order.instead_of
        if before is None or not {offer.method, before.offer.method} <= set(OVER_PERMIT2):
            return self._entropy(NONCE_BYTES)
        same = before.offer.network == offer.network and before.payer == self.payers.get("evm")
        return bytes.fromhex(before.reference[2:]) if same else self._entropy(NONCE_BYTES)

    def _reserve(self, order: _Order, offer: Offer, budgets: Sequence[Budget], nonce: bytes) -> int:
        purpose, requirement = order.purpose, offer.requirement
        wallet = self.wallets.for_family(offer.network.family)
        assert wallet is not None
        intent = Intent(
            *(purpose.method, purpose.host, purpose.path, purpose.model),
            offer.network.caip2,
            offer.asset.address,
            requirement.pay_to,
            requirement.amount,
            offer.micro_usd,
            order.replaces,
            order.job,
            offer.method,
            wallet.address,
            chain_nonce(offer, nonce),
            purpose.client,
            *self._spelling(purpose),
            exact_micro_usd=offer.exact,
        )
        try:
            return self.ledger.reserve(intent, budgets)
        except OverBudget as over:
            raise self._over_budget(over, offer, purpose) from None

    def _over_budget(self, over: OverBudget, offer: Offer, purpose: Purpose) -> Refused:
        """The refusal that the client gets."""
        doubt = over.budget.scope.doubt(purpose.asked()) if self.rules.limits else ""
        its = over.budget, over.spent, over.returns_in
        return refusals.over_budget(offer, *its, self.clock(), awaited=over.awaited, doubt=doubt)

    def _spelling(self, purpose: Purpose) -> tuple[str, bool, bool]:
        """The fields of an `Intent` by which budgets for models and paths count it."""
        if not self.rules.limits:
            return normal_path(purpose.path)[0], False, False
        asked = purpose.asked()
        return asked.normal_path, bool(asked.model_doubt) or len(asked.models) > 1, bool(asked.path_doubt)

    async def renew(
        self,
        required: PaymentRequired,
        purpose: Purpose,
        first: Submitted,
        nonce: bytes,
        is_cancelled: Callable[[], bool] = bool,
    ) -> Payment:
        """Sign the EVM payment `first` again, for `required`, over the same `nonce`.

        The token, or Permit2, accepts each nonce of a wallet once, so only one of all these signatures can be settled,
        and the ledger's row of `first` counts for them all. The caller ensures that wallet, network, asset and payee
        are the same, and the amount is not higher. Raises what `pay` does.
        """
        offered = self._challenges.offered(required)
        offers = [offer for offer in offered.offers if offer.method == first.scheme]
        if not offers or first.scheme in OVER_PERMIT2:
            raise Refused(
                "job_not_payable",
                f"The gateway asks to be paid again for a job that was paid by {first.scheme}. Nothing was paid: that "
                "is done only in the same way, and never over Permit2.",
            )
        offer, row = offers[0], first.row
        await self.read_whole(purpose)
        budgets = policy.admit(offer, purpose, self.rules)
        if self.settings.dry_run:
            raise refusals.dry_run(offer, purpose)
        assert offer.network.family == "evm"
        self._check_wanted(is_cancelled)
        # From now on it counts as long as the new signature can live, also where its budget's period is over.
        try:
            self.ledger.renew(row, longest(offer.method, self.settings.max_validity), budgets)
        except OverBudget as over:
            raise self._over_budget(over, offer, purpose) from None
        signed = self._signer.sign(offer, nonce)
        return payment_of(required, offered, offer, signed, row=row, identifier=self._identifiers.get(row))

    def pay_ahead(self, prediction: Prediction, purpose: Purpose) -> Payment | None:
        """The payment for a predicted challenge, made like that of `pay`, with the same errors.

        Waits for nothing; `Payment.durable` is left to the caller. None: no recent blockhash is at hand.
        """
        required = prediction.required
        network = self.settings.networks.get(required.accepts[0].network)
        if network is None or network.family != "svm":
            return _at_once(self.pay(required, purpose, at_once=True))
        blockhash = self._blockhash_at_hand(prediction)
        renewed = None if blockhash is None else with_blockhash(required, blockhash.value, blockhash.height)
        return None if renewed is None else _at_once(self.pay(renewed, purpose, blockhash=blockhash, at_once=True))

    def _blockhash_at_hand(self, prediction: Prediction) -> Blockhash | None:
        """The newest blockhash known, from a challenge or the RPC. Starts a look-up before it is too old."""
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

    async def read_whole(self, purpose: Purpose, *, at_once: bool = False) -> None:
        """Read the request's body if limits depend on it, in a thread if that takes long.

        Raises Refused: it takes too long, and the caller cannot wait.
        """
        if self.rules.limits and purpose.whole is not None and purpose.whole.is_large:
            if at_once:
                raise Refused("over_request_limit", "The request is too large to be looked through before it is sent.")
            await asyncio.get_running_loop().run_in_executor(None, purpose.asked)

    def declined(self, offer: Offer) -> None:
        """Note that a seller refuses payments like `offer` on principle, so that its network is paid another way."""
        if offer.method in OVER_PERMIT2:
            self._ceilings.refused(offer)

    def close(self) -> None:
        """Release the reservations of payments that are being signed, and refuse those: the ledger closes."""
        for row in self._unsigned:
            self.release(row)
        self._is_closed = True

    def release(self, row: int) -> None:
        """Release a reservation. Never raises: one that cannot be released lapses by itself."""
        try:
            self.ledger.release(row)
        except LedgerError as error:
            logger.warning("x402: a reservation could not be released and lapses by itself: %s", error)
