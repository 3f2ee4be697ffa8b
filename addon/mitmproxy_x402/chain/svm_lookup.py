"""Looks up payments on one Solana cluster with one RPC.

All questions use the commitment `finalized`, which cannot be reverted. The list of a token account's signatures
includes their memos, and each payment of ours has a unique one; the payer's signature in the transaction proves that it
is ours. A transaction that is missing, and whose blockhash is no longer valid in a newer block, can never be included:
only the 150 blocks after its blockhash can contain it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address

from ..protocol.patterns import SVM_SIGNATURE
from .json_rpc import Call, Declined, Unreachable
from .rpc import Rpc
from .verdict import Sent, Verdict, open_because

PAGE = 1000
"""Signatures per answer: the most that RPCs return."""
MOST_PAGES = 200
SLACK_SECONDS = 900
"""Seconds by which our clock and the chain's may differ."""
_FINALIZED = {"commitment": "finalized"}
_TRANSACTION = {"commitment": "finalized", "encoding": "json", "maxSupportedTransactionVersion": 0}
_SIGNATURE = re.compile(SVM_SIGNATURE)
_MEMO = re.compile(r"\[\d+\] ([^;]*)")


@dataclass(frozen=True)
class _Seen:
    """One signature of an account."""

    signature: str
    time: int
    """Unix seconds by the chain's clock; 0: not known."""
    memos: frozenset[str]


class SvmLookUp:
    """Asks one RPC about payments on one cluster. `cluster` is the first part of its genesis hash."""

    def __init__(self, rpc: Rpc, cluster: str) -> None:
        self.rpc = rpc
        self._cluster = cluster

    async def look_up(self, payments: Sequence[Sent]) -> dict[int, Verdict]:
        """The verdict on each of `payments`, by its key. Raises Unreachable: on all of them."""
        await self._check_cluster()
        now = await self._final_time()
        verdicts: dict[int, Verdict] = {}
        accounts: dict[tuple[str, str, str], list[Sent]] = defaultdict(list)
        for payment in payments:
            accounts[payment.payer, payment.asset, payment.token_program].append(payment)
        for (payer, mint, program), its in accounts.items():
            account = get_associated_token_address(*(Pubkey.from_string(text) for text in (payer, mint, program)))
            since = min(payment.signed_at for payment in its) - SLACK_SECONDS
            seen, complete = await self._signatures(str(account), since)
            found = await self._found(its, seen)
            verdicts |= found
            missing = [payment for payment in its if payment.key not in found]
            verdicts |= await self._not_found(missing, now, complete=complete)
        return verdicts

    async def changes(self, account: str, owner: str, mint: str, since: float) -> tuple[dict[str, int], bool]:
        """The change of `owner`'s tokens by each transaction since then, and whether the list is certainly complete."""
        await self._check_cluster()
        seen, complete = await self._signatures(account, since)
        names = [each.signature for each in seen if not 0 < each.time < since]
        calls: list[Call] = [("getTransaction", [name, _TRANSACTION]) for name in names]
        changes: dict[str, int] = {}
        for name, said in zip(names, await self.rpc.batch(calls), strict=True):
            _signatures_of(said)  # raises if the transaction was not returned
            meta = said.get("meta") if isinstance(said, dict) else None
            if isinstance(meta, dict) and meta.get("err") is None:
                changes[name] = _changes(meta, mint).get(owner, 0)
        return changes, complete

    async def _check_cluster(self) -> None:
        try:
            genesis = await self.rpc.call("getGenesisHash")
        except Declined:  # some RPCs of gateways serve only a few methods
            return
        if not isinstance(genesis, str) or not genesis.startswith(self._cluster):
            raise Unreachable("it serves another cluster")

    async def _final_time(self) -> int:
        """Time of the newest finalized block, by the chain's clock; slots can be without a block."""
        slot = await self.rpc.call("getSlot", _FINALIZED)
        if type(slot) is not int:
            raise Unreachable("its answer is not a slot")
        for said in await self.rpc.batch([("getBlockTime", [slot - back]) for back in range(4) if slot >= back]):
            if type(said) is int:
                return said
        raise Unreachable("it does not say when its newest block was made")

    async def _signatures(self, account: str, since: float) -> tuple[list[_Seen], bool]:
        """The signatures of `account` since then, newest first, and whether the list is certainly complete."""
        seen: list[_Seen] = []
        before: dict[str, str] = {}
        for _ in range(MOST_PAGES):
            said = await self.rpc.call("getSignaturesForAddress", account, {**_FINALIZED, "limit": PAGE, **before})
            if not isinstance(said, list):
                raise Unreachable("its answer holds no signatures")
            page = [_seen(each) for each in said]
            seen += page
            if any(0 < each.time < since for each in page[-1:]):
                return seen, True
            if len(page) < PAGE:
                return seen, await self._remembers(since)
            before = {"before": page[-1].signature}
        return seen, False

    async def _remembers(self, since: float) -> bool:
        """Whether the RPC's history begins before `since`; if not, it may have dropped a signature."""
        try:
            first = await self.rpc.call("getFirstAvailableBlock")
            if type(first) is not int:
                return False
            time = 0 if first == 0 else await self.rpc.call("getBlockTime", first)
        except Declined:
            return False
        return type(time) is int and time < since

    async def _found(self, payments: Sequence[Sent], seen: Sequence[_Seen]) -> dict[int, Verdict]:
        memos = {payment.memo for payment in payments if payment.memo}
        without = [payment for payment in payments if not payment.memo]
        chosen = [
            each.signature
            for each in seen
            if each.memos & memos or any(abs(each.time - payment.signed_at) <= SLACK_SECONDS for payment in without)
        ]
        by_reference = {payment.reference: payment for payment in payments}
        calls: list[Call] = [("getTransaction", [signature, _TRANSACTION]) for signature in chosen]
        verdicts = {}
        for signature, said in zip(chosen, await self.rpc.batch(calls), strict=True):
            for name in _signatures_of(said):
                payment = by_reference.get(name)
                if payment is not None:
                    verdicts[payment.key] = _judged(payment, signature, said)
        return verdicts

    async def _not_found(self, payments: Sequence[Sent], now: int, *, complete: bool) -> dict[int, Verdict]:
        """The verdicts on missing payments: dead if the blockhash has expired in a block newer than the signature."""
        if not payments:
            return {}
        if not complete:
            why = open_because("it has no such transaction, and does not remember that far back")
            return {payment.key: why for payment in payments}
        hashes = list(dict.fromkeys(payment.blockhash for payment in payments if payment.blockhash))
        calls: list[Call] = [("isBlockhashValid", [blockhash, _FINALIZED]) for blockhash in hashes]
        valid = dict(zip(hashes, map(_is_valid, await self.rpc.batch(calls)), strict=True))
        verdicts = {}
        for payment in payments:
            if not payment.blockhash:
                verdicts[payment.key] = open_because("it has no such transaction, and its blockhash was not kept")
            elif now <= payment.signed_at + SLACK_SECONDS:
                verdicts[payment.key] = open_because("it has no such transaction yet", later=True)
            elif valid[payment.blockhash] is not False:
                verdicts[payment.key] = open_because(
                    "it has no such transaction yet, and its blockhash is still valid", later=True
                )
            else:
                verdicts[payment.key] = Verdict("dead")
        return verdicts


