"""What is measured: each cell is one kind of load, named, and chosen because one of the targets asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .candidates import NEAR, Way
from .load import Job
from .work import Work

PEERS = ("blockrun-litellm", "x402-httpx", "x402-httpx-coincurve", "x402-fetch")
FLOORS = ("direct", "mitmdump")
OURS = ("ours", "ours-s", "ours-free", "ours-preauthorize", "ours-dump")


@dataclass(frozen=True)
class Cell:
    """One kind of load, for the candidates named."""

    name: str
    title: str
    job: Job
    """Without its port; `requests` is the size of one block of a full run."""
    candidates: tuple[str, ...]
    way: Way = NEAR
    reference: str = "mitmdump"
    """The candidate that the others are set in relation to."""

    def job_for(self, port: int, *, tls: bool, quick: bool) -> Job:
        requests = max(self.job.concurrency, self.job.requests // (3 if quick else 1))
        return replace(self.job, port=port, tls=tls, requests=requests)


def _job(requests: int, concurrency: int = 1, *, keep_alive: bool = True, warm: int = 2, **work: int) -> Job:
    return Job(0, requests, concurrency, keep_alive, warm, Work(**work))


_ALL = (*FLOORS, *OURS, *PEERS)
_STREAMS = ("direct", "mitmdump-stream", "ours", "ours-preauthorize", "ours-dump", *PEERS)

CELLS: tuple[Cell, ...] = (
    Cell("ttfb-1", "JSON, one at a time", _job(100), _ALL),
    Cell("rps-16", "JSON, 16 at a time", _job(480, 16), _ALL),
    Cell("rps-64", "JSON, 64 at a time", _job(640, 64), _ALL),
    Cell("new-1", "JSON, one at a time, each on a new connection", _job(60, keep_alive=False), (*FLOORS, *OURS[:3])),
    Cell("solana-1", "JSON, one at a time, paid on Solana", _job(100), (*FLOORS, *OURS[:2]), Way("solana")),
    Cell("solana-16", "JSON, 16 at a time, paid on Solana", _job(480, 16), (*FLOORS, *OURS[:2]), Way("solana")),
    Cell(
        "upload-1", "request of 2 MB, one at a time", _job(20, request_bytes=2_000_000), ("direct", "mitmdump", "ours")
    ),
    Cell("far-1", "JSON, one at a time, 30 ms away, TLS", _job(15), (*FLOORS, *OURS[:4]), Way(far=True), "direct"),
    Cell(
        "far-new-1",
        "JSON, each on a new connection, 30 ms away, TLS",
        _job(8, keep_alive=False),
        (*FLOORS, *OURS[:3]),
        Way(far=True),
        "direct",
    ),
    Cell(
        "stream-1",
        "100 events, 5 ms apart, one stream at a time",
        _job(2, warm=1, events=100, interval=5),
        _STREAMS,
        reference="mitmdump-stream",
    ),
    Cell(
        "stream-16",
        "100 events, 10 ms apart, 16 streams at a time",
        _job(16, 16, warm=1, events=100, interval=10),
        _STREAMS,
        reference="mitmdump-stream",
    ),
    Cell(
        "stream-64",
        "100 events, 40 ms apart, 64 streams at a time",
        _job(64, 64, warm=0, events=100, interval=40),
        _STREAMS,
        reference="mitmdump-stream",
    ),
)


def cells_named(names: str) -> list[Cell]:
    """The cells whose name is, or begins with, one of `names` (separated by commas). Raises ValueError."""
    found = []
    for name in names.split(","):
        matching = [cell for cell in CELLS if cell.name == name or cell.name.startswith(f"{name}-")]
        if not matching:
            raise ValueError(f"there is no cell {name!r}; known are {', '.join(cell.name for cell in CELLS)}")
        found += [cell for cell in matching if cell not in found]
    return found
