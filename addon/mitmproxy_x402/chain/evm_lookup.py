"""Looks up payments on one EVM chain with one RPC: EIP-3009 authorizations and Permit2 transfers.

All questions are about a final block, so a reorganisation cannot change the answers: the state of the nonces and the
block's time. A nonce that is unused in a block later than `validBefore` stays unused, because tokens accept an
authorization only before that time. The transaction of a used nonce is searched in the blocks of the payment's time.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from ..protocol.evm.address import abi_word
from ..protocol.evm.permit2_contracts import PERMIT2, read_call
from .evm_blocks import Block, EvmBlocks, Log, log, quantity
from .json_rpc import Call, Unreachable
from .rpc import Rpc
from .verdict import Sent, Verdict, open_because

AT_ONCE = 64
"""Nonces per request for logs."""
SPAN_SECONDS = 3 * 3600
"""Payments that are further apart than this are not searched together."""
BEFORE_SECONDS = 700
"""Seconds before the signature at which the search begins: an authorization is valid from ten minutes before it."""

_AUTHORIZATION_STATE = "0xe94a0102"
"""Selector of authorizationState(address,bytes32)."""
_NONCE_BITMAP = "0x4fe02b44"
"""Selector of nonceBitmap(address,uint256)."""
AUTHORIZATION_USED = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
"""Topic of AuthorizationUsed(address,bytes32)."""
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""Topic of Transfer(address,address,uint256)."""


class EvmLookUp:
    """Asks one RPC about payments on one chain."""

    def __init__(self, rpc: Rpc, chain_id: int) -> None:
        self.rpc = rpc
        self._blocks = EvmBlocks(rpc, chain_id)

    async def look_up(self, payments: Sequence[Sent]) -> dict[int, Verdict]:
        """The verdict on each of `payments`, by its key. Raises Unreachable: on all of them."""
        final = await self._blocks.final()
        used = await self._used(payments, final)
        verdicts: dict[int, Verdict] = {}
        spent: list[Sent] = []
        for payment in payments:
            its = used[payment.key]
            if isinstance(its, Unreachable):
                verdicts[payment.key] = open_because(str(its))
            elif its:
                spent.append(payment)
            elif final.time > payment.valid_until:
                verdicts[payment.key] = Verdict("dead")
            else:
                left = int(payment.valid_until) - final.time
                verdicts[payment.key] = open_because(
                    f"not taken yet, and valid for {left} s by the chain's clock", later=True
                )
        for group in _groups(spent):
            verdicts |= await self._transactions(group, final)
        return verdicts

    async def _used(self, payments: Sequence[Sent], final: Block) -> dict[int, bool | Unreachable]:
        """Whether each payment's nonce is used, or why the answer makes no sense."""
        answers = await self.rpc.batch([_state_call(payment, final) for payment in payments])
        return {payment.key: _is_used(payment, said) for payment, said in zip(payments, answers, strict=True)}

    async def _transactions(self, payments: Sequence[Sent], final: Block) -> dict[int, Verdict]:
        """The verdicts on payments of one method, payer and asset whose nonces are used."""
        first = await self._blocks.at(payments[0].signed_at - BEFORE_SECONDS, final)
        end = max(payment.valid_until for payment in payments)
        last = min(await self._blocks.at(end + 1, final) + 64, final.number)
        method, payer, asset = payments[0].method, payments[0].payer, payments[0].asset
        try:
            if method == "permit2":
                logs = await self._blocks.logs(asset, [TRANSFER, _topic(payer)], first, last)
                moves = await self._permitted(payments, logs)
            else:
                nonces = [f"0x{payment.nonce:064x}" for payment in payments]
                logs = await self._blocks.logs(asset, [AUTHORIZATION_USED, _topic(payer), nonces], first, last)
                moves = await self._authorized(payments, logs)
        except Unreachable as reason:
            return {each.key: Verdict("used", why=f"its log cannot be read: {reason}") for each in payments}
        times = {block.number: block.time for block in await self._blocks.blocks([one.block for one in moves.values()])}
        lost = Verdict("used", why="it has no log of the transaction")
        return {
            payment.key: lost
            if (move := moves.get(payment.key)) is None
            else Verdict("moved", move.transaction, times[move.block], int(move.data, 16), _address(move.topics[2]))
            for payment in payments
        }

    async def _authorized(self, payments: Sequence[Sent], logs: Sequence[Log]) -> dict[int, Log]:
        """The transfer of each authorization: the token's next event after it marks the nonce as used."""
        by_nonce = {int(each.topics[2], 16): each for each in logs if len(each.topics) == 3}
        hits = {payment.key: by_nonce[payment.nonce] for payment in payments if payment.nonce in by_nonce}
        receipts = await self._receipts({hit.transaction for hit in hits.values()})
        moves: dict[int, Log] = {}
        for key, hit in hits.items():
            events = receipts.get(hit.transaction, [])
            ours = [each for each in events if each.address == hit.address and each.topics[1:2] == hit.topics[1:2]]
            after = [each for each in ours if each.index > hit.index]
            until = itertools.takewhile(lambda each: each.topics[0] != AUTHORIZATION_USED, after)
            before = [each for each in reversed(ours) if each.index < hit.index]
            since = itertools.takewhile(lambda each: each.topics[0] != AUTHORIZATION_USED, before)
            move = next((each for each in (*until, *since) if _is_transfer(each)), None)
            if move is not None and any(each == hit for each in events):
                moves[key] = move
        return moves

    async def _permitted(self, payments: Sequence[Sent], logs: Sequence[Log]) -> dict[int, Log]:
        """The transfer of each permit: in the transaction that calls a settling contract with its nonce.

        A contract in between, which may be the seller's, can name nonces that it does not use. If there is one, a
        transfer is attributed to a permit only if it is for the full amount, which frees nothing.
        """
        transfers: dict[str, list[Log]] = defaultdict(list)
        for each in logs:
            if _is_transfer(each):
                transfers[each.transaction].append(each)
        calls = await self._calls(list(transfers))
        moves: dict[int, Log] = {}
        for transaction, made in transfers.items():
            to, data = calls.get(transaction, ("", ""))
            call = read_call(to, data)
            if call is not None:
                its = [each for each in payments if (each.payer.lower(), each.nonce) == call]
                moves |= {each.key: made[0] for each in its if len(made) == 1}
                continue
            for payment in payments:
                whole = [each for each in made if int(each.data, 16) == payment.amount]
                if whole and f"{payment.nonce:064x}" in data:
                    moves.setdefault(payment.key, whole[0])
        return moves

    async def _receipts(self, transactions: Iterable[str]) -> dict[str, list[Log]]:
        """The events of those `transactions` that succeeded, in their order."""
        names = sorted(transactions)
        calls: list[Call] = [("eth_getTransactionReceipt", [name]) for name in names]
        found = {}
        for name, said in zip(names, await self.rpc.batch(calls), strict=True):
            if isinstance(said, dict) and said.get("status") == "0x1" and isinstance(said.get("logs"), list):
                events = [log(each) for each in said["logs"]]
                found[name] = sorted((each for each in events if each.topics), key=lambda each: each.index)
        return found

    async def _calls(self, transactions: Sequence[str]) -> dict[str, tuple[str, str]]:
        """The contract and the input (hex) of each of `transactions`."""
        calls: list[Call] = [("eth_getTransactionByHash", [name]) for name in transactions]
        answers = zip(transactions, await self.rpc.batch(calls), strict=True)
        return {
            name: (str(said.get("to", "")), str(said.get("input", "")).lower())
            for name, said in answers
            if isinstance(said, dict)
        }


