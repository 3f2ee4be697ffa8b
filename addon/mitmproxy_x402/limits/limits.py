"""The types of budgets over rolling periods, and of limits for some models or paths. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from ..gateways.blockrun import ALIAS
from ..protocol.amounts import format_usd
from ..quick_init import quick_init

Period = Literal["", "hour", "day", "month"]
SECONDS: Mapping[Period, int] = {"hour": 3600, "day": 24 * 3600, "month": 30 * 24 * 3600}
"""Periods roll: `10/day` means 10 within any 24 hours, so that nobody spends twice around midnight."""


@quick_init
@dataclass(frozen=True)
class Asked:
    """The models and the path of a request, which limits compare."""

    models: tuple[str, ...]
    """All model names that some server could read in the request; empty: it names none."""
    normal_path: str
    """The path's normal form: decoded, without empty and dotted segments, in lower case."""
    model_doubt: str = ""
    """Half a sentence on why the models are not certain; empty: they are."""
    path_doubt: str = ""
    """Half a sentence on why the path is not certain; empty: it is."""


@dataclass(frozen=True)
class Scope:
    """Which requests are meant, whatever their case. An empty pattern means every request; `*` and `?` are wild.

    A slash at the end of a path makes no difference, so `/v1/images/*` means `/v1/images`, too.
    """

    model: str = ""
    path: str = ""

    def covers(self, asked: Asked) -> bool:
        """Whether the scope covers the request, or may cover it."""
        model, path = self.patterns
        its_path = asked.normal_path.removeprefix(ALIAS)
        return bool(
            (not model or asked.model_doubt or any(fnmatchcase(named.lower(), model) for named in asked.models))
            and (not path or asked.path_doubt or fnmatchcase(its_path, path) or fnmatchcase(f"{its_path}/", path))
        )

    @property
    def patterns(self) -> tuple[str, str]:
        """The patterns of model and path as they are compared: in lower case, the path without the gateway's alias and
        without a trailing slash.
        """
        path = self.path.lower().removeprefix(ALIAS)
        return self.model.lower(), path.rstrip("/") or path

    def doubt(self, asked: Asked) -> str:
        """Half a sentence on why it is not certain that the request is covered; empty: it is."""
        return (self.model and asked.model_doubt) or (self.path and asked.path_doubt)

    def __str__(self) -> str:
        parts = [f"model {self.model}" if self.model else "", f"path {self.path}" if self.path else ""]
        return " and ".join(part for part in parts if part)


EVERYTHING = Scope()
NOTHING_ASKED = Asked((), "")
"""Stands for requests that were not read, because no limit depends on models or paths."""


@dataclass(frozen=True)
class Budget:
    """At most `micro_usd` (millionths of a dollar) within any `period`; the empty period means for ever."""

    micro_usd: int
    period: Period
    scope: Scope = EVERYTHING

    @property
    def seconds(self) -> int | None:
        """Length of the period in seconds; None: for ever."""
        return SECONDS.get(self.period)

    def __str__(self) -> str:
        period = f"/{self.period}" if self.period else " in all"
        return f"{format_usd(self.micro_usd)}{period}" + (f" for {self.scope}" if str(self.scope) else "")

    def in_words(self) -> str:
        """The budget as text: `10 USDC a day`."""
        period = f"{'an' if self.period == 'hour' else 'a'} {self.period}" if self.period else "in all"
        return f"{format_usd(self.micro_usd)} USDC {period}" + (f" for {self.scope}" if str(self.scope) else "")

    def left(self, spent: int) -> str:
        """The rest after `spent` (millionths of a dollar), as text: `9.98 of 10/day`."""
        return f"{format_usd(max(self.micro_usd - spent, 0))} of {self}"


@dataclass(frozen=True)
class Limit:
    """One `[[limit]]` of x402.toml. The general limit and budgets apply in addition."""

    scope: Scope
    max_request: int | None
    """Most millionths of a dollar per request; None: only the general limit."""
    budgets: tuple[Budget, ...]


def for_request(limits: Sequence[Limit], asked: Asked) -> list[Limit]:
    """The limits that cover this request, or may cover it."""
    return [limit for limit in limits if limit.scope.covers(asked)]