def _seen(said: Any) -> _Seen:
    try:
        signature, time, memo = said["signature"], said.get("blockTime"), said.get("memo")
        if isinstance(signature, str) and _SIGNATURE.fullmatch(signature):
            memos = frozenset(_MEMO.findall(memo)) if isinstance(memo, str) else frozenset()
            return _Seen(signature, _moment(time), memos)
    except (KeyError, TypeError, AttributeError):
        pass
    raise Unreachable("its signatures are malformed")


def _signatures_of(said: object) -> list[str]:
    """All signatures of a transaction. Raises Unreachable: the transaction was not returned."""
    if isinstance(said, Unreachable):
        raise said
    try:
        names = said["transaction"]["signatures"]  # type: ignore[index]
    except (KeyError, TypeError):
        raise Unreachable("it names a transaction, and does not have it") from None
    return [name for name in names if isinstance(name, str)]


def _judged(payment: Sent, signature: str, said: Any) -> Verdict:
    """The verdict from the transaction `said`. A failed one moved nothing, and cannot be repeated."""
    meta, time = said.get("meta"), said.get("blockTime")
    if not isinstance(meta, dict):
        return Verdict("used", why="it has no more of the transaction than its name")
    if meta.get("err") is not None:
        return Verdict("dead")
    try:
        changes = _changes(meta, payment.asset)
    except (KeyError, TypeError, ValueError):
        return Verdict("used", why="what its transaction moved cannot be read")
    left = -changes.get(payment.payer, 0)
    pay_to = payment.pay_to
    if changes.get(pay_to, 0) != left:
        pay_to = max(changes, key=lambda owner: changes[owner], default="")
    return Verdict("moved", signature, _moment(time), left, pay_to)


def _moment(said: object) -> int:
    """A block time in Unix seconds; 0: the RPC did not state it."""
    return said if type(said) is int and 0 < said < 1 << 40 else 0


def _changes(meta: Any, mint: str) -> dict[str, int]:
    """Atomic units of `mint` that were added to each owner's balance, by owner; negative: taken."""
    changes: dict[str, int] = defaultdict(int)
    for key, sign in (("preTokenBalances", -1), ("postTokenBalances", 1)):
        for balance in meta[key] or ():
            if balance["mint"] == mint:
                changes[balance["owner"]] += sign * int(balance["uiTokenAmount"]["amount"])
    return changes


def _is_valid(said: object) -> object:
    return said.get("value") if isinstance(said, dict) else None
