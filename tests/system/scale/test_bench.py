"""The benchmark runs end to end, in a few requests; what it measures is nobody's business here."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.candidates import OWN, Candidate, Running, Way
from bench.cells import cells_named
from bench.outcome import report, targets
from bench.outcome.results import Results, Row, read
from bench.outcome.stats import percentile, ratios, spread
from bench.place import Place
from bench.processes import Worker
from bench.rounds import Run
from bench.sides.load import Answer
from bench.sides.work import Work, event, read_work, stamps
from bench.soak.plan import KINDS, draw, request
from bench.soak.run import Sample
from bench.soak.verdict import CERTAIN, slope_of
from mitmproxy_x402.sandbox.faults import read_faults
from support import effort

ROOT = Path(__file__).resolve().parents[3]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-E", "-s", "-m", "tests.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("cells", effort.chosen(["ttfb-1", "ttfb-1,stream-1,signing"], "ttfb-1"))
def test_a_run_and_what_it_writes(tmp_path: Path, cells: str) -> None:
    is_whole = "," in cells
    candidates = "direct,mitmdump,mitmdump-stream,ours,ours-dump" if is_whole else "direct,mitmdump,ours"
    ended = bench(
        *("--cells", cells, "--candidates", candidates, "--rounds", "1", "--requests", "1", "--write", str(tmp_path))
    )
    assert ended.returncode == 0, ended.stderr
    found = read(tmp_path / "results.json")
    assert (found.absent, found.missing) == ({}, {})
    assert {name: set(rows) for name, rows in found.cells.items()} == {
        "ttfb-1": {"direct", "mitmdump", "ours", *(["ours-dump"] if is_whole else [])},
        **({"stream-1": {"direct", "mitmdump-stream", "ours", "ours-dump"}} if is_whole else {}),
    }
    paid = found.cells["ttfb-1"]["ours"]
    assert (paid.sent, paid.challenges, paid.doubles, paid.overpaid) == (9, 9, 0, 0)  # three in each of three rounds
    rounds = {name: len(one.first) for name, one in found.cells["ttfb-1"].items()}
    assert rounds == {"direct": 1, "mitmdump": 3, "ours": 3, **({"ours-dump": 3} if is_whole else {})}
    if is_whole:
        rounds = {name: len(one.delay) for name, one in found.cells["stream-1"].items()}
        assert rounds == {"direct": 3, "mitmdump-stream": 3, "ours": 3, "ours-dump": 1}
    assert set(found.signing) == ({"base", "solana"} if is_whole else set())

    page = (tmp_path / "README.md").read_text()
    assert "| this proxy, paid |" in page
    assert " so there are 3 rounds of it in `ttfb-1`" in page
    assert ended.stdout.strip().splitlines()[-1] in page
    plot = ElementTree.parse(tmp_path / "overview.svg").getroot()
    assert "bare mitmdump, unpaid" in [text.text for text in plot.iter("{http://www.w3.org/2000/svg}text")]

    (tmp_path / "README.md").unlink()
    assert bench("--render", "--write", str(tmp_path)).returncode == 0
    assert (tmp_path / "README.md").read_text() == page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cells", "nothing"], "there is no cell or figure 'nothing'; known are ttfb-1, "),
        (["--candidates", "nobody"], "there is no candidate 'nobody'; known are direct, "),
        (["--baseline", "/nowhere"], "--baseline /nowhere: there is no addon/mitmproxy_x402 in it"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], said: str) -> None:
    ended = bench(*arguments)
    assert ended.returncode == 2
    assert said in ended.stderr


ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "empty": b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("step", [1, 3, 1000])
def test_the_clients_parser(name: str, step: int) -> None:
    data, answer = ANSWERS[name], Answer()
    over = [answer.feed(data[at : at + step]) for at in range(0, len(data), step)]
    assert bytes(answer.body) == (b"" if name == "empty" else b"hello")
    assert over.index(True) == len(over) - 1


def test_what_a_request_asks_for_survives() -> None:
    work = Work(events=100, interval=5)
    body = work.body()
    assert read_work(body) == work
    assert read_work(json.dumps(json.loads(body), indent=2).encode()) == work
    assert read_work(b"{}") == Work()
    assert len(Work(request_bytes=2_000_000).body()) == pytest.approx(2_000_000, abs=100)
    assert len({Work(varied=True).body(number) for number in range(50)}) == 50


def test_events_carry_their_time() -> None:
    data = event(7, 123456789) + event(8, 123456999)
    assert [(number, sent) for number, sent, _ in stamps(data)] == [(7, 123456789), (8, 123456999)]
    assert stamps(data[:-60])[-1][0] == 7


def test_percentiles_and_ratios() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 99, 100)] == [50.0, 99.0, 100.0]
    assert percentile([3.0], 99) == 3.0
    assert str(spread([1.0, 2.0, 3.0])) == "2.00 (1.50 to 2.50)"
    assert ratios([2.0, 9.0], [1.0, 3.0]).median == 2.5


BREAKS = """
import sys
for number, _ in enumerate(sys.stdin):
    print('{"errors": ["broke"]}' if number else "{}", flush=True)
