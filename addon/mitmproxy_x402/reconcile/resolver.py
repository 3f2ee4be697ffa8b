"""Asks the chain about rows of the ledger, in batches, and converts the answers for the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from ..chain.lookup import look_up
from ..chain.rpc import Allowance, Rpc
from ..chain.verdict import Method, Sent, Verdict, open_because
from ..ledger.interface import ChainWord
from ..ledger.reading import Entry
from ..protocol.messages import AtomicUnits
from ..protocol.networks import Network, NetworkTable
from .findings import finding

AT_ONCE = 500
"""Most rows per look-up."""
OLD_ROWS_SECONDS = 2 * 24 * 3600
"""Seconds added to the end of a signature in old rows, which may have been renewed later."""


@dataclass(frozen=True)
class Found:
    """The chain's answer about one row."""

    entry: Entry
    verdict: Verdict
    finding: str = ""
    """The code of a contradiction (`findings`), or empty."""
    micro_usd: int = 0
    """The amount that moved, in millionths of a dollar."""

    @property
    def word(self) -> ChainWord | None:
        """The answer in the ledger's form; None: it is open."""
        verdict, row = self.verdict, self.entry.row
        if verdict.kind == "dead":
            return ChainWord(row, "dead", finding=self.finding, sends=self.entry.sends)
        if verdict.kind == "used":
            return ChainWord(row, "used")
        if verdict.kind != "moved":
            return None
        amount = AtomicUnits(verdict.amount)
        when = verdict.block_time or None
        return ChainWord(row, "moved", verdict.transaction, when, amount, self.micro_usd, self.finding)


class Resolver:
    """Asks the RPCs that `urls_of` returns for a network, each at most `per_hour` times an hour."""

    def __init__(
        self,
        networks: NetworkTable,
        urls_of: Callable[[Network], Sequence[str]],
        *,
        seconds: float,
        per_hour: int,
    ) -> None:
        self._networks = networks
        self._urls_of = urls_of
        self._seconds = seconds
        self._per_hour = per_hour
        self._rpcs: dict[str, Rpc] = {}

    async def resolve(self, entries: Sequence[Entry]) -> AsyncIterator[list[Found]]:
        """The answers about `entries`, some at a time, in any order. Never raises: what is not known is open."""
        by_network: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            by_network[entry.network].append(entry)
        for caip2, its in by_network.items():
            network = self._networks.get(caip2)
            for first in range(0, len(its), AT_ONCE):
                some = its[first : first + AT_ONCE]
                if network is None:
                    yield _all_open(some, "the network is not in the table of networks any more")
                else:
                    yield await self._some(network, some)

    async def _some(self, network: Network, entries: Sequence[Entry]) -> list[Found]:
        rpcs = [self._rpc(url) for url in self._urls_of(network)]
        if not rpcs:
            return _all_open(entries, f"no RPC is known for {network.name}")
        asked: list[tuple[Entry, Sent]] = []
        found: list[Found] = []
        for entry in entries:
            sent = sent_of(entry, network)
            if isinstance(sent, Sent):
                asked.append((entry, sent))
            else:
                found.append(Found(entry, open_because(sent)))
        verdicts = await look_up(network, [sent for _, sent in asked], rpcs)
        for entry, sent in asked:
            verdict = verdicts[sent.key]
            asset = network.asset(entry.asset)
            moved = asset.micro_usd(AtomicUnits(verdict.amount)) if asset is not None else 0
            found.append(Found(entry, verdict, finding(entry, verdict), moved))
        return found

    def _rpc(self, url: str) -> Rpc:
        rpc = self._rpcs.get(url)
        if rpc is None:
            rpc = self._rpcs[url] = Rpc(url, self._seconds, Allowance(self._per_hour))
        return rpc


def sent_of(entry: Entry, network: Network) -> Sent | str:
    """The question to the chain about `entry`, or why there is none."""
    asset = network.asset(entry.asset)
    if asset is None:
        return "its asset is not in the table of networks any more"
    if entry.scheme == "gateway":
        return "Circle settles it off the chain, and has the only record of it"
    if not entry.wallet:
        return "it was paid by an older version, which did not write down who signed it"
    method = _METHODS.get((network.family, entry.scheme))
    if method is None:
        return f"how the scheme {entry.scheme} moves money is not known here"
    end = entry.valid_before
    if end is None:
        end = (entry.valid_until or entry.time // 1000) + OLD_ROWS_SECONDS
    reference = entry.reference if network.family == "svm" else entry.nonce or entry.reference
    return Sent(
        key=entry.row,
        method=method,
        payer=entry.wallet,
        pay_to=entry.pay_to,
        asset=asset.address,
        amount=int(entry.amount),
        reference=reference,
        signed_at=entry.time / 1000,
        valid_until=end,
        memo=entry.nonce if network.family == "svm" else "",
        blockhash=entry.blockhash,
        token_program=asset.token_program,
        seller=entry.host,
    )


_METHODS: Mapping[tuple[str, str], Method] = {
    ("svm", "exact"): "svm",
    ("evm", "exact"): "eip3009",
    ("evm", "permit2"): "permit2",
    ("evm", "upto"): "permit2",
}
"""The method of a look-up, by network family and scheme: a nonce has a meaning only within its method."""


def _all_open(entries: Sequence[Entry], why: str) -> list[Found]:
    return [Found(entry, open_because(why)) for entry in entries]
