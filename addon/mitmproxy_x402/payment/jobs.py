"""Tracks jobs: requests for video, music or images that are answered 202 and polled until they are done.

The request's payment belongs to its job, and limits what the polls of that job may cost:

    EVM      money moves after success: each poll carries the job's payment, the very same header. A 402 on a poll gets
             another signature over the same nonce, for the same payee, network and asset, and for no more. The token
             accepts each nonce once, so all signatures of a job together can move only one payment; also after a
             restart, since the ledger has the nonce.
    Solana   polls carry a proof that they come from the wallet that paid: a signature over the job's id and the time,
             which moves nothing. A 402 in answer to it is the bill of a job whose request was not charged. Until the
             request's payment has expired, that same payment answers the bill; after that a new one does, once, within
             the same terms, and it counts in every limit and budget.

This module reads a 202, recognises polls, and remembers live jobs; `polls` makes the payments of a poll. The ledger
keeps what must survive a restart. Signed headers and proofs are kept in memory only.
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
from .signing.payment import Payment

JOB_SECONDS = 24 * 3600
"""Seconds after the request's payment during which anything is signed for a job; results are kept about as long."""
MAX_JOBS = 2000
"""Most live jobs in memory; older ones are read from the ledger."""
MAX_PROMISE = 64 * 1024
"""Most bytes of a 202's body that are read; a longer one is taken to name no job."""
MAX_ADDRESS = 1000
"""Most characters of a job's polling address."""

_POLL_KEYS = ("poll_url", "polling_url")


@dataclass
class Job:
    """One live job. `submitted` bounds what it may still cost."""

    address: str
    family: Family
    submitted: Submitted
    payment: Payment | None = None
    """The payment that polls carry (EVM) or that answers a bill (Solana); None: this process does not have it."""
    sends: int = 0
    """Number of times that `payment` was sent."""
    state: State = "unknown"
    """The payment's last known state in the ledger."""
    stale: bool = False
    """Solana: whether the gateway reports that the payment's blockhash has expired."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while something is signed."""


class Jobs:
    """The live jobs of this process. `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._live: OrderedDict[tuple[str, str], tuple[float, Job]] = OrderedDict()

    def polled(self, request: Request, ledger: str) -> str | None:
        """The address that `request` polls, if it may be a poll; cheap, since every request is checked.

        `ledger` is the name of the current ledger.
        """
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
        """Remember a new job."""
        self._keep(ledger, job, JOB_SECONDS)

    def _keep(self, ledger: str, job: Job, seconds: float) -> None:
        self._live[ledger, job.address] = self._clock() + seconds, job
        self._live.move_to_end((ledger, job.address))
        while len(self._live) > MAX_JOBS:
            self._live.popitem(last=False)


def address(request: Request, path: str) -> str | None:
    """The address of a poll: the upstream's origin and `path`, without its query and the gateway's alias.

    None: it is too long to be remembered.
    """
    plain = gateway_of(request.host).plain_path(unquote(path.partition("?")[0]))
    return f"{upstream_origin(request)} {plain}" if len(plain) <= MAX_ADDRESS else None


def promised(request: Request, location: str | None, body: bytes) -> str | None:
    """The polling address of the job that a 202 with `body` (decoded) names, or None.

    It is `poll_url`, else the Location header, else the request's path followed by the job's `id`. None if it is on
    another origin than the upstream.
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
    """Collects the body of a 202, for `body_observers.tap`, and calls `done` once with all of it, if it is short.

    This does more than an observer should, because the client may poll as soon as it has the last byte: the job must be
    in the ledger by then. It costs one small JSON object and one write per job.
    """

    def __init__(self, length: str | None, done: Callable[[bytes], None]) -> None:
        self._length = int(length) if length is not None and length.isdecimal() else -1
        self._done = done
        self._body = bytearray()
        self._open = True

    def __call__(self, data: bytes) -> None:
        """Take one more chunk, or the end."""
        self._body += data if self._open else b""
        if self._open and len(self._body) > MAX_PROMISE:
            self._open = False
        if self._open and (not data or len(self._body) == self._length):
            self._open = False
            self._done(bytes(self._body))
