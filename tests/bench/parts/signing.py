"""What one payment costs in the process, from the bytes of the challenge's header to those of the payment's header.

Everything that a challenge goes through is in it: decoding, choosing, policy, the reservation in the ledger, the
signature, encoding, the sync of the ledger, and its note that the payment leaves.
"""

from __future__ import annotations

import asyncio
import time

from mitmproxy import http

from mitmproxy_x402.ledger.opening import make_ready
from mitmproxy_x402.ledger.sqlite.store import SqliteLedger
from mitmproxy_x402.payment import challenge
from mitmproxy_x402.payment.offer import Purpose
from mitmproxy_x402.payment.payer import Payer
from mitmproxy_x402.payment.purchase import Purchase
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.payment.retained.store import RetainedPayments
from mitmproxy_x402.settings.settings import read_settings
from mitmproxy_x402.wallet.sources import WalletSources, load_wallets, warm_up

from ..place import Place
from ..sides.prices import challenge_value
from ..sides.work import PATH

WARM = 50


def signing(place: Place, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of `rounds` payments on Base and on Solana, one here and one there."""
    home = place.new_home("signing")
    settings = read_settings(
        {"x402_ledger": str(home / "ledger.sqlite3"), "x402_solana_rpc": place.rpc[1].partition("=")[2]},
        {},
        cwd=home,
        home=home,
    )
    ledger = SqliteLedger(settings.ledger)
    make_ready(ledger, settings)
    payer = Payer(settings, load_wallets(WalletSources(place.environ(home), home)), ledger)
    warm_up()
    try:
        return asyncio.run(_measure(payer, rounds))
    finally:
        ledger.close()


async def _measure(payer: Payer, rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"base": [], "solana": []}
    answers = {network: _answer(network) for network in found}
    held = RetainedPayments(time.time)
    for number in range(WARM + rounds):
        for network, times in found.items():
            begun = time.perf_counter()
            await _pay(payer, held, answers[network])
            if number >= WARM:
                times.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(0)  # in which the table catches up with the notes
    return found


async def _pay(payer: Payer, held: RetainedPayments, answer: http.Response) -> tuple[str, str]:
    required = challenge.read(answer)
    assert required is not None
    purpose = Purpose("POST", "127.0.0.1", PATH, "openai/gpt-4o-mini")
    purchase = Purchase(payer, held, purpose, RequestIdentity(("POST", "", PATH)))
    header = (await purchase.buy(required)).header
    if purchase.waits:
        await purchase.durable()
    purchase.sending()
    return header


def _answer(network: str) -> http.Response:
    return http.Response.make(402, b"{}", {"PAYMENT-REQUIRED": challenge_value(network)})
