"""Reads budgets and the values of allow lists, from any source, and the `[[limit]]` tables of x402.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import SettingsError
from ..limits.limits import EVERYTHING, SECONDS, Budget, Limit, Period, Scope
from ..protocol.patterns import EVM_ADDRESS, SVM_ADDRESS
from .suggest import unknown_key
from .values import Given, usd

LIMIT_KEYS = ("model", "path", "max_request", "budget")
_BUDGET = "expected dollars a period such as 10/day: 5, 5/hour, 5/day, 50/month, several separated by commas"
_PATTERN = re.compile(r"[!-Z\\^-~]{1,200}")
"""Printable ASCII without brackets: only `*` and `?` are wild."""
_EVM_ADDRESS = re.compile(EVM_ADDRESS)
_SVM_ADDRESS = re.compile(SVM_ADDRESS)
_SYMBOL = re.compile(r"[A-Za-z0-9.]{1,16}")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|[0-9a-f:.]{2,45}")


def budgets(given: Given) -> tuple[Budget, ...]:
    """Budgets for every request: comma-separated text, a whole number of dollars, or a TOML array of either."""
    return read_budgets(given, EVERYTHING)


def read_budgets(given: Given, scope: Scope) -> tuple[Budget, ...]:
    """Budgets for the requests of `scope`, in any form that `budgets` reads."""
    value = given.value
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    parts: list[object] = value if isinstance(value, list) else [value]
    found = [_budget(Given(given.where, part, given.base, given.home), scope) for part in parts]
    if not found:
        raise given.wrong(_BUDGET)
    if len({budget.period for budget in found}) != len(found):
        raise given.wrong("a period is there twice; keep one of them")
    return tuple(found)


def _budget(given: Given, scope: Scope) -> Budget:
    if not isinstance(given.value, str):
        return Budget(usd(given), "", scope)
    amount, slash, period = (part.strip() for part in given.value.partition("/"))
    if slash and period not in SECONDS:
        raise given.wrong(f"{_BUDGET}; the periods are {', '.join(SECONDS)}")
    try:
        micro = usd(Given(given.where, amount, given.base, given.home))
    except SettingsError:
        raise given.wrong(_BUDGET) from None
    return Budget(micro, cast(Period, period), scope)


def address(given: Given) -> str:
    """Who may be paid: an address on an EVM chain (kept in lower case) or on Solana."""
    text = given.value if isinstance(given.value, str) else ""
    if _EVM_ADDRESS.fullmatch(text):
        return text.lower()
    if not _SVM_ADDRESS.fullmatch(text):
        raise given.wrong("expected addresses: 0x and 40 hex digits, or base58")
    return text


def asset(given: Given) -> str:
    """An asset: its symbol (kept in upper case), or its address as `address` keeps it."""
    text = given.value if isinstance(given.value, str) else ""
    if _SYMBOL.fullmatch(text):
        return text.upper()
    try:
        return address(given)
    except SettingsError:
        raise given.wrong("expected symbols such as USDC, or addresses of assets") from None


def host(given: Given) -> str:
    """A host's name or address, without scheme or port."""
    text = given.value.lower() if isinstance(given.value, str) else ""
    if not _HOST.fullmatch(text):
        raise given.wrong("expected names of hosts such as sol.blockrun.ai, without https:// and without a port")
    return text


def read_limits(where: str, document: Mapping[str, Any], base: Path, home: Path) -> tuple[Limit, ...]:
    """The `[[limit]]` tables of `document`; `where` is the file's name for errors. Raises SettingsError."""
    tables = document.get("limit", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError(f"{where}: limit: expected tables that begin with [[limit]]")
    return tuple(
        _limit(f"{where}: [[limit]] number {number}", table, base, home) for number, table in enumerate(tables, 1)
    )


def _limit(where: str, table: Mapping[str, Any], base: Path, home: Path) -> Limit:
    for key in table:
        if key not in LIMIT_KEYS:
            raise SettingsError(f"{where}: {unknown_key(key, LIMIT_KEYS)}")
    if "model" not in table and "path" not in table:
        raise SettingsError(f"{where}: names no model or path; limit all requests with max_request and budget above it")
    if "max_request" not in table and "budget" not in table:
        raise SettingsError(f"{where}: limits nothing; expected max_request or budget")

    def given(key: str) -> Given:
        return Given(f"{where}: {key}", table[key], base, home)

    scope = Scope(*(_pattern(given(key)) if key in table else "" for key in ("model", "path")))
    return Limit(
        scope,
        usd(given("max_request")) if "max_request" in table else None,
        read_budgets(given("budget"), scope) if "budget" in table else (),
    )


def _pattern(given: Given) -> str:
    if not isinstance(given.value, str) or not _PATTERN.fullmatch(given.value):
        raise given.wrong("expected a name in which * and ? are wild, without spaces or brackets")
    return given.value
