"""Answers requests for videos, songs and images with jobs: 202, then polls until the job is done.

It does what the real gateway is reported to do. A poll is authenticated by the payment, or on Solana by the payer's
signature over the job's id and the time; without it the answer is that there is no such job. Money moves
with the first poll that finds the job done (EVM), along with the request (songs and images on Solana), or by a bill: a
finished, unpaid video on Solana answers a poll with a 402. A job that fails costs nothing where money moves after
success.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote as quoted
from urllib.parse import unquote

from ..protocol import headers
from .answers import FREE
from .chains.interface import REPLAY, Rejected
from .config import SandboxConfig
from .payments.pricing import Quote, Rates, quote
from .records import ReceivedPayment, ReceivedRequest
from .work import Route, Work, json_work, plain_path

FAILING = "sandbox-failing"
"""A model whose jobs fail."""
PROOF_SECONDS = 300
"""Seconds by which a proof's time may differ from ours."""
MAX_JOBS = 10_000

_SUBMIT = re.compile(r"/v1/(videos|audio|images)/generations")
_POLL = re.compile(_SUBMIT.pattern + r"/([^/]+)")
_KINDS = {"videos": "video", "audio": "audio", "images": "image"}
_PREFIXES = {"videos": "vid/", "audio": "mus_", "images": "img_"}
"""Prefixes of job ids; a video's contains a slash, so it has to be quoted in a path."""
_PROOF = ("x-poll-wallet", "x-poll-timestamp", "x-poll-signature")


@dataclass(frozen=True)
class Poll:
    """A request that asks for a job."""

    room: str
    """`videos`, `audio` or `images`."""
    id: str

    def no_such_job(self) -> Work:
        """The answer for an unknown job, and for somebody else's."""
        if self.room == "videos":
            return json_work({"error": "Invalid job id", "details": "Pass the job id from POST back verbatim"}, 400)
        return json_work({"error": "Job not found"}, 404)


@dataclass
class Job:
    """One job. `polls` counts the polls that were admitted."""

    id: str
    room: str
    model: str
    created: int
    price: Quote
    path: str
    """Of the request that it came from."""
    fingerprint: str
    payer: str
    """Empty: free, and shown to everybody."""
    needed: int
    """Polls before it is done."""
    url: str
    polls: int = 0
    payments: list[ReceivedPayment] = field(default_factory=list)
    headers: set[str] = field(default_factory=set, repr=False)
    """Payments that it was bought or polled with: they show who asks, also when they are spent."""

    @property
    def paid(self) -> ReceivedPayment | None:
        """The payment of this job whose money moved."""
        return next((payment for payment in self.payments if payment.state == "settled"), None)

    @property
    def status(self) -> str:
        """`queued`, `in_progress`, `completed` or `failed`."""
        if self.polls <= self.needed:
            return "queued" if self.polls <= 1 else "in_progress"
        return "failed" if self.model == FAILING else "completed"

    def head(self) -> dict[str, Any]:
        """What every answer about the job contains."""
        kind = _KINDS[self.room]
        return {"id": self.id, "object": f"{kind}.generation.job", "status": self.status, "model": self.model}

    def submitted(self, *, charge: bool) -> Work:
        """The answer to the request that it came from."""
        where = f"/api/v1/{self.room}/generations/{quoted(self.id, safe='')}"
        query = "?duration=8" if self.room == "videos" else ""
        said = {**self.head(), "poll_url": where + query, "created": self.created}
        return replace(json_work(said, 202), charge=charge)

    def show(self, now: int) -> Work | None:
        """The answer to one more poll by its owner; None: it is done, and has to be paid first."""
        self.polls += 1
        if self.status == "completed" and self.payer and self.paid is None:
            return None
        return self._shown(now)

    def route(self, request: ReceivedRequest) -> Route:
        """The route of a poll with a payment, which is charged if the job is done and not yet paid."""

        def paid(now: int, payment: ReceivedPayment, timing: str) -> Work:  # noqa: ARG001
            if payment.payer != self.payer:
                return replace(Poll(self.room, self.id).no_such_job(), charge=False)
            self.polls += 1
            self.headers.add(payment_of(request))
            due = self.status == "completed" and self.paid is None
            if payment not in self.payments:
                self.payments.append(payment)
            return self._shown(now, charge=due)

        return Route(False, "openai", self._shown, paid)

    def _shown(self, now: int, *, charge: bool = False) -> Work:
        said = self.head()
        if self.status == "completed":
            said |= {"created": now, "data": [{"url": self.url}]}
            payment = self.paid
            if payment is not None:
                said["payment"] = {"status": "already_settled", "tx_hash": payment.transaction}
        elif self.status == "failed":
            said |= {"error": "The sandbox was told to fail.", "payment_status": "not_charged"}
        else:
            said["payment_status"] = "settled_optimistic" if self.paid else "not_charged"
        return replace(json_work(said, 200 if self.status in ("completed", "failed") else 202), charge=charge)