"""


def breaks(place: Place, way: Way) -> Running:
    """Takes what is asked first, for warming, and breaks at what is measured."""
    return Running(place.port("free", far=way.far), None, worker=Worker([sys.executable, "-c", BREAKS]))


def test_a_block_that_fails_is_measured_once_more(tmp_path: Path) -> None:
    starts = iter((breaks, OWN[0].start))

    def breaks_once(place: Place, way: Way) -> Running:
        return next(starts)(place, way)

    candidates = [
        Candidate("mitmdump", "breaks once", breaks_once),
        Candidate("ours", "breaks always", breaks),
    ]
    with Place(tmp_path) as place:
        run = Run(place, candidates, requests=3)
        run.cells(cells_named(["ttfb-1"]), rounds=1)
    assert run.outcome.absent == {("ttfb-1", "ours"): "failed: broke"}
    assert {key: len(blocks[0].total) for key, blocks in run.outcome.blocks.items()} == {("ttfb-1", "mitmdump"): 3}

    results = Results("", 0.0, {}, {}, 1)
    results.add(run.outcome)
    assert report.body(results, candidates).endswith(
        "## Absent\n\n- breaks always: failed: broke (ttfb-1)\n\n"
        "## Measured once more\n\n"
        "- breaks once: round 1 of ttfb-1 failed: broke\n- breaks always: round 1 of ttfb-1 failed: broke"
    )


def test_a_soaks_plan_can_be_repeated() -> None:
    errands = [draw(7, number) for number in range(500)]
    assert errands == [draw(7, number) for number in range(500)]
    assert errands != [draw(8, number) for number in range(500)]
    assert {errand.kind for errand in errands} == set(KINDS)
    assert len({request(errand) for errand in errands if errand.kind != "models"}) == sum(
        errand.kind != "models" for errand in errands
    )
    for errand in errands:
        read_faults(errand.faults)


def test_a_slope_is_told_from_noise() -> None:
    dice = random.Random(1)
    flat = [Sample(float(second), 10**8 + dice.randint(-(10**6), 10**6), 20, 3) for second in range(600)]
    rising = [replace(each, resident=each.resident + round(each.at * 10**5)) for each in flat]
    assert abs(slope_of(flat).whole) < CERTAIN * slope_of(flat).error
    assert slope_of(rising).whole == pytest.approx(600 * 10**5, rel=0.05)
    assert slope_of(rising).whole > CERTAIN * slope_of(rising).error


def row(first: float) -> Row:
    return Row([first], first, [first], first, [100.0], [1.0], [], [], 0.0, 1, 1, 0, 0, 1.0, 0.0)


def test_a_target_is_met_missed_or_not_measured() -> None:
    results = Results("", 0.0, {}, {}, 1)
    assert {target.met for target in targets.targets(results)} == {None}
    results.cells["ttfb-1"] = {"mitmdump": row(2.0), "ours": row(2.9), "blockrun-litellm": row(7.0)}
    found = {(target.what, target.aim): target for target in targets.targets(results) if target.met is not None}
    first = "Time to the first byte, one at a time, this proxy : "
    assert found[first + "blockrun-litellm", "at most 0.4"].met is False
    assert found[first + "bare mitmdump, unpaid", "at most 1.05"].met is False
    assert found[first + "bare mitmdump, unpaid", "at most 1.05"].found == "1.45 (1.45 to 1.45)"
