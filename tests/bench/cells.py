"""What is measured: each cell is one kind of load, named, and chosen because one of the targets asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .candidates import NEAR, Way
from .sides.load import Job
from .sides.work import Work

_SHORT = Work()
_FAR = Way(far=True)
_PEERS = ("blockrun-litellm", "x402-httpx", "x402-httpx-coincurve", "x402-fetch")
_FLOORS = ("direct", "mitmdump", "baseline")
_OURS = ("ours", "ours-run", "ours-free", "ours-preauthorize", "ours-dump", "ours-unsynced")
_ALL = (*_FLOORS, *_OURS, *_PEERS)
CLOSELY = 3
"""Rounds of what is compared closely, for each of all else."""
_CLOSE = ("mitmdump", "baseline", "ours", "ours-preauthorize", "ours-dump")
_CLOSE_STREAMS = ("direct", "mitmdump-stream", "baseline", "ours")
_STREAMS = ("direct", "mitmdump-stream", "baseline", "ours", "ours-run", "ours-preauthorize", "ours-dump", *_PEERS)


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
    quick: bool = True
    """Whether a quick run measures it, too."""
    closely: tuple[str, ...] = ()
    """Candidates that a target compares so closely that it matters how their processes happen to start: a whole run
    has `CLOSELY` rounds of them for each of the others."""

    @property
    def close(self) -> Cell:
        """The same, for the candidates to be measured closely."""
        return replace(self, candidates=self.closely)

    def job_for(self, port: int, *, tls: bool, requests: int, seed: int) -> Job:
        """The job of one block; with `requests` other than 0, of that size."""
        size = max(self.job.concurrency, requests or self.job.requests)
        return replace(self.job, port=port, tls=tls, requests=size, seed=seed)


def _job(requests: int, concurrency: int = 1, work: Work = _SHORT, *, keep_alive: bool = True, warm: int = 2) -> Job:
    return Job(0, requests, concurrency, keep_alive, warm, work)


def _streams(number: int, interval: int) -> Job:
    return _job(max(number, 3), number, Work(events=100, interval=interval), warm=0)


CELLS: tuple[Cell, ...] = (
    Cell("ttfb-1", "JSON, one request at a time", _job(100), _ALL, closely=_CLOSE),
    Cell("rps-16", "JSON, 16 requests at a time", _job(640, 16), _ALL, closely=_CLOSE),
    Cell("rps-64", "JSON, 64 requests at a time", _job(448, 64), _ALL),
    Cell("new-1", "JSON, each request on a new connection", _job(60, keep_alive=False), (*_FLOORS, *_OURS[:4])),
    Cell(
        "upload-1",
        "requests of 2 MB, one at a time",
        _job(16, work=Work(request_bytes=2_000_000)),
        (*_FLOORS, "ours", "ours-preauthorize", "blockrun-litellm", "x402-fetch"),
    ),
    Cell(
        "stream-1",
        "100 events 5 ms apart, one stream at a time",
        _streams(1, 5),
        _STREAMS,
        reference="mitmdump-stream",
        closely=_CLOSE_STREAMS,
    ),
    Cell(
        "stream-16",
        "100 events 10 ms apart, 16 streams at a time",
        _streams(16, 10),
        _STREAMS,
        reference="mitmdump-stream",
        closely=_CLOSE_STREAMS,
    ),
    Cell(
        "stream-64",
        "100 events 30 ms apart, 64 streams at a time",
        _streams(64, 30),
        _STREAMS,
        reference="mitmdump-stream",
        closely=_CLOSE_STREAMS,
        quick=False,
    ),
    Cell(
        "mixed-1",
        "JSON, each request of another size and price",
        _job(100, work=Work(varied=True)),
        ("mitmdump", "ours", "ours-preauthorize"),
        Way("metered"),
    ),
    Cell("solana-1", "paid on Solana, one request at a time", _job(100), (*_FLOORS, *_OURS[:4]), Way("solana")),
    Cell("solana-16", "paid on Solana, 16 requests at a time", _job(320, 16), (*_FLOORS, *_OURS[:4]), Way("solana")),
    Cell(
        "solana-rpc-1",
        "paid on Solana, no blockhash in the challenge",
        _job(100),
        ("mitmdump", "ours"),
        Way("solana-rpc"),
        quick=False,
    ),
    Cell(
        "far-1",
        "30 ms away by TLS, connections kept",
        _job(30),
        (*_FLOORS, *_OURS[:4]),
        _FAR,
        "direct",
        closely=("direct", "baseline", "ours"),
    ),
    Cell(
        "far-new-1",
        "30 ms away by TLS, each request on a new connection",
        _job(8, keep_alive=False, warm=1),
        (*_FLOORS, *_OURS[:4]),
        _FAR,
        "direct",
    ),
)


def cells_named(names: list[str]) -> list[Cell]:
    """The cells whose name is one of `names`, or one of `names` and a number. Raises ValueError."""
    found = []
    for name in names:
        matching = [cell for cell in CELLS if name in (cell.name, cell.name.rpartition("-")[0])]
        if not matching:
            raise ValueError(repr(name))
        found += [cell for cell in matching if cell not in found]
    return found
