"""The verb `check`: whether payments will work, one line each, `ok` or what to do. Signs nothing, pays nothing."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from ..chain import balance, permit2
from ..chain.json_rpc import Trust, Unreachable
from ..command_line import PORT, check_upstream, configured_options, gateway_for, read_arguments
from ..errors import ChallengeError, Refused, RpcError, SettingsError
from ..ledger.interface import LedgerError
from ..ledger.opening import open_ledger
from ..ledger.reading import is_there
from ..limits.limits import Budget
from ..machine.program import program
from ..payment import policy
from ..payment.offer import Offer, Purpose
from ..payment.offered import payers_of, rules_of
from ..payment.payer import find_wallets
from ..payment.reasons.refusals import option_of
from ..payment.signing.delegation import refused_key
from ..protocol.amounts import format_usd
from ..protocol.messages import PaymentRequired
from ..protocol.networks import Asset, Network
from ..proxy.startup.mitmproxy_arguments import take
from ..reconcile.rpcs import named_rpcs, remedy, rpcs, watched
from ..schemes import gateway as gateway_scheme
from ..schemes import method_of
from ..settings.options import OPTIONS
from ..settings.settings import Settings, read_settings
from ..settings.suggest import is_like_ours, nearest, unknown_options
from ..wallet.sources import Wallets
from . import books
from . import gateway as check_gateway
from . import machine as check_machine
from .gateway import Quote
from .line import Line, ok, todo, unseen


@dataclass(frozen=True)
class _Given:
    """The command line, with the options of mitmproxy's own file."""

    upstreams: tuple[str, ...]
    model: str
    options: Mapping[str, str]
    mistaken: str
    """A sentence for each option that was set and that no addon has; empty: there are none."""


@dataclass(frozen=True)
class _Gateway:
    """An upstream that answers, and the authorities that are trusted for it."""

    upstream: str
    trust: Trust


def run(arguments: Sequence[str]) -> int:
    """Print each line as soon as it is known; returns 1 if there is something to do. Raises SettingsError."""
    given = _read(arguments)
    return asyncio.run(_print(given))


async def _print(given: _Given) -> int:
    to_do = 0
    async for line in lines(given):
        to_do += not line.good
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    sys.stdout.write("\nAll is ok.\n" if not to_do else f"\n{to_do} to do.\n")
    return 1 if to_do else 0


def _read(arguments: Sequence[str]) -> _Given:
    model, rest = "", []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--model":
            model = next(waiting, "")
            if not model:
                raise SettingsError("--model: a name must follow")
        elif argument.startswith("--model="):
            model = argument.partition("=")[2]
        else:
            rest.append(argument)
    given = read_arguments(rest)
    taken = take(given.passed_on)
    if taken.unknown:
        flag = taken.unknown[0].partition("=")[0]
        near = nearest(flag, ("--model", "--upstream"), 0.8) or nearest(flag, taken.flags, 0.7)
        hint = f"; did you mean {near}?" if near and flag.startswith("-") else "."
        raise SettingsError(
            f"check: {taken.unknown[0]!r:.60} is not an argument of check or serve{hint} See {program()} check --help."
        )
    known = {*taken.options, *(option.name for option in OPTIONS)}
    configured = configured_options(given.options.get("confdir"))
    # Scripts may declare further options, and mitmproxy's file may set those of scripts that are not loaded now.
    unsure = [name for name in (*configured, *given.options) if name not in known and is_like_ours(name)]
    unknown = unsure if taken.has_scripts else [*unsure, *(name for name in given.options if name not in known)]
    return _Given(given.upstreams, model, {**configured, **given.options}, unknown_options({*unknown}, known) or "")


async def lines(given: _Given) -> AsyncIterator[Line]:
    """All checks, in order; one that depends on a failed one is skipped."""
    yield check_machine.versions()
    yield check_machine.certificates(given.options)
    yield check_machine.signing()
    try:
        settings = _settings(given)
    except SettingsError as error:
        yield todo("settings", str(error))
        return
    yield ok("settings", _said(settings))
    try:
        wallets = find_wallets(settings, os.environ, Path.home())
    except SettingsError as error:
        yield todo("wallet", str(error))
        wallets = Wallets()
    else:
        for line in check_machine.wallets(wallets, settings):
            yield line
    yield check_machine.ledger(settings)
    for number in range(max(len(given.upstreams), 1)):
        yield _port(given.options, number)
    for upstream in given.upstreams or (None,):
        async for line in _beyond(given, upstream, settings, wallets):
            yield line


