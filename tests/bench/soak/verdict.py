"""What must hold after a soak, each with what was seen."""

from __future__ import annotations

import itertools
import os
import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .plan import draw, request
from .run import REMEMBERED, Found, Sample

FREE = ("rejected", "released", "expired")
"""States of the ledger that do not count."""
OPEN = ("reserved", "sent")
AT_MOST = 2
"""Settlements of one errand: one, and `x402_repurchase` more. A client that has left before its answer was over, and
asks again, may buy anew each time: the answer was whole, and the proxy cannot know how much of it was read."""
FEW = 200
"""Objects of a kind that may be there more than before: what comes and goes."""
TASKS, SOCKETS = 4, 2
"""Of an idle connection of a client: handlers and watchdogs of both sides; its own socket and the upstream's."""
CERTAIN = 3.0
"""Standard errors of a slope beyond which it is no noise."""
LEAST = 1024
"""Bytes an attempt below which a slope is no leak: the least that a request is known by takes more."""
ROOM = 16_000_000
"""Bytes that the allocator may take in any case, until there is room for whatever is open at once."""
POOL = min(32, (os.cpu_count() or 1) + 4)
"""Most threads of asyncio's own pool, by Python's documentation: it begins them when there is work, and keeps them."""
_FAULTS = re.compile(
    r"Traceback|internal_error|a fault of the addon|has crashed|never retrieved|was destroyed|Addon error"
)


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    what: str
    aim: str
    found: str
    holds: bool


def checks(found: Found) -> list[Check]:
    """All of them."""
    return [*_inside(found), *_outside(found), *_ledger(found), *_books(found), *_clients(found), *_end(found)]


def _check(what: str, aim: str, wrong: Sequence[object], seen: str = "") -> Check:
    """Holds where nothing is wrong; else the first of it is named."""
    return Check(what, aim, f"{len(wrong)}, as {wrong[0]}" if wrong else seen or "0", not wrong)


def attempts(found: Found) -> int:
    """Of the part that is judged."""
    return found.diary.attempts - found.warm_attempts


# Within the proxy.


KNOWN_FIELDS = 4096
"""Fields of heads that the redactor knows to be clean: it keeps 256 KB of them."""


def _inside(found: Found) -> Iterator[Check]:
    before, after = found.quiet[0], found.quiet[-1]
    more = after["clients"] - before["clients"]
    peak = max((each["tasks"] for each in found.during), default=0)
    aim = f"those before, and {TASKS} for each connection that is open now and was not then ({more:+})"
    seen = f"{before['tasks']} before, {peak} under load, {after['tasks']} after"
    yield Check("asyncio tasks", aim, seen, after["tasks"] <= before["tasks"] + TASKS * max(more, 0))
    peak = max((each["connections"] for each in found.during), default=0)
    seen = f"{peak} under load, {after['connections']} after"
    aim = f"as many as the clients have: {after['clients']}"
    yield Check("connections of clients", aim, seen, after["connections"] == after["clients"])
    flows = {kind: after["kinds"].get(kind, 0) for kind in _TRANSIENT}
    seen = ", ".join(f"{number} {kind.rpartition('.')[2]}" for kind, number in flows.items())
    yield Check("flows, streams, exchanges, purchases", "none", seen, not any(flows.values()))
    allowed = FEW + attempts(found) // 100
    kind, number = max(kinds_grown(found).items(), key=lambda item: item[1], default=("nothing", 0))
    aim = f"at most {allowed} more than before: {FEW}, and one for every 100 attempts"
    yield Check("objects of any kind", aim, f"{number} more of {kind}", number <= allowed)
    over = [f"{name} with {size}" for name, size in after["held"].items() if size > _bound(name, before)]
    aim = f"none larger than before, or than twice what is remembered at a time ({REMEMBERED} here)"
    yield _check("containers that the addon's modules and the addon itself keep", aim, over)
    left = [f"{name} with {size}" for name, size in after["held"].items() if name.endswith(_BY_FLOW) and size]
    yield _check("dictionaries by flow", "empty", left)
    memories = after["kinds"].get("mitmproxy_x402.payment.retained.store.Memory", 0)
    yield Check("payments held for a repetition", f"at most {REMEMBERED}", f"{memories}", memories <= REMEMBERED)


