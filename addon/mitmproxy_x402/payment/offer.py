"""Types that the modules of `payment` share: an offer, the request that it is for, and the user's rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from ..limits.limits import Asked, Budget, Limit
from ..limits.whole_request import WholeRequest, normal_path
from ..protocol.amounts import format_usd
from ..protocol.messages import Caip2, PaymentRequirements
from ..protocol.networks import Asset, Family, Network, NetworkTable
from ..quick_init import quick_init
from ..schemes import Method

Schemes = Literal["exact", "auto", "upto"]
Payers = Mapping[Family, "str | None"]
"""The paying address for each family of chains; None: no wallet, so nothing will be signed (dry run)."""


@dataclass(frozen=True)
class Rules:
    """The user's settings that decide what may be paid. Amounts are millionths of a dollar."""

    networks: NetworkTable
    max_request: int
    max_validity: int
    """Most seconds that an EVM authorization may be valid."""
    preference: tuple[Caip2, ...] = ()
    """Networks in order of preference; empty: the cheapest offer."""
    schemes: Schemes = "exact"
    gateway: bool = False
    """Whether Circle Gateway may be paid, with signatures that live for seven days."""
    budgets: tuple[Budget, ...] = ()
    limits: tuple[Limit, ...] = ()
    allow_pay_to: tuple[str, ...] = ()
    """Payees. Each allow list, when empty, allows everything. EVM addresses are in lower case."""
    allow_networks: tuple[Caip2, ...] = ()
    allow_assets: tuple[str, ...] = ()
    """Symbols in upper case, or addresses (EVM: lower case)."""
    allow_hosts: tuple[str, ...] = ()


@quick_init
@dataclass(frozen=True)
class Offer:
    """One entry of a challenge on a known network: what would be paid, to whom, on which chain."""

    requirement: PaymentRequirements
    network: Network
    asset: Asset
    method: Method = "exact"
    exact: int | None = None
    """For a ceiling: the seller's exact price on the same network, in millionths of a dollar."""

    @cached_property
    def micro_usd(self) -> int:
        """The most that it can cost, in millionths of a dollar."""
        return self.asset.micro_usd(self.requirement.amount)

    @property
    def is_ceiling(self) -> bool:
        """Whether the seller may charge less than the amount that is signed."""
        return self.method == "upto"

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        most = "at most " if self.is_ceiling else ""
        return f"{most}{format_usd(self.micro_usd)} {self.asset.symbol} on {self.network.name}"


@quick_init
@dataclass(frozen=True)
class Purpose:
    """The request that a payment is for, as limits and the ledger see it."""

    method: str
    host: str
    """The upstream's host."""
    path: str
    """The path without its query."""
    model: str | None = None
    """The model; None: none could be read from the request."""
    client: str = ""
    """The client's name, as `hooks.answers.client_name` gives it."""
    whole: WholeRequest | None = field(default=None, compare=False, repr=False)
    """The request's body, read if there are limits for models or paths."""

    def asked(self) -> Asked:
        """The models and path that limits compare, with any doubt; without a body, the fields above."""
        if self.whole is not None:
            return self.whole.read()
        path, doubt = normal_path(self.path)
        return Asked(() if self.model is None else (self.model,), path, path_doubt=doubt)

    def __str__(self) -> str:
        return f"{self.method} {self.path}" + (f" ({self.model})" if self.model else "")