def _settings(given: _Given) -> Settings:
    if given.mistaken:
        raise SettingsError(given.mistaken)
    ours = {option.name: given.options.get(option.name, "") for option in OPTIONS}
    return read_settings(ours, os.environ, cwd=Path.cwd(), home=Path.home())


def _said(settings: Settings) -> str:
    budgets = ", ".join(str(budget) for budget in settings.budgets)
    limits = f"at most {format_usd(settings.max_request)} USD a request, budget {budgets}"
    more = f" and {len(settings.limits)} [[limit]]" if settings.limits else ""
    where = f" (from {settings.file})" if settings.file else ""
    return f"{limits}{more}{where}{'; dry run: nothing will be paid' if settings.dry_run else ''}"


def _port(options: Mapping[str, str], above: int) -> Line:
    """The port that is `above` the first one: each of several upstreams has its own."""
    number, host = options.get("listen_port", str(PORT)), options.get("listen_host") or "127.0.0.1"
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 65536):
        return todo("port", f"-p {number!r:.40}: expected a port from 1 to 65535.")
    return check_machine.port(host, int(number) + above)


async def _beyond(given: _Given, named: str | None, settings: Settings, wallets: Wallets) -> AsyncIterator[Line]:
    """The checks that need the network, at the upstream `named`, else at the one that `serve` would use."""
    options = given.options
    try:
        upstream = _upstream(named, options, wallets)
    except SettingsError as error:
        yield todo("gateway", str(error))
        return
    if options.get("ssl_insecure", "").lower() == "true":
        yield todo("gateway", "ssl_insecure is set, so nothing would be paid: remove it.")
    trust = Trust(
        options.get("ssl_verify_upstream_trusted_ca") or None,
        options.get("ssl_verify_upstream_trusted_confdir") or None,
    )
    try:
        reached = await check_gateway.reach(upstream, trust)
    except Unreachable as reason:
        yield todo(
            "gateway",
            f"{upstream}: {reason}. Without it nothing works: check your connection, or name another with --upstream.",
        )
        yield unseen("clock", "not checked: it is compared with the time in the gateway's answers")
        yield unseen("quote", "not checked, and neither were your limits: they are compared with the gateway's price")
        async for line in _balances(None, None, settings, wallets):
            yield line
        async for line in _delegated(settings, wallets):
            yield line
        return
    tls = "TLS verified" if upstream.startswith("https:") else "on this machine, without TLS"
    yield ok("gateway", f"{upstream} answers ({tls})")
    yield _clock(reached.skew)
    if given.model:
        yield _listed(given.model, reached.models, upstream)
    models = (given.model,) if given.model else reached.models
    async for line in _paying(_Gateway(upstream, trust), models, settings, wallets):
        yield line


async def _paying(
    gateway: _Gateway, models: tuple[str, ...], settings: Settings, wallets: Wallets
) -> AsyncIterator[Line]:
    """Checks the price of a request, whether it would be paid, and whether the wallet holds enough."""
    upstream, trust = gateway.upstream, gateway.trust
    try:
        quote = await check_gateway.quote(upstream, trust, models)
    except Unreachable as reason:
        yield todo("quote", f"{upstream}{check_gateway.PATH}: {reason}. Try again, or another --model NAME.")
        async for line in _balances(None, None, settings, wallets):
            yield line
        async for line in _delegated(settings, wallets):
            yield line
        return
    offer: Offer | None = None
    for found in _judge(quote, upstream, settings, wallets):
        if isinstance(found, Offer):
            offer = found
        else:
            yield found
    if offer is not None:
        yield await _agent(upstream, trust, quote, settings, wallets)
    async for line in _balances(quote.required, offer, settings, wallets):
        yield line
    paid = offer is not None and wallets.evm is not None and offer.network.family == "evm"
    async for line in _delegated(settings, wallets, offer.network if offer is not None and paid else None):
        yield line
    if offer is not None and wallets.evm is not None and paid:
        async for line in _permit2_and_circle(wallets.evm.address, offer, settings):
            yield line


def _upstream(named: str | None, options: Mapping[str, str], wallets: Wallets) -> str:
    """The upstream that `serve` would use."""
    mode = options.get("mode", "")
    if mode:
        if not mode.startswith("reverse:"):
            raise SettingsError(f"--mode {mode!r:.60}: payments are made with --mode reverse:URL only.")
        return check_upstream(mode.removeprefix("reverse:"))
    named = named or os.environ.get("X402_UPSTREAM")
    return check_upstream(named) if named else gateway_for(wallets)


