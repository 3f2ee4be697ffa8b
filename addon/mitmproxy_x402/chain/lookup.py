"""Finds out on the chain whether payments took their money: asks several RPCs, and gives one `Verdict` for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ..protocol.networks import Network
from .evm_lookup import EvmLookUp
from .json_rpc import Unreachable
from .rpc import Rpc
from .svm_lookup import SvmLookUp
from .verdict import Sent, Statement, Verdict, open_because, together


async def look_up(network: Network, payments: Sequence[Sent], rpcs: Sequence[Rpc]) -> dict[int, Verdict]:
    """The verdict on each of `payments` on `network`, by its key. Never raises: what is not known is `open`.

    The first RPC is asked about all payments, each further one about those that are not decided (`verdict.together`).
    """
    said: dict[int, list[Statement]] = defaultdict(list)
    verdicts: dict[int, Verdict] = {}
    known = len({rpc.host for rpc in rpcs})
    failures: list[str] = []
    waiting = list(payments)
    for rpc in rpcs:
        try:
            found = await _reader(network, rpc).look_up(waiting)
        except Unreachable as reason:
            failures.append(f"{rpc.origin}: {reason}")
            continue
        for payment in waiting:
            said[payment.key].append(Statement(rpc.host, rpc.origin, found[payment.key]))
            verdicts[payment.key] = together(payment, said[payment.key], known)
        waiting = [payment for payment in waiting if _wants_another(verdicts[payment.key], known)]
        if not waiting:
            break
    for payment in payments:
        verdict = verdicts.get(payment.key) or open_because("no RPC could be asked")
        if verdict.kind == "open" and failures and not verdict.disputed:
            why = "; ".join([*([verdict.why] if payment.key in verdicts else []), *failures])
            verdict = replace(open_because(why, later=verdict.later), unreachable=payment.key not in verdicts)
        verdicts[payment.key] = verdict
    return verdicts


def _reader(network: Network, rpc: Rpc) -> EvmLookUp | SvmLookUp:
    if network.family == "evm":
        return EvmLookUp(rpc, network.chain_id)
    return SvmLookUp(rpc, network.caip2.partition(":")[2])


def _wants_another(verdict: Verdict, known: int) -> bool:
    if verdict.kind in ("moved", "dead"):
        return len(verdict.witnesses) < min(known, 2)
    return not verdict.disputed
