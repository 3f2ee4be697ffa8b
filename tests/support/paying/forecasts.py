"""A gateway that a forecast learns from: questions, challenges, and what is foretold of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mitmproxy_x402.forecast.forecast import TRUST, Forecast, Prediction
from mitmproxy_x402.forecast.quote import Question
from mitmproxy_x402.protocol.messages import PaymentRequired
from mitmproxy_x402.protocol.payment_required import read_payment_required
from support import challenges

PLACE = ("POST", "https://sol.blockrun.ai:443", "/v1/chat/completions")
NOW = 1_800_000_000.0
WORDS = '["Payment required", {}]'
ENOUGH = TRUST + 1
"""Equal requests after which the next is foretold."""


def read(message: dict[str, Any]) -> PaymentRequired:
    required = read_payment_required(None, json.dumps(message).encode())
    assert required is not None
    return required


def asked(size: int, limit: int | None = 100, characters: int | None = None, model: str = "m") -> Question:
    return Question(PLACE, model, size, size if characters is None else characters, limit)


@dataclass
class Shop:
    """A forecast and the clock it is asked by."""

    now: float = NOW

    def __post_init__(self) -> None:
        self.forecast = Forecast()

    def sell(
        self, question: Question, price: int, message: dict[str, Any] | None = None, *, spoke: bool = True
    ) -> None:
        """One ordinary handshake."""
        required = read(challenges.evm(str(price)) if message is None else message)
        self.forecast.learn(question, required, required.accepts[0], WORDS, self.now)
        self.forecast.acknowledged(question, spoke)

    def teach(self, question: Question, price: int, message: dict[str, Any] | None = None) -> None:
        for _ in range(ENOUGH):
            self.sell(question, price, message)

    def predict(self, question: Question) -> Prediction | None:
        said = self.forecast.predict(question, self.now)
        assert said is None or self.forecast.expects(question.place)
        return said

    def price(self, question: Question) -> int | None:
        said = self.predict(question)
        return None if said is None else said.required.accepts[0].amount
