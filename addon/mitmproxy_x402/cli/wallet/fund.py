"""`wallet fund`: the address to send USDC to, as text, as a QR code, and as a page; waits until it arrives."""

from __future__ import annotations

import asyncio
import html
import io
import sys
from argparse import Namespace
from pathlib import Path

from ...chain.balance import balance
from ...errors import RpcError, SettingsError
from ...protocol.amounts import format_usd
from ...protocol.messages import AtomicUnits
from ...protocol.networks import Asset, Network
from ...reconcile.rpcs import remedy, rpcs
from ...settings.settings import Settings
from ..terminal import Spinner, say

EVERY_SECONDS = 4
"""Between two looks at the balance; public RPCs count requests."""

WHAT_TO_SEND = """\
Send {symbol} on {network}, and nothing else, to

    {address}

From an exchange: withdraw {symbol}, and choose {network} as the network of the withdrawal; what is sent on another
network does not arrive here. From a wallet app: scan the code. A few dollars are enough; keep no more there than you
can lose. {gas} is not needed: whoever settles a payment pays the fee.
"""
GAS = {"evm": "ETH", "svm": "SOL"}


def fund(given: Namespace, settings: Settings, program: str) -> int:
    """Show where money goes, and with --wait until it is there. Raises SettingsError and RpcError."""
    network = _network(given, settings)
    purse = given.found.for_family(network.family)
    if purse is None:
        which = "--evm" if network.family == "evm" else "--solana"
        raise SettingsError(f"there is no wallet for {network.name} yet: {program} wallet new {which}")
    asset = network.assets[0]
    link = payment_link(network, asset, purse.address)
    say(
        WHAT_TO_SEND.format(
            symbol=asset.symbol, network=network.name.capitalize(), address=purse.address, gas=GAS[network.family]
        )
    )
    if given.html:
        page = Path(given.html)
        page.write_text(_page(network, asset, purse.address, link), encoding="utf8")
        say(f"The code is in {page}.")
    else:
        sys.stdout.write(terminal_code(link))
        say(link)
    if given.wait:
        return asyncio.run(_wait(network, asset, purse.address, settings))
    return 0


def _network(given: Namespace, settings: Settings) -> Network:
    if given.network:
        network = settings.networks.get(given.network)
        if network is None:
            known = ", ".join(row.name for row in settings.networks)
            raise SettingsError(f"--network {given.network!r:.60} is not known; known are {known}")
        return network
    family = given.family or ("evm" if given.found.svm is None and given.found.evm is not None else "svm")
    named = [settings.networks.get(name) for name in (*settings.preference, "base", "solana")]
    return next(row for row in named if row is not None and row.family == family)


def payment_link(network: Network, asset: Asset, address: str) -> str:
    """What a wallet app reads: an ERC-681 URL, or one of Solana Pay."""
    if network.family == "evm":
        return f"ethereum:{asset.address}@{network.chain_id}/transfer?address={address}"
    return f"solana:{address}?spl-token={asset.address}"


def terminal_code(link: str) -> str:
    """A QR code of half-height blocks, with its quiet zone."""
    import segno  # noqa: PLC0415  # this verb alone needs it

    out = io.StringIO()
    segno.make(link, error="m", micro=False).terminal(out, compact=True)
    return out.getvalue()


def _page(network: Network, asset: Asset, address: str, link: str) -> str:
    import segno  # noqa: PLC0415  # as above

    code = segno.make(link, error="m", micro=False).svg_inline(scale=6, border=4, dark="#000", light="#fff")
    title = html.escape(f"Send {asset.symbol} on {network.name}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><style>body{font:16px system-ui;max-width:40em;margin:2em '
        "auto;padding:0 1em;background:#fff;color:#111}code{word-break:break-all}</style>"
        f"<h1>{title}</h1><p><code>{html.escape(address)}</code></p>{code}"
        f"<p>{html.escape(GAS[network.family])} is not needed. Nothing else than {html.escape(asset.symbol)} on "
        f'{html.escape(network.name)} is of use here.</p><p><a href="{html.escape(link)}">Open in a wallet</a></p>'
    )


async def _wait(network: Network, asset: Asset, address: str, settings: Settings) -> int:
    """Until there is more than at the start. A look that fails is tried again; Ctrl-C ends it."""
    urls = rpcs(network, settings)
    if not urls:
        raise RpcError(f"no RPC of {network.name} is known to look at the balance with: {remedy(network)}.")
    first: int | None = None
    spinner = Spinner(f"waiting for {asset.symbol} on {network.name} (Ctrl-C ends the waiting, not the transfer)")
    try:
        while True:
            try:
                now = await balance(network, asset, address, urls, settings.rpc_timeout)
            except RpcError as error:
                if first is None:
                    raise RpcError(f"{error}. To see the balance, {remedy(network)}.") from None
            else:
                first = now if first is None else first
                if now > first:
                    break
            for _ in range(EVERY_SECONDS * 4):
                spinner.turn()
                await asyncio.sleep(0.25)
    finally:
        spinner.end()
    say(f"Arrived: {format_usd(asset.micro_usd(AtomicUnits(now - first)))} {asset.symbol}.")
    return 0
