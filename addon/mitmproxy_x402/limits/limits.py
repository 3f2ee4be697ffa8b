"""Budgets over a rolling period, and limits for some models or paths. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ..gateways.blockrun import ALIAS
from ..protocol.amounts import format_usd

Period = Literal["", "hour", "day", "month"]
SECONDS: Mapping[Period, int] = {"hour": 3600, "day": 24 * 3600, "month": 30 * 24 * 3600}
"""Periods roll: `10/day` means 10 within any 24 hours, so that nobody spends twice around midnight."""


@dataclass(frozen=True)
class Asked:
    """What a request may be for, as far as limits go by it."""

    models: tuple[str, ...]
    """Every name of a model that some server would read in it; none where it names none."""
    normal_path: str
    """The form that all spellings of the path share: decoded, without empty and dotted parts, in lower case."""
    model_doubt: str = ""
    """Why the models may be others, half a sentence; empty where they are certain."""
    path_doubt: str = ""
    """The same of the path."""


@dataclass(frozen=True)
class Scope:
    """Which requests are meant, whatever their case. An empty pattern means every request; `*` and `?` are wild.

    A slash at the end of a path makes no difference, so `/v1/images/*` means `/v1/images`, too.
    """

    model: str = ""
    path: str = ""

    def covers(self, asked: Asked) -> bool:
        """Whether a request is, or may be, meant."""
        model, path = self.patterns
        its_path = asked.normal_path.removeprefix(ALIAS)
        return bool(
            (not model or asked.model_doubt or any(fnmatchcase(named.lower(), model) for named in asked.models))
            and (not path or asked.path_doubt or fnmatchcase(its_path, path) or fnmatchcase(f"{its_path}/", path))
        )

    @property
    def patterns(self) -> tuple[str, str]:
        """Of model and path, in the form that requests are compared in: lower case, the path without the gateway's
        alias and without a slash at its end.
        """
        path = self.path.lower().removeprefix(ALIAS)
        return self.model.lower(), path.rstrip("/") or path

    def doubt(self, asked: Asked) -> str:
        """Why it is not certain that the request is meant, half a sentence; empty where it is."""
        return (self.model and asked.model_doubt) or (self.path and asked.path_doubt)

    def __str__(self) -> str:
        parts = [f"model {self.model}" if self.model else "", f"path {self.path}" if self.path else ""]
        return " and ".join(part for part in parts if part)


EVERYTHING = Scope()
NOTHING_ASKED = Asked((), "")
"""Where no limit goes by what is asked for."""


@dataclass(frozen=True)
class Budget:
    """At most `micro_usd` (millionths of a dollar) within any `period`; the empty period means for ever."""

    micro_usd: int
    period: Period
    scope: Scope = EVERYTHING

    @property
    def seconds(self) -> int | None:
        """Length of the period; None: for ever."""
        return SECONDS.get(self.period)

    def __str__(self) -> str:
        period = f"/{self.period}" if self.period else " in all"
        return f"{format_usd(self.micro_usd)}{period}" + (f" for {self.scope}" if str(self.scope) else "")

    def left(self, spent: int) -> str:
        """What `spent` (millionths of a dollar) leaves of it: `9.98 of 10/day`."""
        return f"{format_usd(max(self.micro_usd - spent, 0))} of {self}"


@dataclass(frozen=True)
class Limit:
    """One `[[limit]]` of x402.toml. It only tightens: the general limit and budgets hold besides."""

    scope: Scope
    max_request: int | None
    """Millionths of a dollar; None: no limit of its own."""
    budgets: tuple[Budget, ...]


def for_request(limits: Sequence[Limit], asked: Asked) -> list[Limit]:
    """The limits that cover this request, or may cover it."""
    return [limit for limit in limits if limit.scope.covers(asked)]
