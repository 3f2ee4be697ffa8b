"""The types of a look-up on the chain, and the rule by which the answers of several RPCs become one verdict.

moved   a final transaction moved money for it
used    its nonce is used, but that transaction was not found: it may have moved the whole amount
dead    nothing moved, and by the chain's clock or block height nothing ever can
open    not known yet; `why` gives the reason
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Method = Literal["eip3009", "permit2", "svm"]
Kind = Literal["moved", "used", "dead", "open"]


@dataclass(frozen=True)
class Sent:
    """A payment that was sent. Times are Unix seconds by our clock, amounts atomic units."""

    key: int
    """The caller's number for it."""
    method: Method
    payer: str
    pay_to: str
    asset: str
    """Address of the token's contract, or the mint."""
    amount: int
    """The amount signed for: a ceiling if the scheme has one."""
    reference: str
    """EIP-3009 nonce or Permit2 nonce (hex with 0x, or decimal), or the payer's Solana signature."""
    signed_at: float
    valid_until: float
    """`validBefore` or `deadline`; on Solana the latest time at which the blockhash expires."""
    memo: str = ""
    """Solana: the transaction's memo; empty: not known."""
    blockhash: str = ""
    """Solana: the transaction's blockhash; empty: not known."""
    token_program: str = ""
    """Solana: the program that owns the mint."""
    seller: str = ""
    """Host of the gateway, whose own RPC cannot free money."""

    @property
    def nonce(self) -> int:
        """The reference as a number; EVM only."""
        return int(self.reference, 16) if self.reference.startswith("0x") else int(self.reference)


@dataclass(frozen=True)
class Verdict:
    """What became of one payment, by the chain."""

    kind: Kind
    transaction: str = ""
    """EVM: the hash. Solana: the first signature."""
    block_time: int = 0
    """Time of the transaction's block, Unix seconds."""
    amount: int = 0
    """Atomic units that left the payer."""
    pay_to: str = ""
    """The recipient."""
    why: str = ""
    witnesses: tuple[str, ...] = ()
    """The origins of the RPCs that say so."""
    later: bool = False
    """For `open`: whether the same RPC will know later."""
    unreachable: bool = False
    """For `open`: whether no RPC answered."""
    disputed: bool = False
    """Whether RPCs contradict each other; then `kind` is `open`."""

    def __str__(self) -> str:
        if self.kind == "moved":
            return f"{self.amount} moved in {self.transaction}"
        return {"used": "its nonce is used", "dead": "nothing moved", "open": self.why}[self.kind]


def open_because(why: str, *, later: bool = False) -> Verdict:
    """The verdict `open`, with a reason."""
    return Verdict("open", why=why, later=later)


@dataclass(frozen=True)
class Statement:
    """The verdict of one RPC on a payment."""

    host: str
    origin: str
    verdict: Verdict


def together(payment: Sent, statements: Sequence[Statement], known: int) -> Verdict:
    """The verdict that follows from `statements`, if `known` RPCs on different hosts could be asked.

    Nobody's word frees money: a verdict that would (nothing moved, or less than was signed for) needs two hosts that
    agree, if two are known, and the seller's own does not count. Contradictions leave the payment open.
    """
    clear = [each for each in statements if each.verdict.kind != "open"]
    if not clear:
        why = "; ".join(dict.fromkeys(f"{each.origin}: {each.verdict.why}" for each in statements))
        return open_because(why or "no RPC could be asked", later=any(each.verdict.later for each in statements))
    found = [each for each in clear if each.verdict.kind == "moved"] or clear
    first = found[0].verdict
    if any(_contradict(each.verdict, first) for each in clear):
        said = "; ".join(f"{each.origin} says {each.verdict}" for each in clear)
        return replace(open_because(f"RPCs contradict each other: {said}"), disputed=True)
    same = [each for each in found if each.verdict.kind == first.kind]
    verdict = replace(first, witnesses=tuple(each.origin for each in same))
    if first.kind == "used":
        return replace(verdict, why="its nonce is used, but no RPC has the log of the transaction any more")
    if first.kind == "moved" and not 0 <= first.amount <= payment.amount:
        return open_because(f"{same[0].origin} says: {first}; nobody can move more than was signed for")
    frees = first.kind == "dead" or first.amount < payment.amount
    behind = next((each for each in statements if each.verdict.later), None)
    if not frees and behind is None:
        return verdict
    if behind is not None:
        return open_because(f"{same[0].origin} says: {first}; {behind.origin} says: {behind.verdict.why}", later=True)
    independent = {each.host for each in same if not belongs_to(each.host, payment.seller)}
    if not independent:
        return open_because(f"{same[0].origin} says: {first}; it is the seller's own, so another RPC is needed")
    if len(independent) < min(known, 2):
        others = "; ".join(f"{each.origin}: {each.verdict.why}" for each in statements if each not in same)
        return open_because(f"{same[0].origin} says: {first}; a second RPC must say so ({others or 'none answered'})")
    return verdict


def _contradict(one: Verdict, first: Verdict) -> bool:
    if one.kind != first.kind:
        return "dead" in (one.kind, first.kind)
    named = (one.transaction.lower(), one.amount, one.pay_to.lower())
    return named != (first.transaction.lower(), first.amount, first.pay_to.lower())


def belongs_to(host: str, seller: str) -> bool:
    """Whether the names of `host` and `seller` suggest the same owner. Loopback hosts belong to the user."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return False
    return bool(seller) and host.rsplit(".", 2)[-2:] == seller.rsplit(".", 2)[-2:]
