"""The fault matrix as tests: one for each group of tries that share a proxy."""

from __future__ import annotations

import pytest

from faults import table
from faults.plan import FAULTS, MEET, POINTS, cells, why_not
from faults.run import GROUPS, run, tries_in
from support import effort


@pytest.mark.parametrize("group", effort.chosen(GROUPS, "gateway", "ledger", "clock", "kill"))
def test_nothing_is_lost_whatever_goes_wrong(group: str) -> None:
    """And it is as docs/faults.md says; `python -m tests.faults --write` writes that anew."""
    results = run(group)
    assert [f"{result.what.name}: {wrong}" for result in results for wrong in result.wrong] == []
    assert table.differences(table.text_of(results)) == []


def test_the_page_is_what_the_plan_makes_of_it() -> None:
    assert table.stale() == []


def test_every_cell_is_tried_or_says_why_not() -> None:
    tried = {(what.point, what.fault) for group in GROUPS for what in tries_in(group)}
    assert tried == set(cells())
    for point in POINTS:
        for fault in FAULTS:
            assert (fault.key in MEET[point.key]) != bool(_reason(point.key, fault.key))


def _reason(point: str, fault: str) -> str:
    try:
        return why_not(point, fault)
    except KeyError:
        return ""


def test_no_two_tries_share_a_path() -> None:
    paths = [what.path for group in GROUPS for what in tries_in(group)]
    assert len(paths) == len(set(paths))
