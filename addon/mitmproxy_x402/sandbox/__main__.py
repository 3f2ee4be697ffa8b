"""`python -m mitmproxy_x402.sandbox`: the play-money gateway as a program of its own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import SettingsError, X402Error
from ..machine.standard_streams import is_of_output, run_with_output
from .config import ANY_BALANCE, DEFAULT_PORT, SandboxConfig
from .faults import HEADER, fault_help
from .gateway import Sandbox

_KEEP = 200  # nobody examines the records of a program


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted; returns the exit status."""
    options = _parser().parse_args(argv)
    return run_with_output(lambda: _run(options), lambda message: _complain(message, 1))


def _run(options: argparse.Namespace) -> int:
    try:
        sandbox = Sandbox(_config(options))
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(sandbox, as_json=options.json))
    except X402Error as error:
        return _complain(str(error))
    except OSError as error:
        if is_of_output(error):
            raise
        return _complain(f"cannot listen on {options.host}:{options.port}: {error}. Choose another with --port.")
    return 0


async def _serve(sandbox: Sandbox, *, as_json: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with sandbox:
        sys.stdout.write(_greeting(sandbox, as_json=as_json) + "\n")
        sys.stdout.flush()
        await stopped.wait()


def _greeting(sandbox: Sandbox, *, as_json: bool) -> str:
    names = [chain.network.name for chain in sandbox.chains.values()]
    if as_json:
        pay_to = {chain.network.caip2: chain.pay_to for chain in sandbox.chains.values()}
        version = sandbox.config.x402_version
        return json.dumps({"url": sandbox.url, "networks": names, "pay_to": pay_to, "x402_version": version})
    return f"Sandbox gateway on {sandbox.url}: play money on {', '.join(names)}. Ctrl-C ends it."


def _config(options: argparse.Namespace) -> SandboxConfig:
    try:
        balance = int(options.balance)
    except ValueError:
        raise SettingsError(f"--balance must be atomic units such as 1000000, got {options.balance!r}.") from None
    return SandboxConfig(
        networks=tuple(name.strip() for name in options.networks.split(",") if name.strip()),
        host=options.host,
        port=options.port,
        allow_remote=options.allow_remote,
        certfile=options.certfile,
        keyfile=options.keyfile,
        x402_version=1 if options.v1 else 2,
        challenge_in=options.challenge_in,
        schemes=tuple(name.strip() for name in options.scheme.split(",") if name.strip()),
        sponsored=not options.no_sponsor,
        allowance=options.allowance,
        unusable=options.unusable,
        official=options.official,
        decoys=not options.no_decoys,
        shuffle=options.shuffle,
        recent_blockhash=not options.no_blockhash,
        memo=options.memo,
        payment_flow="upfront" if options.upfront else "",
        settle=options.settle,
        settle_late=options.settle_late,
        opening_balance=balance,
        job_polls=options.job_polls,
        chunk_seconds=options.pace,
        fault=options.fault,
        keep=_KEEP,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mitmproxy_x402.sandbox",
        description="A gateway on loopback that charges play money: x402 challenges, verification and settlement"
        " without a chain, and models that answer the same thing every time.",
        epilog=f"Errors on demand, by the request header {HEADER}: NAME[;arg=value], separated by commas."
        " Every fault takes n=N (only the first N times for the same request) and leg=unpaid.\n" + fault_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=DEFAULT_PORT, help="port to listen on, 0 for any (default: %(default)s)")
    add("--allow-remote", action="store_true", help="let --host be an address that other machines reach")
    add("--certfile", type=Path, help="serve TLS with this certificate")
    add("--keyfile", type=Path, help="the certificate's key")
    add("--json", action="store_true", help="print the URL and what is asked for as one line of JSON")
    networks = "networks to ask payment on, separated by commas (default: %(default)s)"
    add("--networks", default="base-sepolia,solana-devnet", help=networks)
    add("--v1", action="store_true", help="speak version 1 of x402")
    where = "where a version-2 challenge is written (default: %(default)s)"
    add("--challenge-in", choices=("both", "header", "body"), default="both", help=where)
    schemes = "what is sold, separated by commas: exact, permit2, upto, gateway (default: %(default)s)"
    add("--scheme", default="exact", metavar="SCHEMES", help=schemes)
    add("--no-sponsor", action="store_true", help="do not pay the gas of permits for Permit2")
    allowance = "atomic units that Permit2 may take of any wallet at first (default: %(default)s)"
    add("--allowance", type=int, default=0, metavar="UNITS", help=allowance)
    add("--unusable", action="store_true", help="offer a cheaper entry that nobody can pay, too")
    add("--official", action="store_true", help="say why a payment was rejected in the header alone")
    add("--no-decoys", action="store_true", help="offer only what --scheme names, no dearer entries by others")
    add("--shuffle", type=int, metavar="SEED", help="offer the entries in another, repeatable order each time")
    add("--no-blockhash", action="store_true", help="leave recentBlockhash out, so that payers ask the RPC")
    add("--memo", default="", help="a seller's memo for Solana payments")
    add("--upfront", action="store_true", help="charge before the work and keep the money when it fails")
    when = "when money moves; vendor: after the work on EVM, in parallel on Solana (default: %(default)s)"
    add("--settle", choices=("vendor", "before", "after", "parallel"), default="vendor", help=when)
    late = "seconds from the end of the work until money moves, where that is after it (default: %(default)s)"
    add("--settle-late", type=float, default=0, metavar="SECONDS", help=late)
    balance = "play money that an unknown address has, in atomic units (default: %(default)s)"
    add("--balance", default=str(ANY_BALANCE), help=balance)
    polls = "polls of a video, a song or an image before it is done (default: %(default)s)"
    add("--job-polls", type=int, default=2, metavar="N", help=polls)
    pace = "pause between the events of a stream (default: %(default)s)"
    add("--pace", type=float, default=0.02, metavar="SECONDS", help=pace)
    add("--fault", default="", metavar="FAULTS", help="faults of every request that names none itself")
    return parser


def _complain(message: str, code: int = 2) -> int:
    sys.stderr.write(f"sandbox: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
