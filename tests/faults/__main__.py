"""Runs the fault matrix and compares what it saw with docs/faults.md.

usage: python -m tests.faults [--write] [GROUP...]

GROUP is slow, gateway, rpc, ledger, clock or kill; all of them unless some are named. --write puts what was seen into
the page. Takes about a minute, talks to 127.0.0.1 only. Exit code 1: something was seen that must never be, or, without
--write, something else than the page says.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults import table
from faults.run import GROUPS, run


def main(arguments: list[str]) -> int:
    """The program's exit code."""
    writes = "--write" in arguments
    groups = [argument for argument in arguments if argument != "--write"]
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        print(__doc__ if unknown[0] in ("-h", "--help") else f"there is no group {unknown[0]}; see --help")
        return 0 if unknown[0] in ("-h", "--help") else 2
    wrong: list[str] = []
    for group in groups or GROUPS:
        results = run(group)
        for result in results:
            print(f"{result.what.name:40} {result.text}", flush=True)
            wrong += [f"{result.what.name}: {what}" for what in result.wrong]
        cells = table.text_of(results)
        if writes:
            table.write(cells)
        else:
            wrong += table.differences(cells)
    if not writes:
        wrong += [f"docs/faults.md is stale between the marks {mark}: run with --write" for mark in table.stale()]
    print("\n".join(["", *wrong]) if wrong else "\nnothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
