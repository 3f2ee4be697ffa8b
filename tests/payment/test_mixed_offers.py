"""Random mixes of entries: one that can be paid is paid if there is one, and else the refusal names every entry.

Each kind of entry says by itself under which options it can be paid, and which words have to stand in a refusal.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.chains.token_rpc import TokenRpc
from support.effort import examples
from support.proxy import Proxy, svm_key
from support.wire import Peer, Upstream, free_port, request

EVM_KEY = "0x" + "5d" * 32
PAYER = "0x01B573f89AF22A95e7C03ffD5Cb08aFC36dca9F7"
USDC, PAY_TO = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "0xe9030014F5DAe217d0A152f02A043567b16c1aBf"
WALLET, MINTER = "0x77777777Dcc4d5A8B6E418Fd04D8997ef11000eE", "0x2222222d7164433c4C09B0b0D809a9b52C04C205"
PERMIT2 = "0x000000000022D473030F116dDEE9F6B43aC78BA3"
MINT, FEE_PAYER = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", "93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX"
BLOCKHASH = "2Etc9q7omPrAu16uFNbM3fwUH7ygCFKkToN4YCXym1nK"
ALLOWANCE = 15_000
"""Atomic units that Permit2 may take beside what earlier payments may still take."""
MAX_REQUEST = 20_000


def evm(amount: int = 1_000, *, scheme: str = "exact", without: str = "", **changes: Any) -> dict[str, Any]:
    extra = {"name": "USD Coin", "version": "2", **changes.pop("extra", {})}
    found = {"scheme": scheme, "network": "eip155:8453", "amount": str(amount), "asset": USDC, "payTo": PAY_TO}
    found |= {"maxTimeoutSeconds": 300, "extra": extra, **changes}
    found.pop(without, None)
    return found


def svm(**changes: Any) -> dict[str, Any]:
    extra = {"feePayer": FEE_PAYER, "recentBlockhash": BLOCKHASH}
    found = {"scheme": "exact", "network": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "amount": "1500", "asset": MINT}
    return {
        **found,
        "payTo": "AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA",
        "maxTimeoutSeconds": 60,
        "extra": extra,
    } | changes


@dataclass(frozen=True)
class Kind:
    entry: dict[str, Any]
    why: str = ""
    """What a refusal says of it; empty: it can always be paid."""
    by: str = ""
    """The option with which it can be paid all the same: "schemes" or "gateway"."""


CIRCLE = {"name": "GatewayWalletBatched", "version": "1", "verifyingContract": WALLET}
FACILITATOR = {"facilitatorAddress": "0x14fDa13953Fc30428938E6BF950d036e77214e52"}
PAD = {"pad": "x" * 50_000}
KINDS = {
    "good": Kind(evm()),
    "good, dearer": Kind(evm(3_000)),
    "good, old name": Kind(evm(2_000, network="base")),
    "solana": Kind(svm()),
    "over the limit": Kind(evm(MAX_REQUEST + 1), "x402_max_request"),
    "too large to be echoed": Kind(evm(extra=PAD), "the header that echoes it has"),
    "solana without an RPC": Kind(svm(extra={"feePayer": FEE_PAYER}), "No Solana RPC gave a recent blockhash"),
    "solana without a fee payer": Kind(svm(extra={}), "extra.feePayer must be"),
    "solana to the mint": Kind(svm(payTo=MINT), "is a program or a token"),
    "wrong checksum": Kind(evm(payTo=PAY_TO.replace("e9", "E9")), "wrong checksum"),
    "to itself": Kind(evm(payTo=PAYER), "the paying wallet itself"),
    "to the token": Kind(evm(payTo=USDC), "a token's own contract"),
    "to Permit2": Kind(evm(payTo=PERMIT2), "a contract that settles payments"),
    "to Circle": Kind(evm(payTo=WALLET), "a contract that settles payments"),
    "to Circle's minter": Kind(evm(payTo=MINTER.lower()), "a contract that settles payments"),
    "to nobody": Kind(evm(payTo="0x" + "0" * 40), "the zero address"),
    "too short": Kind(evm(maxTimeoutSeconds=5), "leaves 5 seconds"),
    "another domain": Kind(evm(extra={"name": "USDC"}), "names the signing domain"),
    "unknown network": Kind(evm(network="eip155:123456"), "the network is not known"),
    "network not enabled": Kind(
        evm(network="eip155:1", asset="0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"), "x402_allow_networks"
    ),
    "unknown token": Kind(evm(asset="0x" + "ab" * 20), "the asset is not known"),
    "unknown scheme": Kind(evm(scheme="batch-settlement"), "does not know how to pay so"),
    "unknown method": Kind(evm(extra={"assetTransferMethod": ["permit2"]}), '["permit2"]'),
    "amount no text": Kind(evm(amount=1_000) | {"amount": 1_000}, "amount must be a string"),
    "no payee": Kind(evm(without="payTo"), "payTo must be a string"),
    "no entry": Kind("exact", "expected an object"),  # type: ignore[arg-type]
    "unknown flow": Kind(evm(extra={"paymentFlow": "later"}), "payment flow"),
    "permit2": Kind(evm(2_500, extra={"assetTransferMethod": "permit2"}), "x402_schemes", "schemes"),
    "permit2, free": Kind(evm(0, extra={"assetTransferMethod": "permit2"}), "x402_schemes|asks for nothing"),
    "permit2 over the allowance": Kind(
        evm(ALLOWANCE + 1, extra={"assetTransferMethod": "permit2"}), "x402_schemes|may take"
    ),
    "upto": Kind(evm(9_000, scheme="upto", extra=FACILITATOR), "x402_schemes", "schemes"),
    "upto over the allowance": Kind(evm(ALLOWANCE + 2, scheme="upto", extra=FACILITATOR), "x402_schemes|may take"),
    "upto without a facilitator": Kind(evm(9_000, scheme="upto"), "x402_schemes|facilitatorAddress"),
    "upto on Solana": Kind(svm(scheme="upto"), "does not know how to pay so"),
    "circle": Kind(evm(1_200, extra=CIRCLE, maxTimeoutSeconds=604_900), "x402_gateway", "gateway"),
    "circle, another contract": Kind(
        evm(extra=CIRCLE | {"verifyingContract": PAY_TO}, maxTimeoutSeconds=604_900), "x402_gateway|is Circle's own"
    ),
}


class Shop:
    """Asks to be paid by any of `accepts`, in the body, and gives what a payment chose."""

    def __init__(self) -> None:
        self.accepts: Sequence[Any] = ()
        self.paid: list[dict[str, Any]] = []

    def __call__(self, peer: Peer, upstream: Upstream) -> None:
        while True:
            signature = upstream.read(peer).get(b"payment-signature")
            if signature is not None:
                self.paid.append(json.loads(base64.b64decode(signature))["accepted"])
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            body = json.dumps({"x402Version": 2, "accepts": self.accepts}).encode()
            head = "HTTP/1.1 402 Payment Required\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            peer.send((head % len(body)).encode() + body)


@pytest.fixture(scope="module", params=["", "schemes", "gateway", "schemes gateway"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sells, asked = Shop(), request.param.split()
    with ExitStack() as stack:
        rpc = stack.enter_context(TokenRpc(8453, 10**12, ALLOWANCE))
        options = {"x402_max_request": "0.02", "x402_budget": "1000", "x402_evm_rpc": f"base={rpc.url}"}
        options |= {"x402_solana_rpc": f"http://127.0.0.1:{free_port()}", "x402_rpc_timeout": "2"}
        options |= {"x402_schemes": "upto"} if "schemes" in asked else {}
        options |= {"x402_gateway": "true"} if "gateway" in asked else {}
        arguments = itertools.chain.from_iterable(("--set", f"{key}={value}") for key, value in options.items())
        upstream = stack.enter_context(Upstream(sells))
        keys = {"BLOCKRUN_WALLET_KEY": EVM_KEY, "SOLANA_WALLET_KEY": svm_key()}
        home = tmp_path_factory.mktemp("home")
        proxy = stack.enter_context(Proxy(upstream.url, *arguments, home=home, keys=keys))
        yield sells, proxy, rpc, asked


counter = itertools.count()


@given(names=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=9))
@settings(max_examples=examples(400))
def test_what_can_be_paid_is_paid_and_else_every_entry_is_named(shop: Any, names: list[str]) -> None:
    sells, proxy, rpc, asked = shop
    kinds = [KINDS[name] for name in names]
    sells.accepts, sells.paid = [kind.entry for kind in kinds], []
    with proxy.client() as client:
        got = client.ask(request(path=f"/v1/{next(counter)}", body=b'{"model": "test-1"}'))
    payable = [kind.entry for kind in kinds if not kind.why or kind.by in asked]
    if payable:
        assert got.status == 200, got.body
        (paid,) = sells.paid
        assert paid in payable
        if paid["scheme"] == "upto" or "assetTransferMethod" in paid["extra"]:
            rpc.allowance += int(paid["amount"])
        return
    error = json.loads(got.body)["error"]
    assert (got.status, sells.paid) == (400, [])
    assert "Nothing was" in error["message"]
    for kind in kinds:
        assert re.search(kind.why, error["message"]), (kind.why, error["message"])
    if len(kinds) > 1 and "offers no way to pay that can be read" not in error["message"]:
        others = "other entry" if len(kinds) == 2 else f"other {len(kinds) - 1} entries"
        assert re.search(f" The challenge's ({len(kinds)} entries|{others}): ", error["message"])
