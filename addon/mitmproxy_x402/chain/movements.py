"""Sums all transfers into and out of a wallet since a given time, for `check`, which compares the ledger with them."""

from __future__ import annotations

from dataclasses import dataclass

from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address

from ..protocol.networks import Asset, Network
from .balance import token_amounts
from .evm_blocks import EvmBlocks, quantity
from .evm_lookup import TRANSFER
from .json_rpc import TooFar
from .rpc import Rpc
from .svm_lookup import SvmLookUp

MOST_QUESTIONS = 20
"""Most requests for the logs of one direction; a period that needs more is too long for this RPC."""
_BALANCE_OF = "0x70a08231"


@dataclass(frozen=True)
class Movements:
    """The transfers of a period and the balance at its end, in atomic units."""

    balance: int
    """The balance at the newest final block, where the period ends."""
    incoming: int
    outgoing: dict[str, int]
    """Amounts sent, by transaction."""

    @property
    def opening(self) -> int:
        """The balance before the period."""
        return self.balance - self.incoming + sum(self.outgoing.values())


async def movements(network: Network, asset: Asset, owner: str, since: float, rpc: Rpc) -> Movements:
    """The movements since `since` (Unix seconds) or shortly before. Raises Unreachable: this RPC cannot tell."""
    if network.family == "evm":
        return await _evm(network, asset, owner, since, rpc)
    return await _svm(network, asset, owner, since, rpc)


async def _evm(network: Network, asset: Asset, owner: str, since: float, rpc: Rpc) -> Movements:
    blocks = EvmBlocks(rpc, network.chain_id)
    final = await blocks.final()
    first = await blocks.at(since, final)
    data = _BALANCE_OF + owner.removeprefix("0x").lower().rjust(64, "0")
    balance = quantity(await rpc.call("eth_call", {"to": asset.address, "data": data}, hex(final.number)))
    own = f"0x{owner.removeprefix('0x').lower().rjust(64, '0')}"
    outgoing: dict[str, int] = {}
    for each in await blocks.logs(asset.address, [TRANSFER, own], first, final.number, MOST_QUESTIONS):
        outgoing[each.transaction] = outgoing.get(each.transaction, 0) + quantity(each.data)
    incoming = await blocks.logs(asset.address, [TRANSFER, None, own], first, final.number, MOST_QUESTIONS)
    return Movements(balance, sum(quantity(each.data) for each in incoming), outgoing)


async def _svm(network: Network, asset: Asset, owner: str, since: float, rpc: Rpc) -> Movements:
    reader = SvmLookUp(rpc, network.caip2.partition(":")[2])
    names = [Pubkey.from_string(text) for text in (owner, asset.address, asset.token_program)]
    changes, complete = await reader.changes(str(get_associated_token_address(*names)), owner, asset.address, since)
    if not complete:
        raise TooFar("it does not remember that far back")
    options = {"encoding": "jsonParsed", "commitment": "finalized"}
    said = await rpc.call("getTokenAccountsByOwner", owner, {"mint": asset.address}, options)
    outgoing = {name: -change for name, change in changes.items() if change < 0}
    incoming = sum(change for change in changes.values() if change > 0)
    return Movements(token_amounts(said), incoming, outgoing)
