"""Keeps payments whose request failed, to be sent again with the next equal request.

`identity` says which requests are equal, `store` keeps payments in this process, `postgres` shares them between all
proxies of a ledger.
"""

from __future__ import annotations

import time

from ...ledger.interface import Ledger
from ...protocol.networks import NetworkTable
from ...settings.ledger_place import PostgresUrl
from ...wallet.sources import Wallets
from .store import Retained


def open_retained(ledger: Ledger, wallets: Wallets, networks: NetworkTable) -> Retained | None:
    """The store shared by all proxies of `ledger`; None: each proxy retains payments in its own memory."""
    if not isinstance(ledger.place, PostgresUrl) or (wallets.evm is None and wallets.svm is None):
        return None
    from ...ledger.postgres.store import PostgresLedger  # noqa: PLC0415
    from .postgres import SharedRetainedPayments  # noqa: PLC0415 - needs psycopg

    assert isinstance(ledger, PostgresLedger)
    return SharedRetainedPayments(ledger, wallets, networks, time.time)
