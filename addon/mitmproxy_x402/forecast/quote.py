"""What is known of the prices of one model at one endpoint, and the rules that explain them. Pure.

One rule is that equal requests cost the same. Each other rule is a formula (`fit`) over one of the gateway's measures
of the body's size and over the output limit. A rule is used once it has predicted the last challenges exactly, and
only while no other rule that fits as well predicts something else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from ..gateways import Measure
from ..limits.request_model import UNCLEAR, read_output_limit
from ..quick_init import quick_init
from .fit import Formula, Span, fit
from .terms import Numbers, Terms

MAX_POINTS = 10
"""Most requests in a quote's memory."""
MAX_BODY = 256 * 1024
"""Most bytes of a request's body; for larger ones nothing is predicted."""

Place = tuple[str, str, str]
"""Method, upstream (scheme, host and port), path without its query."""
Rule = str


@quick_init
@dataclass(frozen=True)
class Question:
    """The properties of a request on which its price may depend."""

    place: Place
    model: str | None
    size: int
    """Bytes of the body, as it is sent."""
    characters: int
    limit: int | None
    """Output limit in tokens; None: the request sets none."""

    @property
    def measures(self) -> tuple[int, int, int | None]:
        """Values that are equal for requests that every rule treats alike."""
        return self.size, self.characters, self.limit


_CONTINUATION = bytes(range(0x80, 0xC0))


def read_question(place: Place, model: str | None, body: bytes) -> Question | None:
    """The Question of a request; None: its body is too large, or its output limit is unclear."""
    if len(body) > MAX_BODY:
        return None
    limit = read_output_limit(body)
    if limit == UNCLEAR:
        return None
    characters = len(body) if body.isascii() else len(body.translate(None, _CONTINUATION))
    return Question(place, model, len(body), characters, limit)


SAME: Rule = "same"


class Quote:
    """The known prices of one model at one place."""

    def __init__(self, terms: Terms, trust: int, measures: Mapping[Rule, Measure]) -> None:
        self.terms = terms
        self._measures = measures
        self.trust = trust
        """Exact predictions in a row that are needed before a payment is sent ahead."""
        self.confirmed = 0.0
        self.challenge_text = ""
        self.acknowledged = False
        """Whether the last answer to a payment acknowledged it."""
        self._points: OrderedDict[tuple[int, int, int | None], tuple[Question, Numbers]] = OrderedDict()
        self._streaks: dict[Rule, int] = {}
        self._fits: dict[tuple[Rule, bool], _Fit] = {}
        self._fit_of_series: dict[_Series, _Fit] = {}

    @property
    def ready(self) -> bool:
        """Whether there is a rule that may be used."""
        return self.acknowledged and any(streak >= self.trust for streak in self._streaks.values())

    def learn(self, question: Question, numbers: Numbers) -> bool:
        """Remember `numbers`. Returns False if they surprise: other numbers were known or predicted for the request."""
        expected = {numbers, self.foretell(question), self._say(SAME, question)} - {None}
        for rule in (SAME, *self._measures):
            foretold = self._say(rule, question)
            if foretold is not None:
                self._streaks[rule] = self._streaks.get(rule, 0) + 1 if foretold == numbers else 0
        self._points.pop(question.measures, None)
        self._points[question.measures] = question, numbers
        if len(self._points) > MAX_POINTS:
            self._points.popitem(last=False)
        self._fits.clear()
        self._fit_of_series.clear()
        return len(expected) == 1

    def foretell(self, question: Question) -> Numbers | None:
        """The numbers on which all usable rules agree, and that no other fitting rule contradicts.

        None: there are none.
        """
        trusted = [rule for rule, streak in self._streaks.items() if streak >= self.trust]
        if SAME in trusted and (known := self._say(SAME, question)) is not None:
            return known
        said = {self._say(rule, question) for rule in trusted} - {None}
        if len(said) != 1:
            return None
        numbers = said.pop()
        spans = [self._spans(rule, question) for rule in self._measures]
        certain = [(number, number) for number in numbers or ()]
        return numbers if all(each == certain for each in spans if each) else None

    def _say(self, rule: Rule, question: Question) -> Numbers | None:
        if rule == SAME:
            found = self._points.get(question.measures)
            return found and found[1]
        spans = self._spans(rule, question)
        return tuple(low for low, _ in spans) if spans and all(low == high for low, high in spans) else None

    def _spans(self, rule: Rule, question: Question) -> list[Span] | None:
        """The span of each number by a rule's formulas; None: there is no formula, or it does not cover the request."""
        x, y = self._size(rule, question), question.limit or 0
        spans: list[Span] = []
        for formula in self._formulas(rule, question.limit is None) or ():
            span = formula(x, y)
            if span is None:
                return None
            spans.append(span)
        return spans

    def _size(self, rule: Rule, question: Question) -> int:
        return self._measures[rule](question.size, question.characters)

    def _formulas(self, rule: Rule, unlimited: bool) -> _Fit:
        """A formula for each number, from the requests with an output limit, or from those without."""
        if (rule, unlimited) not in self._fits:
            points = [point for point in self._points.values() if (point[0].limit is None) == unlimited]
            series = tuple((self._size(rule, question), question.limit or 0, numbers) for question, numbers in points)
            if series not in self._fit_of_series:  # in ASCII text bytes and characters are the same series
                self._fit_of_series[series] = _fit(series)
            self._fits[rule, unlimited] = self._fit_of_series[series]
        return self._fits[rule, unlimited]


_Fit = tuple[Formula, ...] | None
_Series = tuple[tuple[int, int, Numbers], ...]


def _fit(series: _Series) -> _Fit:
    numbers_at = {(x, y): numbers for x, y, numbers in series}
    if len(numbers_at) < 2 or any(numbers_at[x, y] != numbers for x, y, numbers in series):
        return None
    columns = list(zip(*numbers_at.values(), strict=True))
    formulas: dict[tuple[int, ...], Formula] = {}  # several numbers are often the same
    # The price last: numbers in texts refute a wrong measure with less work.
    for column in reversed(columns):
        if column not in formulas or column is columns[0]:
            points = [(x, y, value) for (x, y), value in zip(numbers_at, column, strict=True)]
            formula = fit(points, price=column is columns[0])
            if formula is None:
                return None
            formulas[column] = formula
    return tuple(formulas[column] for column in columns)
