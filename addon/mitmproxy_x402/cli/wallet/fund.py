"""`wallet fund`: the address to send USDC to, as text, as a QR code, and as a page; waits until it arrives."""

from __future__ import annotations

import asyncio
import html
import io
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...chain.balance import balance
from ...errors import RpcError, SettingsError
from ...protocol.networks import Asset, Family, Network
from ...reconcile.rpcs import remedy, rpcs
from ...settings.networks import require_enabled
from ...settings.settings import Settings
from ...wallet.sources import Wallets
from ..terminal import Spinner, say
from .prices import Gateway
from .show import money

EVERY_SECONDS = 4
"""Seconds between two look-ups of the balance; public RPCs limit requests."""

WHAT_TO_SEND = """\
Send {symbol} on {network}, and nothing else, to

    {address}

{source}
{gas} is not needed: whoever settles a payment pays the fee.
"""
FROM_OTHERS = """\
From an exchange: withdraw {symbol}, and choose {network} as the network of the withdrawal. Coinbase, Kraken, Binance
and others offer USDC on Base and on Solana. What is sent on another network does not arrive here.
From a wallet app: scan the code.
A few dollars are enough; keep no more there than you can afford to lose.\
"""
FROM_A_FAUCET = """\
{network} is a test network, whose {symbol} is worth nothing. A faucet gives some: https://faucet.circle.com\
"""
TEST_NETWORKS = ("sepolia", "devnet", "testnet")
"""Parts of the names of networks whose money is worth nothing."""
GAS = {"evm": "ETH", "svm": "SOL"}


@dataclass(frozen=True)
class _Place:
    """The address to fund, and the RPCs that tell its balance."""

    network: Network
    asset: Asset
    address: str
    urls: Sequence[str]
    seconds: float

    async def balance(self) -> int:
        """Atomic units. Raises RpcError."""
        return await balance(self.network, self.asset, self.address, self.urls, self.seconds)


def fund(given: Namespace, settings: Settings, program: str, gateway: Gateway) -> int:
    """Show where to send money, and with --wait wait for it. Raises SettingsError and RpcError."""
    page = Path(given.html).expanduser() if given.html else None
    if page is not None and page.is_dir():
        raise SettingsError(f"--html {given.html!r:.80} is a folder: name a file in it, as in {page / 'fund.html'}")
    return asyncio.run(_fund(given, settings, program, gateway, page))


async def _fund(given: Namespace, settings: Settings, program: str, gateway: Gateway, page: Path | None) -> int:
    network, asset = await _what(given, settings, program, gateway)
    purse = given.found.for_family(network.family)
    if purse is None:
        raise SettingsError(_no_wallet(network, program))
    place = _Place(network, asset, purse.address, rpcs(network, settings), settings.rpc_timeout)
    link = payment_link(network, asset, purse.address)
    say(_what_to_send(place))
    if page is None:
        sys.stdout.write(terminal_code(link))
        say(link)
    else:
        every = [(network, asset, purse.address)]
        if not given.network and not given.family:
            every += _others(given.found, settings, network)
        _write(page, _page(every))
        say(f"The {'code is' if len(every) == 1 else 'codes of both wallets are'} in {page}.")
    held = await _held(place)
    if given.wait:
        await _wait(place, held)
        say(f"Next: {program} check")
        return 0
    say(f"To wait until it arrives: {program} wallet fund --wait")
    return 0


def _what_to_send(place: _Place) -> str:
    name = place.network.name if "-" in place.network.name else place.network.name.capitalize()
    is_test = any(part in place.network.name for part in TEST_NETWORKS)
    source = (FROM_A_FAUCET if is_test else FROM_OTHERS).format(symbol=place.asset.symbol, network=name)
    return WHAT_TO_SEND.format(
        symbol=place.asset.symbol, network=name, address=place.address, source=source, gas=GAS[place.network.family]
    )


def _no_wallet(network: Network, program: str) -> str:
    which = "--evm" if network.family == "evm" else "--solana"
    return f"there is no wallet for {network.name} yet: {program} wallet new {which}"