class JobDesk:
    """Keeps the jobs, and finds the routes of requests and polls for them."""

    def __init__(self, config: SandboxConfig, url: str) -> None:
        self._config = config
        self._url = url
        self._jobs: OrderedDict[tuple[str, str], Job] = OrderedDict()
        self._count = 0

    def find_route(self, request: ReceivedRequest) -> Route | Poll | None:
        """The route of a request for slow work, or the poll that it is; None where it is neither."""
        path = plain_path(request.path)
        found = _POLL.fullmatch(path) if request.method == "GET" else None
        if found:
            return Poll(found[1], unquote(found[2]))
        found = _SUBMIT.fullmatch(path) if request.method == "POST" else None
        if found is None:
            return None
        room = found[1]

        def paid(now: int, payment: ReceivedPayment, timing: str) -> Work:
            job = self._same(payment) or self._add(request, room, now, payment)
            if job.fingerprint != request.fingerprint:
                raise Rejected(REPLAY, "This payment has bought another job.")
            job.headers.add(payment_of(request))
            at_once = timing != "after" and not (room == "videos" and self._config.settle == "vendor")
            return job.submitted(charge=(at_once or self._config.payment_flow == "upfront") and job.paid is None)

        free = request.json.get("model") == FREE
        return Route(free, "openai", lambda now: self._add(request, room, now).submitted(charge=False), paid)

    def job(self, poll: Poll) -> Job | None:
        """The job that `poll` asks for; None: it is unknown, or was forgotten."""
        job = self._jobs.get((poll.room, poll.id))
        return job if job is not None and job.created + self._config.job_seconds > self._config.clock() else None

    def admits(self, job: Job, request: ReceivedRequest) -> bool:
        """Whether `request` shows, without a payment that could be charged, that it comes from the job's owner."""
        if not job.payer or (job.paid is not None and payment_of(request) in job.headers):
            return True
        wallet, time, signature = (request.get(name) or "" for name in _PROOF)
        near = time.isdecimal() and abs(int(time) - self._config.clock()) <= PROOF_SECONDS
        message = f"blockrun-poll:v1:{_KINDS[job.room]}:{job.id}:{time}"
        return near and wallet == job.payer and _verify(wallet, message.encode(), signature)

    def _same(self, payment: ReceivedPayment) -> Job | None:
        return next((job for job in self._jobs.values() if payment in job.payments), None)

    def _add(self, request: ReceivedRequest, room: str, now: int, payment: ReceivedPayment | None = None) -> Job:
        self._count += 1
        job = Job(
            id=f"{_PREFIXES[room]}{self._count:06d}",
            room=room,
            model=str(request.json.get("model") or f"sandbox-{_KINDS[room]}"),
            created=now,
            price=quote(request, Rates()),
            path=request.path,
            fingerprint=request.fingerprint,
            payer=payment.payer if payment is not None else "",
            needed=self._config.job_polls,
            url=f"{self._url}/v1/free/blob?bytes={4096 + self._count}&whole=1",
        )
        if payment is not None:
            job.payments.append(payment)
        self._jobs[room, job.id] = job
        while len(self._jobs) > MAX_JOBS:
            self._jobs.popitem(last=False)
        return job


def payment_of(request: ReceivedRequest) -> str:
    """The payment header as it came; empty where there is none."""
    return request.get(headers.PAYMENT_SIGNATURE) or request.get(headers.X_PAYMENT) or ""


def has_proof(request: ReceivedRequest) -> bool:
    """Whether `request` tries to show who asks."""
    return any(request.get(name) is not None for name in _PROOF)


def _verify(wallet: str, message: bytes, signature: str) -> bool:
    from solders.pubkey import Pubkey  # noqa: PLC0415 - solders is loaded only where it is needed
    from solders.signature import Signature  # noqa: PLC0415

    try:
        return bool(Signature.from_string(signature).verify(Pubkey.from_string(wallet), message))
    except ValueError:
        return False
