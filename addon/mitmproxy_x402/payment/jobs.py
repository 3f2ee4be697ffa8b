"""Jobs: requests for video, music or images that are answered 202 and polled for. Remembers which payment is whose.

The payment of such a request belongs to its job, and what polls may cost follows from it (protocol, section 4):

    EVM      money moves after success: each poll carries the job's payment, the very same header. A 402 on a poll gets
             another signature over the same nonce, for the same payee, network and asset, and for no more. The token
             takes each nonce once, so all signatures of a job together move the money of one; also after a restart,
             since the ledger knows the nonce.
    Solana   polls carry a proof that the wallet asks which paid: a signature over the job's id and the time, which
             moves nothing. A 402 in answer to it is the bill of a job that its request did not pay for. Until the
             request's payment has died, the bill is answered with that very payment; after that with a new one, once,
             within the same terms, which counts in every limit and budget.

Here is what a 202 says, which request is a poll, and the memory of live jobs; `polls` has the money of a poll. The
ledger keeps what must outlive this process. Signed headers and proofs are never written anywhere.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urljoin, urlsplit

from ..errors import Undecodable
from ..gateways import gateway_of
from ..ledger.interface import Ledger, State, Submitted
from ..protocol.http_message import Request, upstream_origin
from ..protocol.networks import Family
from ..protocol.strict_json import decode_json
from .payer import Payment

JOB_SECONDS = 24 * 3600
"""For how long after its request's payment anything is signed for a job; results are kept about as long."""
MAX_JOBS = 2000
"""Live jobs that are remembered; of older ones the ledger knows enough."""
MAX_PROMISE = 64 * 1024
"""Bytes of a 202's body that are read; a longer one names no job."""
MAX_ADDRESS = 1000
"""Characters of the place where a job is polled."""

_POLL_KEYS = ("poll_url", "polling_url")


@dataclass
class Job:
    """One live job. What it may still cost is bounded by `submitted`."""

    address: str
    family: Family
    submitted: Submitted
    payment: Payment | None = None
    """What polls carry (EVM), or what answers a bill (Solana); None: this process does not have it."""
    sends: int = 0
    """How often `payment` was sent."""
    state: State = "unknown"
    """What the ledger last said of the payment."""
    stale: bool = False
    """Solana: the gateway says that the payment has died."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while something is signed."""


class Jobs:
    """The live jobs of this process. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._live: OrderedDict[tuple[str, str], tuple[float, Job]] = OrderedDict()

    def polled(self, request: Request, ledger: str) -> str | None:
        """Where `request` polls, if it may be a poll: cheap, asked for every request. `ledger` is that one's name."""
        if request.method != "GET":
            return None
        where = address(request, request.path)
        if where is None or (
            (ledger, where) not in self._live and gateway_of(request.host).polled(request.path) is None
        ):
            return None
        return where

    def find(self, where: str, ledger: Ledger) -> Job | None:
        """The job that is polled at `where`, from memory or from the ledger. Raises LedgerError."""
        until, job = self._live.get((ledger.name, where), (0.0, None))
        if job is None or until <= self._clock():
            submitted = ledger.find_job(where)
            if submitted is None or submitted.age > JOB_SECONDS:
                return None
            family: Family = "svm" if submitted.network.startswith("solana:") else "evm"
            job = Job(where, family, submitted, sends=1, state=submitted.state)
            self._keep(ledger.name, job, JOB_SECONDS - submitted.age)
        return job

    def add(self, job: Job, ledger: str) -> None:
        """A job has just come to be."""
        self._keep(ledger, job, JOB_SECONDS)

    def _keep(self, ledger: str, job: Job, seconds: float) -> None:
        self._live[ledger, job.address] = self._clock() + seconds, job
        self._live.move_to_end((ledger, job.address))
        while len(self._live) > MAX_JOBS:
            self._live.popitem(last=False)


def address(request: Request, path: str) -> str | None:
    """Where a job is polled: the upstream's origin and `path`, without its query, whichever alias it is written with.

    None: too long to be remembered.
    """
    plain = gateway_of(request.host).plain_path(unquote(path.partition("?")[0]))
    return f"{upstream_origin(request)} {plain}" if len(plain) <= MAX_ADDRESS else None


def promised(request: Request, location: str | None, body: bytes) -> str | None:
    """The address at which the job is polled that a 202 with `body` (decoded) answers `request` with, or None.

    Named by `poll_url`, else by the Location header, else it is the request's path with the job's `id` behind it. None
    as well where it lies beyond the upstream that the request went to.
    """
    try:
        said, _ = decode_json(body)
    except Undecodable:
        said = None
    said = said if isinstance(said, dict) else {}
    named = [*(said.get(key) for key in _POLL_KEYS), location]
    path = request.path.partition("?")[0]
    target = next((text for text in named if isinstance(text, str) and text), None)
    if target is None and isinstance(said.get("id"), str) and said["id"]:
        target = f"{path}/{quote(said['id'], safe='')}"
    try:
        found = urlsplit(urljoin(f"{upstream_origin(request)}{path}", target or ""))
        port = found.port or {"https": 443, "http": 80}.get(found.scheme)
    except ValueError:
        return None
    if not target or (found.scheme, found.hostname, port) != (request.scheme, request.host.lower(), request.port):
        return None
    return address(request, found.path)


class Promise:
    """Reads the body of a 202 as it passes, for `taps.tap`: `done` gets the whole of it, once, if it is short.

    It does more than a receiver should, for the client may poll as soon as it has the last byte: by then the job must
    be known, in the ledger too. That is one small object of JSON and one write for each job.
    """

    def __init__(self, length: str | None, done: Callable[[bytes], None]) -> None:
        self._length = int(length) if length is not None and length.isdecimal() else -1
        self._done = done
        self._body = bytearray()
        self._open = True

    def __call__(self, data: bytes) -> None:
        """One more chunk, or the end."""
        self._body += data if self._open else b""
        if self._open and len(self._body) > MAX_PROMISE:
            self._open = False
        if self._open and (not data or len(self._body) == self._length):
            self._open = False
            self._done(bytes(self._body))