async def _what(given: Namespace, settings: Settings, program: str, gateway: Gateway) -> tuple[Network, Asset]:
    """The network and token to send: those named, else what the gateway would be paid in. Raises SettingsError."""
    if given.network:
        network = settings.networks.get(given.network)
        if network is None:
            require_enabled(settings.networks, given.network)
        if network is None or not network.assets:
            known = ", ".join(row.name for row in settings.networks)
            raise SettingsError(f"--network {given.network!r:.60} is not known; known are {known}")
        return network, network.assets[0]
    found: Wallets = given.found
    mine = replace(found, evm=found.evm if given.family != "svm" else None)
    mine = replace(mine, svm=found.svm if given.family != "evm" else None)
    usual = _usual(settings, given.family or ("evm" if found.svm is None and found.evm is not None else "svm"))
    if mine.evm is None and mine.svm is None:
        raise SettingsError(_no_wallet(usual, program))
    asked = await gateway.prices(settings, mine)
    if asked.small is not None:
        say(f"{gateway.upstream} takes {asked.small.asset.symbol} on {asked.small.network.name}.\n")
        return asked.small.network, asked.small.asset
    if asked.required is not None:
        raise SettingsError(
            f"{gateway.upstream}: {asked.reason} To fund a wallet all the same, name its network: --network"
        )
    say(f"On which network {gateway.upstream} takes payment is not known ({asked.reason.rstrip('.')}).")
    say(f"So this is the usual one, {usual.name}; for another: --network NAME\n")
    return usual, usual.assets[0]


def _usual(settings: Settings, family: Family) -> Network:
    named = [settings.networks.get(name) for name in (*settings.preference, "base", "solana")]
    return next(row for row in named if row is not None and row.family == family)


def _others(found: Wallets, settings: Settings, network: Network) -> list[tuple[Network, Asset, str]]:
    """Network, token and address of the wallet that does not pay on `network`, if there is one."""
    family: Family = "svm" if network.family == "evm" else "evm"
    purse = found.for_family(family)
    usual = _usual(settings, family)
    return [] if purse is None else [(usual, usual.assets[0], purse.address)]


def payment_link(network: Network, asset: Asset, address: str) -> str:
    """The URL that wallet apps read: by ERC-681, or by Solana Pay."""
    if network.family == "evm":
        return f"ethereum:{asset.address}@{network.chain_id}/transfer?address={address}"
    return f"solana:{address}?spl-token={asset.address}"


def terminal_code(link: str) -> str:
    """A QR code of half-height blocks, with its quiet zone."""
    import segno  # noqa: PLC0415  # this verb alone needs it

    out = io.StringIO()
    segno.make(link, error="m", micro=False).terminal(out, compact=True)
    return out.getvalue()


def _page(every: Sequence[tuple[Network, Asset, str]]) -> str:
    """A page with one section for each network, token and address."""
    first = html.escape(f"Send {every[0][1].symbol} on {every[0][0].name}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{first}</title>'
        '<meta name="viewport" content="width=device-width"><style>body{font:16px system-ui;max-width:40em;margin:2em '
        "auto;padding:0 1em;background:#fff;color:#111}code{word-break:break-all}</style>"
        + "".join(_section(network, asset, address) for network, asset, address in every)
    )


def _section(network: Network, asset: Asset, address: str) -> str:
    import segno  # noqa: PLC0415  # as above

    link = payment_link(network, asset, address)
    code = segno.make(link, error="m", micro=False).svg_inline(scale=6, border=4, dark="#000", light="#fff")
    title = html.escape(f"Send {asset.symbol} on {network.name}")
    return (
        f"<h1>{title}</h1><p><code>{html.escape(address)}</code></p>{code}"
        f"<p>{html.escape(GAS[network.family])} is not needed. Only {html.escape(asset.symbol)} on "
        f'{html.escape(network.name)} is of use here.</p><p><a href="{html.escape(link)}">Open in a wallet</a></p>'
    )


def _write(page: Path, text: str) -> None:
    try:
        page.write_text(text, encoding="utf8")
    except OSError as error:
        raise SettingsError(f"{page} cannot be written: {error.strerror}.") from None


async def _held(place: _Place) -> int | None:
    """Print what the wallet holds now, and return it in atomic units; None: no RPC answers."""
    try:
        units = await place.balance()
    except RpcError as error:
        say(f"What it holds now is not known: {error}. To see it, {remedy(place.network)}.")
        return None
    say(f"It holds {money(place.asset, units)} now.")
    return units


async def _wait(place: _Place, held: int | None) -> None:
    """Wait until there is more than `held`. Failed look-ups are repeated. Raises RpcError: `held` is not known."""
    if held is None:
        raise RpcError("without the balance it cannot tell when money arrives")
    what = f"{place.asset.symbol} on {place.network.name}"
    say("Waiting until more has arrived. Ctrl-C ends the waiting, not the transfer.")
    async with Spinner(f"waiting for {what}"):
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                now = await place.balance()
            except RpcError:
                continue
            if now > held:
                break
    say(f"Arrived: {money(place.asset, now - held)}. The wallet now holds {money(place.asset, now)}.")
