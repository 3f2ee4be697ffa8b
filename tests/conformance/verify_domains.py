"""Compares the signing domains of the network table with what the tokens' contracts say: NETWORK=URL of an RPC, ...

    python tests/conformance/verify_domains.py polygon=https://... arbitrum=https://...

Prints one line a token; ends with 1 where one differs. The only program of the tests that leaves this machine.
"""

from __future__ import annotations

import asyncio
import sys

from mitmproxy_x402.chain.json_rpc import Unreachable, json_rpc
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.schemes.exact_evm import domain_separator

DOMAIN_SEPARATOR = "0x3644e515"


async def main(arguments: list[str]) -> int:
    wrong = 0
    for name, _, url in (argument.partition("=") for argument in arguments):
        network = BUILT_IN.known(name)
        if network is None or network.family != "evm":
            sys.exit(f"{name}: no EVM network of the table")
        for asset in network.assets:
            ours = domain_separator(network.chain_id, asset)
            try:
                said = await json_rpc(url, 10, "eth_call", [{"to": asset.address, "data": DOMAIN_SEPARATOR}, "latest"])
            except Unreachable as reason:
                said = str(reason)
            fits = said == "0x" + ours.hex()
            wrong += not fits
            print(f"{name} {asset.symbol}: {'as in the table' if fits else f'differs: {said!s:.80}'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