def _bound(name: str, before: dict[str, Any]) -> int:
    size: int = before["held"].get(name, 0)
    return max(size, KNOWN_FIELDS if name.endswith("._redactor._known") else 2 * REMEMBERED)


_BY_FLOW = ("._exchanges", "._purchases", "._service._live", "x402service._live")
_TRANSIENT = (
    "mitmproxy.http.HTTPFlow",
    "mitmproxy_x402.proxy.stream.X402Stream",
    "mitmproxy_x402.proxy.exchange.Exchange",
    "mitmproxy_x402.payment.purchase.Purchase",
    "mitmproxy_x402.payment.polls.Poll",
)


def kinds_grown(found: Found) -> Counter[str]:
    """By kind of object: how many more there are than before."""
    grown: Counter[str] = Counter(found.quiet[-1]["kinds"])
    grown.subtract(found.quiet[0]["kinds"])
    return grown


# From outside.


def _outside(found: Found) -> Iterator[Check]:
    before, after = found.quiet[0]["outside"], found.quiet[-1]["outside"]
    more = SOCKETS * max(found.quiet[-1]["clients"] - found.quiet[0]["clients"], 0)
    peak = max(sample.files for sample in found.samples)
    seen = f"{before.files} before, {peak} under load, {after.files} after"
    aim = f"those before, and {SOCKETS} for each connection that is open now and was not then"
    yield Check("open files and sockets", aim, seen, after.files <= before.files + more)
    peak = max(sample.threads for sample in found.samples)
    more = Counter(found.quiet[-1]["threads"]) - Counter(found.quiet[0]["threads"])
    seen = f"{before.threads} before, {peak} under load, {after.threads} after {' '.join(more)}"
    pool = sum(name.startswith("asyncio_") for name in more)
    aim = f"no more than before, and at most {POOL} that asyncio keeps for its next piece of work"
    yield Check("threads", aim, seen, after.threads <= before.threads + min(pool, POOL))
    quiet = [each["outside"] for each in found.quiet]
    slope, allowed = slope_of(quiet), max(ROOM, LEAST * attempts(found))
    aim = (
        f"each time that all is quiet, what is free given back: no growth, on a straight line through them, beyond "
        f"{CERTAIN:g} standard errors of it and beyond {allowed / 1e6:.0f} MB, which is {ROOM / 1e6:.0f} MB for the "
        f"allocator or {LEAST} bytes an attempt"
    )
    seen = f"{_megabytes(quiet)} MB: {slope.whole / 1e6:+.1f} ± {slope.error / 1e6:.1f}"
    yield Check("resident memory", aim, seen, slope.whole < max(CERTAIN * slope.error, allowed))
    loaded = found.samples[:: max(1, len(found.samples) // 10)]
    yield Check("the same under load", "for information", f"{_megabytes(loaded)} MB", True)


def _megabytes(samples: Sequence[Sample]) -> str:
    return ", ".join(f"{sample.resident / 1e6:.0f}" for sample in samples)


@dataclass(frozen=True)
class Slope:
    """A straight line: growth from its begin to its end, and the standard error of that."""

    whole: float
    error: float


def slope_of(samples: Sequence[Sample]) -> Slope:
    """The growth of memory."""
    at, resident = [sample.at for sample in samples], [sample.resident for sample in samples]
    line = statistics.linear_regression(at, resident)
    rest = [value - line.slope * time - line.intercept for time, value in zip(at, resident, strict=True)]
    spread = sum((time - statistics.fmean(at)) ** 2 for time in at)
    error = (sum(value**2 for value in rest) / max(1, len(at) - 2) / spread) ** 0.5
    length = at[-1] - at[0]
    return Slope(line.slope * length, error * length)


# The books.


def _ledger(found: Found) -> Iterator[Check]:
    states = Counter(row["state"] for row in found.rows)
    seen = ", ".join(f"{number} {state}" for state, number in states.most_common())
    left = [row["reference"] or row["id"] for row in found.rows if row["state"] in OPEN]
    yield _check("payments in the ledger without an end", "none", left, seen)
    references = Counter(row["reference"] for row in found.rows if row["reference"])
    twice = [reference for reference, number in references.items() if number > 1]
    yield _check("references with two rows", "none", twice)


def _books(found: Found) -> Iterator[Check]:
    rows = {row["reference"]: row for row in found.rows if row["reference"]}
    payments = {payment["reference"]: payment for book in found.books.values() for payment in book["payments"]}
    arrivals = {reference: names for book in found.books.values() for reference, names in book["arrivals"].items()}
    settled = {reference: payment for reference, payment in payments.items() if payment["state"] == "settled"}

    unknown = [reference for reference in arrivals if reference not in rows or not rows[reference]["sends"]]
    seen = f"{len(arrivals)} payments came, {sum(map(len, arrivals.values()))} times"
    yield _check(
        "payments that came to the gateway, and that the ledger does not know to be sent", "none", unknown, seen
    )
    free = [reference for reference in settled if rows.get(reference, {"state": ""})["state"] in FREE]
    yield _check("settled payments that do not count in the ledger", "none", free, f"{len(settled)} were settled")
    said = [row for row in rows.values() if row["state"] == "settled"]
    wrong = [
        row["reference"]
        for row in said
        if row["reference"] not in settled or settled[row["reference"]]["transaction"] != row["transaction_id"]
    ]
    yield _check("settled in the ledger, and not so at the gateway", "none", wrong, f"{len(said)} agree")
    amounts = [ref for ref, payment in settled.items() if ref in rows and int(rows[ref]["amount"]) != payment["amount"]]
    yield _check("settled payments of another amount than in the ledger", "none", amounts)
    moved = sum(book["moved"] for book in found.books.values())
    sums = sum(payment["amount"] for payment in settled.values())
    yield Check(
        "money that left the wallets, in millionths", f"the settled payments: {sums}", f"{moved}", moved == sums
    )
    errands: Counter[str] = Counter()
    for reference in settled:
        errands[arrivals[reference][0]] += 1
    often = [f"{name} {number} times" for name, number in errands.items() if number > _at_most(found.seed, name)]
    counts = Counter(errands.values())
    seen = ", ".join(f"{count} settled {times}x" for times, count in sorted(counts.items()))
    aim = f"none; {AT_MOST}, and one more each time that a client has left its answer and asks again"
    yield _check("requests that were settled more often than they may be", aim, often, seen)
    mixed = [reference for reference, names in arrivals.items() if not _are_one(found.seed, set(names))]
    aim = "none, but for one and others without a body, any of which may follow a redirect that came for it"
    yield _check("payments that were sent for two requests", aim, mixed)


def _are_one(seed: int, names: set[str]) -> bool:
    """Whether the requests of these names may carry one payment."""
    return sum(1 for name in names if request(draw(seed, int(name.rpartition("-")[2])))[2]) < 2


def _at_most(seed: int, name: str) -> int:
    errand = draw(seed, int(name.rpartition("-")[2]))
    return AT_MOST + (errand.repeats if errand.leaves else 0)


def _clients(found: Found) -> Iterator[Check]:
    yield _check("clients that waited for ever", "none", found.diary.wrong)
    answers = {door: book["answers"] for door, book in found.books.items()}
    other = [
        f"{whole.door} {whole.request_id}"
        for whole in found.diary.wholes
        if answers[whole.door].get(whole.request_id) != [whole.size, whole.digest]
    ]
    seen = f"{len(found.diary.wholes)} are, byte for byte"
    yield _check("whole answers that are not what the gateway sent whole", "none", other, seen)


def _faults(log: list[str]) -> Iterator[str]:
    """Each with the line before it, and the end of what belongs to it, where a traceback names the error."""
    for at, line in enumerate(log):
        if _FAULTS.search(line):
            more = itertools.takewhile(lambda each: not each.startswith("["), log[at + 1 : at + 100])
            yield " / ".join(each.strip() for each in (*log[max(0, at - 1) : at], line, *list(more)[-5:]))


def _end(found: Found) -> Iterator[Check]:
    yield _check("faults in the log", "none", list(_faults(found.log.splitlines())))
    yield Check("the stop in the middle of load", "exit code 0", f"exit code {found.exit_code}", found.exit_code == 0)
