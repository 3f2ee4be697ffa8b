"""Computes the price of a request, and writes the 402 in the forms recorded from the real gateway."""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...protocol import headers
from ...protocol.messages import AtomicUnits
from ...protocol.payment_required import PAYMENT_REQUIRED
from ..chains.circle import VALIDITY
from ..chains.evm_ledger import EvmLedger
from ..chains.interface import Chain
from ..chains.permit2 import SPONSORING
from ..config import SandboxConfig, Scheme
from ..records import ReceivedRequest
from ..wire import Pairs

BYTES_PER_TOKEN = 4
DEFAULT_OUTPUT = 1_024
"""Output tokens that a model request without a limit is quoted for."""
MAX_OFFERS = 100_000

_OUTPUT_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_EXTENSIONS = {"bazaar": {"info": {"input": {"type": "http"}, "sandbox": True}}}


@dataclass(frozen=True)
class Rates:
    """What is charged, in atomic units; `Rates(0, 0, 0)` gives everything away."""

    minimum: int = 1_000
    """No request costs less: a tenth of a cent, as on the real gateway."""
    input_token: int = 1
    output_token: int = 5


GIFT = Rates(0, 0, 0)


@dataclass(frozen=True)
class Quote:
    """The price of one request: `amount = max(1000, ceil(bytes / 4) * 1 + output_limit * 5)` atomic units at first."""

    amount: AtomicUnits
    input_tokens: int
    output_tokens: int

    @property
    def description(self) -> str:
        """The text that the gateway writes into its challenges."""
        return f"Sandbox API call (~{self.input_tokens} input, {self.output_tokens} max output tokens)"


CEILING = 10
"""How many times as much an output token costs in a ceiling as in an exact price: on the real gateway an exact price
covers a tenth of the output limit."""
BYTES_PER_OUTPUT_TOKEN = 40
"""Bytes of an answer on the wire that count as one output token: a stream says little with many bytes."""


def due(scheme: Scheme, price: Quote, rates: Rates) -> AtomicUnits:
    """What has to be signed for a request of this `price` that is paid by `scheme`."""
    if scheme != "upto":
        return price.amount
    most = price.input_tokens * rates.input_token + price.output_tokens * rates.output_token * CEILING
    return AtomicUnits(max(price.amount, most))


