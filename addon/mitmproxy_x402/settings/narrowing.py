"""Decides whether a change of options only tightens what may be spent, which mitmweb may always do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..limits.limits import Budget
from .settings import Settings


def widened(before: Settings, after: Settings) -> list[str]:
    """Options, without prefix, that allow more spending, other clients or other payees than `before`; empty: none."""
    wider = [key for key, is_narrower in _RULES.items() if not is_narrower(*_pair(before, after, key))]
    return [_OPTIONS.get(key, key) for key in wider]


def beyond_narrowing(names: Iterable[str]) -> list[str]:
    """The `names` (options without prefix) whose changes are never just a tightening, such as files."""
    narrowing = {_OPTIONS.get(key, key) for key, rule in _RULES.items() if rule is not _same}
    return sorted(name for name in names if name not in narrowing)


def _pair(before: Settings, after: Settings, key: str) -> tuple[Any, Any]:
    return getattr(before, key), getattr(after, key)


def _lower(before: float, after: float) -> bool:
    return after <= before


def _only_on(before: bool, after: bool) -> bool:
    return after or not before


def _only_off(before: bool, after: bool) -> bool:
    return before or not after


def _fewer(before: Sequence[Any], after: Sequence[Any]) -> bool:
    """Whether an allow list got no longer; an empty one allows everything."""
    return not before or (bool(after) and set(after) <= set(before))


def _tighter(before: Sequence[Budget], after: Sequence[Budget]) -> bool:
    """Whether each old budget is kept, or replaced by a lower one for the same period and scope."""
    return all(
        any((b.period, b.scope) == (a.period, a.scope) and a.micro_usd <= b.micro_usd for a in after) for b in before
    )


def _same(before: object, after: object) -> bool:
    return before == after


_RULES: dict[str, Callable[[Any, Any], bool]] = {
    "max_request": _lower,
    "budgets": _tighter,
    "limits": lambda before, after: before == after,
    "networks": lambda before, after: list(before) == list(after),
    "repurchase": _lower,
    "max_validity": _lower,
    "max_body": _lower,
    "view_limit": _lower,
    "dry_run": _only_on,
    "preauthorize": _only_off,
    "forward_auth": _only_off,
    "forward_names": lambda before, after: after <= before,
    "pay_methods": lambda before, after: set(after) <= set(before),
    "allow_pay_to": _fewer,
    "allow_networks": _fewer,
    "allow_assets": _fewer,
    "allow_hosts": _fewer,
    "allow_origins": lambda before, after: set(after) <= set(before),
    # Also where there was none: with a token, other machines and any host name may ask.
    "client_token": lambda before, after: before == after,
    "ledger": _same,
    "dump": lambda before, after: after is None or after == before,
    "evm_key_file": _same,
    "svm_key_file": _same,
    "keystore": _same,
    "keystore_password_file": _same,
    "solana_rpc": _same,
    "evm_rpc": _same,
    "file": _same,
    "web_options": _only_off,
}

_OPTIONS = {"budgets": "budget"}
"""The options whose names differ from those of their settings."""
