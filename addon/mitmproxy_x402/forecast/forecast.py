"""Predicts the challenge that a request will get, from the challenges that earlier requests got.

There is one `Quote` for each method, upstream, path and model: the terms of the last challenge and the prices of the
last requests. It is used once it has predicted TRUST (3) challenges in a row exactly. A surprise (other terms, another
price for an equal request, a wrong prediction) clears it, and each payment that was sent ahead in vain doubles the
number of exact predictions that it needs.

A prediction can be out of date: the gateway may have lowered its price or made the model free. So after CONFIRM_SECONDS
the next request is sent unpaid, to get a challenge. Nothing is predicted for a gateway whose answers do not acknowledge
payments: there, a free answer and a paid one look the same.

Pure: no clock, no I/O. Times are Unix seconds that come in as arguments.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ..gateways import gateway_of
from ..protocol.messages import PaymentRequired, PaymentRequirements
from ..quick_init import quick_init
from .quote import Place, Question, Quote
from .terms import Terms, take_apart

TRUST = 3
"""Challenges in a row that a rule must have predicted exactly before it is used."""
MOST_TRUST = 48
"""The most that is required after wrong predictions."""
CONFIRM_SECONDS = 600
"""Seconds after its last challenge for which a quote is used."""
MAX_QUOTES = 300
"""Most quotes in memory; the least recently used are dropped."""


@quick_init
@dataclass(frozen=True)
class Prediction:
    """The challenge that the gateway is expected to send."""

    question: Question
    required: PaymentRequired
    """The challenge, with the one entry that was paid before. Its blockhash is that of the last challenge."""
    received: float
    """When the last challenge came, Unix seconds."""
    challenge_text: str
    """What the last challenge said besides its terms, as `payment.challenge.challenge_text` gives it."""
    quote: Quote = field(repr=False)


@dataclass
class Tally:
    """Counts of payments that were sent ahead, by outcome."""

    sent: int = 0
    right: int = 0
    """Accepted."""
    wrong: int = 0
    """Rejected in any way."""
    unproven: int = 0
    """Answered by an error, not at all, or without acknowledging the payment."""

    def __str__(self) -> str:
        parts = [str(self.sent)]
        if self.sent:
            parts += [f"{self.right} right", f"{self.wrong} wrong"]
        if self.unproven:
            parts.append(f"{self.unproven} not acknowledged")
        return ", ".join(parts)


class Forecast:
    """All quotes, and the counts of payments that were sent ahead."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._quotes: OrderedDict[_Key, Quote] = OrderedDict()
        self._ready: dict[Place, set[str | None]] = {}

    def expects(self, place: Place) -> bool:
        """Whether anything can be predicted for `place`; if not, the request need not be measured."""
        return place in self._ready

    def learn(
        self,
        question: Question,
        required: PaymentRequired,
        entry: PaymentRequirements,
        challenge_text: str | None,
        now: float,
    ) -> None:
        """Learn from a challenge of which `entry` was chosen.

        `challenge_text` is what it said besides its terms; None: it answered a payment.
        """
        key = _key(question)
        taken = take_apart(required, entry)
        if taken is None:
            self._replace(key, None)
            return
        terms, numbers = taken
        quote = self._quotes.get(key)
        if quote is None or quote.terms.text != terms.text or not quote.learn(question, numbers):
            quote = _anew(quote, terms, question.place)
            quote.learn(question, numbers)
        quote.terms, quote.confirmed = terms, now
        if challenge_text is not None:
            quote.challenge_text = challenge_text
        self._replace(key, quote)

    def acknowledged(self, question: Question, spoke: bool) -> None:
        """Note whether the answer to an ordinary payment acknowledged it (`spoke`)."""
        quote = self._quotes.get(_key(question))
        if quote is not None:
            quote.acknowledged = spoke
            self._replace(_key(question), quote)

    def predict(self, question: Question, now: float) -> Prediction | None:
        """The expected challenge; None: too little is known."""
        quote = self._quotes.get(_key(question))
        if quote is None or not quote.ready or not 0 <= now - quote.confirmed <= CONFIRM_SECONDS:
            return None
        numbers = quote.foretell(question)
        if numbers is None:
            return None
        self._quotes.move_to_end(_key(question))
        return Prediction(question, quote.terms.ask(numbers), quote.confirmed, quote.challenge_text, quote)

    def sent(self) -> None:
        """Count a payment that was sent ahead."""
        self.tally.sent += 1

    def right(self, prediction: Prediction) -> None:
        """Note that the payment was accepted."""
        self.tally.right += 1
        prediction.quote.trust = max(TRUST, prediction.quote.trust - 1)

    def wrong(self, prediction: Prediction) -> None:
        """Note that the payment was rejected, and clear its quote."""
        self.tally.wrong += 1
        self._give_up(prediction)

    def unproven(self, prediction: Prediction) -> None:
        """Note that it is unknown whether the gateway would have asked for the payment; clears its quote, too."""
        self.tally.unproven += 1
        self._give_up(prediction)

    def _give_up(self, prediction: Prediction) -> None:
        key = _key(prediction.question)
        if self._quotes.get(key) is prediction.quote:  # several may be under way at once
            quote = _anew(prediction.quote, prediction.quote.terms, prediction.question.place)
            quote.trust, quote.acknowledged = min(2 * prediction.quote.trust, MOST_TRUST), False
            self._replace(key, quote)

    def _replace(self, key: _Key, quote: Quote | None) -> None:
        self._quotes.pop(key, None)
        self._mark(key, quote)
        if quote is not None:
            self._quotes[key] = quote
        if len(self._quotes) > MAX_QUOTES:
            self._mark(self._quotes.popitem(last=False)[0], None)

    def _mark(self, key: _Key, quote: Quote | None) -> None:
        place, model = key
        models = self._ready.get(place, set())
        if quote is not None and quote.ready:
            self._ready[place] = models | {model}
        elif models - {model}:
            self._ready[place] = models - {model}
        else:
            self._ready.pop(place, None)


_Key = tuple[Place, str | None]


def _key(question: Question) -> _Key:
    return question.place, question.model


def _anew(before: Quote | None, terms: Terms, place: Place) -> Quote:
    """A quote without observations; how far to trust it, and whether the gateway acknowledges payments, is kept."""
    measures = gateway_of(urlsplit(place[1]).hostname or "").measures
    quote = Quote(terms, TRUST if before is None else before.trust, measures)
    if before is not None:
        quote.challenge_text, quote.acknowledged = before.challenge_text, before.acknowledged
    return quote