def _clock(skew: int | None) -> Line:
    if skew is None:
        return unseen("clock", "not checked: the gateway does not send its time")
    if abs(skew) <= check_gateway.MAX_SKEW:
        return ok("clock", f"differs from the gateway's by {abs(skew)} s, which is fine")
    way = "ahead of" if skew > 0 else "behind"
    return todo(
        "clock", f"is {abs(skew)} s {way} the gateway's, and payments are valid for minutes only: set this clock."
    )


def _listed(model: str, models: Sequence[str], upstream: str) -> Line:
    """Checks that the gateway lists `model`: some name a price for any name."""
    if not models:
        return unseen(
            "model", f"{upstream} lists no models that can be read, so it is not known whether it has {model!r}"
        )
    if model in models:
        return ok("model", f"{model} is one of the {len(models)} that {upstream} lists")
    near = nearest(model, models)
    hint = f"did you mean {near}?" if near else f"it has {', '.join(models[:3])}{', ...' if len(models) > 3 else ''}"
    return todo(
        "model",
        f"{upstream} lists {len(models)} models, and {model!r} is none of them ({hint}). What it asks "
        "for that name is below, which does not mean that it would answer.",
    )


def _judge(quote: Quote, upstream: str, settings: Settings, wallets: Wallets) -> Iterator[Line | Offer]:
    """Checks that the quote would be paid; also yields the offer, for the balance."""
    what = f"POST {check_gateway.PATH} ({quote.model})" if quote.model else check_gateway.PATH
    if quote.required is None and quote.status == 200:
        yield ok("quote", f"{what} is free: it was answered without payment. The price of another: --model NAME")
        return
    if quote.required is None:
        yield todo("quote", f"{what}: {_of_a_question(quote.reason)} To ask for another model: --model NAME.")
        return
    purpose = Purpose("POST", check_gateway.host_of(upstream), check_gateway.PATH, quote.model)
    try:
        rules, payers = rules_of(settings), payers_of(wallets, settings)
        yield policy.choose(quote.required, rules, payers)
        offer, budgets = policy.choose_for(quote.required, purpose, rules, payers)
        full = _full(offer, budgets, settings)
    except (Refused, ChallengeError, LedgerError) as error:
        if isinstance(error, Refused) and error.reason == "no_wallet" and wallets == Wallets():  # another line says so
            yield unseen("quote", f"{what} costs something; your limits are compared once a wallet is loaded")
            return
        yield todo("quote", f"{what}: {_of_a_question(error)}")
        return
    asked = f"{what} costs {offer}, paid to {offer.requirement.pay_to:.64}"
    if full:
        yield todo("quote", f"{asked}; {full}")
    else:
        yield ok("quote", f"{asked}; {'not paid, dry run' if settings.dry_run else 'your limits allow it'}")


async def _agent(upstream: str, trust: Trust, small: Quote, settings: Settings, wallets: Wallets) -> Line:
    """The price of a request of a coding agent's size; never to do, since not everybody sends such."""
    size = (
        f"{check_gateway.AGENT_BYTES // 1000} kB of prompt and at most {check_gateway.AGENT_TOKENS:,} tokens of answer"
    )
    what = f"the same with {size}, as coding agents ask,"
    try:
        quote = await check_gateway.quote(upstream, trust, (small.model,), check_gateway.agent_request)
        if quote.required is None:
            return unseen("agent", f"{what}: no price is known, {quote.reason}")
        purpose = Purpose("POST", check_gateway.host_of(upstream), check_gateway.PATH, quote.model)
        offer, _ = policy.choose_for(quote.required, purpose, rules_of(settings), payers_of(wallets, settings))
    except Unreachable as reason:
        return unseen("agent", f"{what}: no price is known, {reason}")
    except (Refused, ChallengeError) as error:
        return unseen("agent", f"{what} would be refused: {_of_a_question(error)}")
    return ok("agent", f"{what} costs {offer}")


def _of_a_question(error: Exception | str) -> str:
    """The reason of a refusal, without the assurance that nothing was paid: a question pays nothing."""
    return str(error).replace(" Nothing was paid.", "").rstrip(".") + "."


