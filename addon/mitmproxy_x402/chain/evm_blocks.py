"""Reads blocks of one EVM chain from one RPC: the newest final one, the one at a given time, and the logs in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .json_rpc import Call, Declined, TooFar, Unreachable
from .rpc import Rpc

FINAL_BLOCKS = {1: 64, 8453: 64, 84532: 64, 137: 100, 80002: 100, 42161: 100, 43114: 10, 43113: 10, 5042: 10}
"""Confirmations after which a block counts as final, by chain id. Ethereum: two epochs. Base's sequencer has never
reverted more than a few blocks. Polygon once reverted 157, before milestones made it final in seconds. Full nodes keep
the state of the last 128 blocks, so no number is larger."""
OTHERWISE_FINAL = 64
MOST = 1 << 40
"""Above the number and time of every block; the ledger has to store them."""
_CLOSE = 16
"""Blocks by which `EvmBlocks.at` may be too early."""
_MOST_STEPS = 48
_QUANTITY = re.compile(r"0x[0-9a-fA-F]{1,64}")
_BYTES32 = re.compile(r"0x[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Block:
    """One block. `time` is the chain's clock, Unix seconds."""

    number: int
    time: int


@dataclass(frozen=True)
class Log:
    """One event of a contract."""

    transaction: str
    block: int
    index: int
    address: str
    """Lower case."""
    topics: tuple[str, ...]
    """Lower case."""
    data: str


def quantity(said: object) -> int:
    """The number in a JSON-RPC quantity such as `0x1b4`. Raises Unreachable: it is malformed."""
    if isinstance(said, Unreachable):
        raise said
    if isinstance(said, str) and _QUANTITY.fullmatch(said):
        return int(said, 16)
    raise Unreachable("its answer is not a number")


class EvmBlocks:
    """Asks one RPC, and caches the blocks that it has seen."""

    def __init__(self, rpc: Rpc, chain_id: int) -> None:
        self.rpc = rpc
        self._chain_id = chain_id
        self._known: dict[int, Block] = {}

    async def final(self) -> Block:
        """The newest final block. Raises Unreachable, also if the RPC serves another chain."""
        chain, latest = await self.rpc.batch([("eth_chainId", []), ("eth_getBlockByNumber", ["latest", False])])
        if quantity(chain) != self._chain_id:
            raise Unreachable(f"it serves the chain {quantity(chain)}, not {self._chain_id}")
        newest = _block(latest)
        number = max(newest.number - FINAL_BLOCKS.get(self._chain_id, OTHERWISE_FINAL), 0)
        (final,) = await self.blocks([number])
        if final.number != number or final.time > newest.time:
            raise Unreachable("its blocks do not fit together")
        return final

    async def blocks(self, numbers: Sequence[int]) -> list[Block]:
        """The blocks with these numbers. Raises Unreachable."""
        missing = [number for number in dict.fromkeys(numbers) if number not in self._known]
        calls: list[Call] = [("eth_getBlockByNumber", [hex(number), False]) for number in missing]
        for number, said in zip(missing, await self.rpc.batch(calls), strict=True):
            block = _block(said)
            if block.number != number:
                raise Unreachable(f"it gives the block {block.number} for {number}")
            self._known[number] = block
        return [self._known[number] for number in numbers]

    async def at(self, moment: float, final: Block) -> int:
        """The number of a block shortly before `moment` (Unix seconds), and below `final`. Raises Unreachable."""
        below = [block for block in self._known.values() if block.time < moment and block.number <= final.number]
        above = [block for block in self._known.values() if block.time >= moment and block.number <= final.number]
        if not above:
            return final.number
        high = min(above, key=lambda block: block.number)
        low = max(below, key=lambda block: block.number, default=None)
        if low is None:
            (low,) = await self.blocks([0])
            if low.time >= moment:
                return 0
        for step in range(_MOST_STEPS):
            if high.number - low.number <= _CLOSE:
                break
            share = (moment - low.time) / max(high.time - low.time, 1)
            guess = low.number + int((high.number - low.number) * share) - _CLOSE // 2
            if step % 4 == 3:  # bisection, for uneven block times
                guess = (low.number + high.number) // 2
            number = min(max(guess, low.number + 1), high.number - 1)
            (middle,) = await self.blocks([number])
            low, high = (middle, high) if middle.time < moment else (low, middle)
            if step % 4 == 0 and low is middle:  # the guess is just below, so the block just above is likely
                (middle,) = await self.blocks([min(number + _CLOSE, high.number)])
                low, high = (middle, high) if middle.time < moment else (low, middle)
        return low.number

    async def logs(
        self, address: str, topics: Sequence[object], first: int, last: int, most: int = 1 << 30
    ) -> list[Log]:
        """The events in the blocks `first` to `last`, in as many requests as the RPC's limits need.

        Raises Unreachable, also if that would be more than `most`.
        """
        found: list[Log] = []
        while first <= last:
            end = min(last, first + self.rpc.span - 1)
            filters = {"address": address, "topics": list(topics), "fromBlock": hex(first), "toBlock": hex(end)}
            try:
                said = await self.rpc.call("eth_getLogs", filters)
            except Declined:
                if end == first:
                    raise
                self.rpc.span = (end - first + 1) // 2
                if (last - first + 1) // self.rpc.span > most:
                    raise TooFar(f"it looks through {self.rpc.span} blocks at a time only") from None
                continue
            if not isinstance(said, list):
                raise Unreachable("its answer holds no logs")
            logs = [log(each) for each in said if not (isinstance(each, dict) and each.get("removed"))]
            found += [each for each in logs if first <= each.block <= end]
            first = end + 1
        return found


def _block(said: object) -> Block:
    if isinstance(said, Unreachable):
        raise said
    if not isinstance(said, dict):
        raise Unreachable("it does not have the block yet")
    number, time = quantity(said.get("number")), quantity(said.get("timestamp"))
    if max(number, time) > MOST:
        raise Unreachable("its block has an impossible number or time")
    return Block(number, time)


def log(said: Any) -> Log:
    """The event that an RPC's JSON describes. Raises Unreachable: it is malformed."""
    try:
        transaction, topics, data = said["transactionHash"], said["topics"], said["data"]
        words = [transaction, *topics]
        if all(isinstance(word, str) and _BYTES32.fullmatch(word) for word in words) and isinstance(data, str):
            return Log(
                transaction.lower(),
                quantity(said["blockNumber"]),
                quantity(said["logIndex"]),
                str(said["address"]).lower(),
                tuple(topic.lower() for topic in topics),
                data,
            )
    except (KeyError, TypeError):
        pass
    raise Unreachable("its logs are malformed")
