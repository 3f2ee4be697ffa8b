"""A soak as Markdown."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .. import machine
from .run import CLIENTS, LOYAL, PARTS, REMEMBERED, TIMEOUTS, Found
from .verdict import Check, attempts

_PAGE = """\
# Soak

Written by `./run.sh bench --soak {seconds:.0f} --seed {seed} --write` on {date}. {machine}

{clients} clients at a time ask the real proxy, as `serve` starts it, for {minutes:.0f} minutes: streams of four
dialects, short answers, speech, downloads and uploads, jobs with their polls, free calls. Behind it is the sandbox on
two chains, which checks every payment: on Base, plain HTTP, money moves after success; on Solana, behind TLS, along
with the work. Half of the requests meet a fault of the gateway's: before the challenge, instead of it, after the
payment or in mid-stream. Every sixth client leaves at some point, half of these by a reset; two thirds of those that
got no whole answer ask again, twice at most; {loyal} clients keep their connections from the first request to the end.
Time-outs are short ({timeouts}), and the proxy remembers {remembered} failed requests and as many jobs, so that it
forgets some all the time. What is asked and what goes wrong is drawn from the seed; how it meets depends on the
machine.

After a warm-up ({warm_attempts:,} attempts, until what is remembered has reached its bounds) all clients stop, and what
lives within the proxy is counted after a garbage collection. Then comes the load that is judged, with {pauses} such
pauses, the last one at its end. Finally the proxy is stopped at once in the middle of more load. Then the ledger is
compared with the gateway's books, and what clients got with what the gateway sent.

## What came of it

{verdict} {attempts:,} attempts in {seconds:.0f} s; {errands:,} requests in all, repetitions and polls not counted. The
proxy waited for a processor for {waited:.0%} of the time{shared}

{checks}

How attempts ended, those of the warm-up included: {ends}.
"""
BUSY = 0.15
"""Share of waiting for a processor from which on others were using the machine, too."""


def page(found: Found, checks: Sequence[Check]) -> str:
    """The whole of docs/benchmark/soak.md."""
    on = "; ".join(f"{name} {value}" for name, value in machine.machine().items())
    packages = ", ".join(f"{name} {machine.versions()[name]}" for name in ("Python", "mitmproxy"))
    wrong = sum(not check.holds for check in checks)
    return _PAGE.format(
        seconds=found.seconds,
        seed=found.seed,
        date=time.strftime("%Y-%m-%d"),
        machine=f"{on}. {packages}.",
        clients=CLIENTS,
        minutes=found.seconds / 60,
        loyal=LOYAL,
        pauses=PARTS,
        timeouts=", ".join(f"{name} {seconds} s" for name, seconds in TIMEOUTS.items()),
        remembered=REMEMBERED,
        warm_attempts=found.warm_attempts,
        verdict=f"**{wrong} of {len(checks)} did not hold.**" if wrong else "Everything held.",
        attempts=attempts(found),
        errands=found.diary.errands,
        waited=found.waited,
        shared=": the machine was shared with others." if found.waited > BUSY else ".",
        checks=table(checks),
        ends=", ".join(f"{end} {number:,}" for end, number in found.diary.ends.most_common()),
    )


def table(checks: Sequence[Check]) -> str:
    """What must hold, and whether it did."""
    head = ("", "must be", "was", "")
    rows = [(check.what, check.aim, check.found, "" if check.holds else "**no**") for check in checks]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * 4, *rows))