def metered(price: Quote, rates: Rates, sent: int) -> AtomicUnits:
    """What an answer of `sent` bytes costs under a ceiling, which the caller holds it to."""
    tokens = -(-sent // BYTES_PER_OUTPUT_TOKEN)
    return AtomicUnits(price.input_tokens * rates.input_token + tokens * rates.output_token * CEILING)


def quote(request: ReceivedRequest, rates: Rates) -> Quote:
    """The price of `request`, by its body's length and its output limit; without a model, by the length alone."""
    input_tokens = -(-len(request.body) // BYTES_PER_TOKEN)
    output_tokens = _output_limit(request.json)
    amount = input_tokens * rates.input_token + output_tokens * rates.output_token
    return Quote(AtomicUnits(max(rates.minimum, amount)), input_tokens, output_tokens)


def _output_limit(body: Mapping[str, Any]) -> int:
    generation = body.get("generationConfig")
    places = [body, generation if isinstance(generation, dict) else {}]
    for place in places:
        for name in (*_OUTPUT_LIMITS, "maxOutputTokens"):
            if type(place.get(name)) is int and place[name] >= 0:
                return int(place[name])
    return DEFAULT_OUTPUT if "model" in body or "contents" in body else 0


@dataclass(frozen=True)
class Offer:
    """One entry that was put into a challenge, and what it was for."""

    chain: Chain
    entry: Mapping[str, Any]
    amount: AtomicUnits
    """The amount to be signed: the price, or the ceiling with `upto`."""
    path: str
    resource: Mapping[str, Any]
    scheme: Scheme = "exact"


class PriceList:
    """Writes challenges and remembers the entries it offered.

    A payment has to name one of them word for word, or one that would be offered for its request now.
    """

    def __init__(self, config: SandboxConfig, chains: Sequence[Chain], url: str) -> None:
        self._config = config
        self._chains = chains
        self._origin = url
        self._offers: OrderedDict[tuple[str, str], Offer] = OrderedDict()
        self._random = random.Random(config.shuffle)  # noqa: S311 - an order, no secret
        self.rates = Rates()

    def offered(self, entry: Mapping[str, Any], path: str) -> Offer | None:
        """The offer that `entry` is, word for word, among those made for `path`; or None."""
        return self._offers.get((path, _digest(entry)))

    def would_offer(self, entry: Mapping[str, Any], request: ReceivedRequest, price: Quote) -> Offer | None:
        """`entry` as an offer where it is what would be offered for `request` now, or is that but for its amount.

        Its blockhash is whatever the payer says: the chain knows those that it issued, and for how long they live.
        """
        for offer in self.offers(request, price):
            said, asked = dict(entry), dict(offer.entry)
            if _taken(said, "amount") != _taken(asked, "amount"):  # then its description is of that amount, too
                said, asked = _plain(said, *_DESCRIBED), _plain(asked, *_DESCRIBED)
            if _plain(said, *_NEW_EACH_TIME) == _plain(asked, *_NEW_EACH_TIME):
                return replace(offer, entry=entry, amount=AtomicUnits(int(entry["amount"])))
        return None

    def offers(self, request: ReceivedRequest, price: Quote) -> list[Offer]:
        """One offer for each scheme and network that go together."""
        return [
            self._offer(chain, scheme, request, price)
            for scheme in self._config.schemes
            for chain in self._chains
            if scheme == "exact" or chain.network.family == "evm"
        ]

    def extensions(self) -> Mapping[str, Any]:
        """What every version-2 challenge announces, and no payment may change."""
        if self._config.sponsored and {"permit2", "upto"} & set(self._config.schemes):
            return {**_EXTENSIONS, SPONSORING: {"info": _SPONSORS, "schema": {"type": "object"}}}
        return _EXTENSIONS

    def challenge(self, request: ReceivedRequest, price: Quote, error: Mapping[str, str]) -> tuple[Pairs, bytes]:
        """Headers and body of a 402. `error` is put into the body: that payment is required, or why one was refused."""
        offers = self.offers(request, price)
        for offer in offers:
            self._remember(offer)
        entries = [dict(offer.entry) for offer in offers]
        if self._config.decoys and self._config.x402_version == 2:
            sold = {offer.entry["scheme"] for offer in offers}
            entries += [decoy for decoy in map(_decoy, offers) if decoy["scheme"] not in sold]
        if self._config.unusable:
            entries.insert(0, _unusable(offers[0]))
        if self._config.shuffle is not None:
            self._random.shuffle(entries)
        refused = "code" in error
        if self._config.x402_version == 1:
            challenge: dict[str, Any] = {"x402Version": 1, "accepts": entries}
            shown = challenge if self._config.rejection_challenge or not refused else {}
            return _json_headers(), _dump({**shown, **error})
        challenge = {"x402Version": 2, "resource": offers[0].resource, "accepts": entries}
        challenge |= {"error": "Payment required", "extensions": self.extensions()}
        if refused and self._config.official:
            challenge["error"] = error["code"]
        pairs = list(_json_headers())
        body: dict[str, Any] = {}
        if self._config.rejection_challenge or not refused:
            if self._config.challenge_in != "body":
                value = headers.payment_required_header(challenge)
                pairs += [(PAYMENT_REQUIRED, value), ("X-Payment-Required", value)]
                pairs.append(("WWW-Authenticate", f'X402 requirements="{value}"'))
            if self._config.challenge_in != "header":
                body |= challenge
        if not refused:
            body |= {"price": _price(entries), "paymentInfo": _payment_info(offers[0])}
        if refused and self._config.official:
            return pairs, b"{}"
        return pairs, _dump({**body, **error})

    def _offer(self, chain: Chain, scheme: Scheme, request: ReceivedRequest, price: Quote) -> Offer:
        url = self._origin + request.path
        described = {"description": price.description, "mimeType": "application/json"}
        resource = {"url": url, **described}
        extra = chain.extra()
        if self._config.payment_flow:
            extra["paymentFlow"] = self._config.payment_flow
        amount = due(scheme, price, self.rates)
        if isinstance(chain, EvmLedger):
            extra |= _extra(scheme, chain)
        entry: dict[str, Any] = {
            "scheme": "upto" if scheme == "upto" else "exact",
            "payTo": chain.pay_to,
            "asset": chain.asset.address,
        }
        entry["maxTimeoutSeconds"] = VALIDITY if scheme == "gateway" else self._config.max_timeout_seconds
        if self._config.x402_version == 1:
            entry |= {"network": chain.network.name, "maxAmountRequired": str(amount), "extra": extra}
            entry |= {"resource": url, **described}
        else:
            if chain.network.family == "svm":
                extra = {**described, "resource": url, **extra}
            entry |= {"network": chain.network.caip2, "amount": str(amount), "extra": extra}
        return Offer(chain, entry, amount, request.path, resource, scheme)

    def _remember(self, offer: Offer) -> None:
        self._offers[offer.path, _digest(offer.entry)] = offer
        while len(self._offers) > MAX_OFFERS:
            self._offers.popitem(last=False)


_DESCRIBED = ("description",)
_NEW_EACH_TIME = ("recentBlockhash", "lastValidBlockHeight")


def _taken(entry: dict[str, Any], key: str) -> Any:
    return entry.pop(key, None)


def _plain(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """`entry` without what its `extra` has under `names`; that it has text there stays."""
    extra = {key: type(value) if key in names else value for key, value in (entry.get("extra") or {}).items()}
    return {**entry, "extra": extra}


_SPONSORS = {"description": "The sandbox pays the gas of a permit for Permit2.", "version": "1"}


def _extra(scheme: Scheme, chain: EvmLedger) -> dict[str, Any]:
    """The fields that a scheme adds to an entry's `extra`."""
    if scheme == "permit2":
        return {"assetTransferMethod": "permit2"}
    if scheme == "upto":
        return {"facilitatorAddress": chain.permit2.facilitator}
    return chain.circle.extra() if scheme == "gateway" else {}


def _unusable(offer: Offer) -> dict[str, Any]:
    """An entry whose `payTo` was mistyped: one letter in the other case, or one too few."""
    pay_to = str(offer.entry["payTo"])
    at = next((n for n, char in enumerate(pay_to) if n > 1 and char.isalpha()), 2)
    return {**offer.entry, "amount": "1", "payTo": pay_to[:at] + pay_to[at].swapcase() + pay_to[at + 1 :]}


def _decoy(offer: Offer) -> dict[str, Any]:
    """An entry that a careless payer would choose: another scheme, at a higher amount."""
    entry = {**offer.entry, "amount": str(offer.amount * 1352 // 1000 + 1)}
    if offer.chain.network.family == "evm":
        facilitator = {"facilitatorAddress": "0x14fDa13953Fc30428938E6BF950d036e77214e52"}
        return {**entry, "scheme": "upto", "extra": {**offer.entry["extra"], **facilitator}}
    extra = {"experimental": True, "minDeposit": "50058", "feePayer": offer.entry["extra"]["feePayer"]}
    extra |= {"withdrawDelay": 86400, "voucherSigner": "server"}
    return {**entry, "scheme": "batch-settlement", "maxTimeoutSeconds": 3600, "extra": extra}


def _price(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    dearest = max(int(entry["amount"]) for entry in entries)  # a trap that the real gateway has: not what exact costs
    return {"amount": f"{dearest // 10**6}.{dearest % 10**6:06d}", "currency": "USD"}


def _payment_info(offer: Offer) -> dict[str, Any]:
    return {"network": offer.chain.network.name, "asset": offer.chain.asset.symbol, "x402Version": 2}


def _json_headers() -> Pairs:
    return [("Content-Type", "application/json"), ("Cache-Control", "no-store")]


def _dump(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, sort_keys=True)