def _full(offer: Offer, budgets: Sequence[Budget], settings: Settings) -> str:
    """What to do about the first budget that has no room for `offer`; empty if all have room."""
    spent = [0 for _ in budgets]
    if is_there(settings.ledger):
        with closing(open_ledger(settings.ledger, is_tool=True)) as ledger:
            ledger.watch(watched(settings))
            spent = ledger.spent_of(budgets)
    full = [each for each in zip(budgets, spent, strict=True) if each[1] + offer.micro_usd > each[0].micro_usd]
    if not full:
        return ""
    budget, used = full[0]
    return f"only {budget.left(used)} is left: wait, or raise {option_of(budget)}."


async def _balances(
    required: PaymentRequired | None, offer: Offer | None, settings: Settings, wallets: Wallets
) -> AsyncIterator[Line]:
    """Checks the wallet's balance on each network that the gateway takes payment on; it must be enough for `offer`."""
    for network, asset in _payable(required, settings):
        purse = wallets.for_family(network.family)
        chosen = offer is not None and (network.caip2, asset) == (offer.network.caip2, offer.asset)
        urls = rpcs(network, settings)
        if purse is None or not (urls or chosen):
            continue
        try:
            units = await balance.balance(network, asset, purse.address, urls, settings.rpc_timeout)
        except RpcError as error:
            yield todo("balance", f"{network.name}: {error}. To see it, {remedy(network)}.")
            continue
        has = f"{format_usd(balance.held_micro_usd(asset, units))} {asset.symbol} on {network.name}"
        price = offer.requirement.amount if offer is not None and chosen else 0
        if units < price:
            to_do = f"send {asset.symbol} to {purse.address} ({program()} wallet fund)"
            yield todo("balance", f"{has}, less than the small request of the quote costs: {to_do}.")
        else:
            enough = f", enough for {units // price:,} small requests like that of the quote" if price else ""
            yield ok("balance", f"{has}{enough}")
        line = await books.compare(network, asset, purse.address, urls, settings)
        if line is not None:
            yield line


async def _delegated(settings: Settings, wallets: Wallets, paid: Network | None = None) -> AsyncIterator[Line]:
    """Checks whether sellers take the EVM key's signatures, on `paid` and on all networks that an RPC is named for."""
    for network in settings.networks:
        urls = rpcs(network, settings) if network == paid else named_rpcs(network, settings)
        if wallets.evm is None or network.family != "evm" or not urls:
            continue
        with suppress(RpcError):  # other lines say what is wrong with it, where paying needs one
            refused = await refused_key(wallets.evm.address, network, urls, settings.rpc_timeout)
            if refused:
                yield todo("key", refused)


async def _permit2_and_circle(address: str, offer: Offer, settings: Settings) -> AsyncIterator[Line]:
    """Checks what Permit2 may take, and what lies with Circle Gateway, if these are used."""
    network, urls = offer.network, rpcs(offer.network, settings)
    try:
        if settings.schemes != "exact":
            known = await permit2.standing(network, offer.asset, address, urls, settings.rpc_timeout)
            allowed = format_usd(balance.held_micro_usd(offer.asset, known.allowance))
            yield ok("Permit2", f"may take {allowed} {offer.asset.symbol} of the wallet on {network.name}")
        if settings.gateway and network.chain_id in gateway_scheme.USDC:
            where = gateway_scheme.contract(network)
            held = await permit2.deposited(offer.asset, where, address, urls, settings.rpc_timeout)
            amount = f"{format_usd(balance.held_micro_usd(offer.asset, held))} {offer.asset.symbol}"
            found = f"Gateway holds {amount} of the wallet on {network.name}"
            yield (
                ok("Circle", found)
                if held
                else todo("Circle", f"{found}. Deposit some there, or set the option x402_gateway to false.")
            )
    except RpcError as error:
        yield todo("Permit2", f"{network.name}: {error}. To see it, {remedy(network)}.")


def _payable(required: PaymentRequired | None, settings: Settings) -> list[tuple[Network, Asset]]:
    """Networks and tokens that the gateway takes and we know; without a quote those that the user prefers."""
    if required is None:
        names = settings.preference or ("base", "solana")
        rows = [row for row in map(settings.networks.get, names) if row is not None]
        return [(row, row.assets[0]) for row in rows if row.assets]
    found = {}
    for requirement in required.accepts:
        network = settings.networks.get(requirement.network)
        asset = network and network.asset(requirement.asset)
        if network and asset and method_of(requirement, network.family) == "exact":
            found[network.caip2, asset.address] = (network, asset)
    return list(found.values())