def _groups(payments: Sequence[Sent]) -> Iterator[list[Sent]]:
    """Groups of payments to search together: of one method, payer and asset, and close in time."""

    def kind(payment: Sent) -> tuple[str, str, str]:
        return payment.method, payment.payer.lower(), payment.asset.lower()

    for _, alike in itertools.groupby(sorted(payments, key=lambda each: (kind(each), each.signed_at)), kind):
        group: list[Sent] = []
        for payment in alike:
            if group and (len(group) == AT_ONCE or payment.signed_at - group[0].signed_at > SPAN_SECONDS):
                yield group
                group = []
            group.append(payment)
        yield group


def _state_call(payment: Sent, at: Block) -> Call:
    owner = abi_word(payment.payer)
    if payment.method == "permit2":
        contract, data = PERMIT2, f"{_NONCE_BITMAP}{owner}{payment.nonce >> 8:064x}"
    else:
        contract, data = payment.asset, f"{_AUTHORIZATION_STATE}{owner}{payment.nonce:064x}"
    return "eth_call", [{"to": contract, "data": data}, hex(at.number)]


def _is_used(payment: Sent, said: object) -> bool | Unreachable:
    try:
        word = quantity(said)
    except Unreachable as reason:
        return reason
    return bool(word >> (payment.nonce & 255) & 1) if payment.method == "permit2" else bool(word)


def _is_transfer(each: Log) -> bool:
    return len(each.topics) == 3 and each.topics[0] == TRANSFER and 2 < len(each.data) <= 66


def _topic(address: str) -> str:
    return f"0x{abi_word(address)}"


def _address(topic: str) -> str:
    return f"0x{topic[-40:]}"
