"""A real EVM node with play money: Foundry's anvil, with a dollar contract where the network table has USDC."""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from eth_abi import encode
from eth_hash.auto import keccak

from mitmproxy_x402.protocol.evm.permit2_contracts import PERMIT2, SETTLERS
from mitmproxy_x402.protocol.networks import BUILT_IN
from support.patience import eventually
from support.wire import free_port

ROOT = Path(__file__).parents[3]
VERSION = "1.7.1"
_DOLLAR = json.loads((ROOT / "tests" / "conformance" / "contracts" / "dollar.json").read_text())
_JUDGE = json.loads((ROOT / "tests" / "conformance" / "contracts" / "judge.json").read_text())
MULTICALL3 = "0xcA11bde05977b3631167028862bE2a173976CA11"
"""By which facilitators ask several things at once."""
_TRANSFER = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)"


@functools.cache
def program() -> Path:
    """The anvil of X402_ANVIL, of the path, or of its npm package, which is installed once into .bench/."""
    named = os.environ.get("X402_ANVIL") or shutil.which("anvil")
    if named:
        return Path(named)
    folder = ROOT / ".bench" / f"anvil-{VERSION}"
    system = {"Linux": "linux", "Darwin": "darwin"}[platform.system()]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    found = folder / "node_modules" / "@foundry-rs" / f"anvil-{system}-{machine}" / "bin" / "anvil"
    if not found.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", f"@foundry-rs/anvil@{VERSION}"]
        assert shutil.which("npm"), "these tests need anvil: install npm, or name the program in X402_ANVIL"
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, timeout=300)
    return found


class Anvil:
    """One node. Blocks come when a test wants them, `seconds` apart by the chain's clock."""

    def __init__(self, url: str, network: str = "base-sepolia") -> None:
        row = BUILT_IN.get(network)
        assert row is not None
        self.url = url
        self.network = row
        self.asset = row.assets[0]

    def rpc(self, method: str, *parameters: Any) -> Any:
        question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        request = urllib.request.Request(
            self.url, json.dumps(question).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.loads(answer.read())
        if "error" in said:
            raise RuntimeError(f"{method}: {said['error']}")
        return said["result"]

    def set_up(self) -> None:
        self.operator = self.rpc("eth_accounts")[0]
        self.rpc("anvil_setCode", self.asset.address, _DOLLAR["runtime"])
        self.transact("initialize(string,string)", self.asset.domain_name, self.asset.domain_version)

    def transact(self, function: str, *arguments: Any) -> str:
        """Mines a block with one call of the dollar; gives its transaction. Raises RuntimeError on a revert."""
        kinds = function[function.index("(") + 1 : -1].split(",")
        data = keccak(function.encode())[:4] + encode(kinds, arguments)
        call = {"from": self.operator, "to": self.asset.address, "data": "0x" + data.hex(), "gas": hex(1_000_000)}
        transaction = str(self.rpc("eth_sendTransaction", call))
        eventually(lambda: self.rpc("eth_getTransactionReceipt", transaction))
        receipt = self.rpc("eth_getTransactionReceipt", transaction)
        if receipt["status"] != "0x1":
            raise RuntimeError(f"{function} was reverted")
        return transaction

    def fund(self, address: str, amount: int) -> None:
        self.transact("mint(address,uint256)", address, amount)

    def balance(self, address: str) -> int:
        data = "0x70a08231" + address[2:].lower().rjust(64, "0")
        return int(self.rpc("eth_call", {"to": self.asset.address, "data": data}, "latest"), 16)

    def settle(self, payload: dict[str, Any]) -> str:
        """As a facilitator does; gives the transaction."""
        asked, signature = payload["authorization"], bytes.fromhex(payload["signature"][2:])
        numbers = (int(asked[name]) for name in ("value", "validAfter", "validBefore"))
        nonce = bytes.fromhex(asked["nonce"][2:])
        parts = signature[64], signature[:32], signature[32:64]
        return self.transact(_TRANSFER, asked["from"], asked["to"], *numbers, nonce, *parts)

    def call(self, address: str, data: str) -> str:
        """What `address` answers to the call `data`; both in hex."""
        return str(self.rpc("eth_call", {"to": address, "data": data}, "latest"))

    def mine(self, blocks: int, seconds: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks), hex(seconds))

    @property
    def now(self) -> int:
        """The chain's clock."""
        return int(self.rpc("eth_getBlockByNumber", "latest", False)["timestamp"], 16)


class Permit2Anvil(Anvil):
    """A node whose dollar knows permits, with Permit2 and the two contracts that settle over it at their addresses."""

    def set_up(self) -> None:
        """Put the contracts there, by their compiled code."""
        self.operator = self.rpc("eth_accounts")[0]
        self.rpc("anvil_setCode", self.asset.address, _JUDGE["TestUsdc"]["runtime"])
        for slot, text in enumerate((self.asset.domain_name, self.asset.domain_version)):
            held = text.encode().ljust(31, b"\0") + bytes([2 * len(text.encode())])  # a short string of Solidity's
            self.rpc("anvil_setStorageAt", self.asset.address, f"0x{slot:064x}", "0x" + held.hex())
        self.rpc("anvil_setCode", PERMIT2, _JUDGE["JudgePermit2"]["runtime"])
        self.rpc("anvil_setCode", SETTLERS["permit2"], _JUDGE["JudgeExactProxy"]["runtime"])
        self.rpc("anvil_setCode", SETTLERS["upto"], _JUDGE["JudgeUptoProxy"]["runtime"])
        self.rpc("anvil_setCode", MULTICALL3, _JUDGE["JudgeMulticall"]["runtime"])

    def allowance(self, owner: str) -> int:
        """What Permit2 may take of `owner`."""
        words = owner[2:].lower().rjust(64, "0") + PERMIT2[2:].lower().rjust(64, "0")
        return int(self.call(self.asset.address, "0xdd62ed3e" + words), 16)

    def approve(self, owner: str, amount: int) -> None:
        """Let Permit2 take `amount` of `owner`, whose key the node needs not."""
        self.rpc("anvil_setBalance", owner, hex(10**18))
        self.rpc("anvil_impersonateAccount", owner)
        words = PERMIT2[2:].lower().rjust(64, "0") + f"{amount:064x}"
        transaction = str(
            self.rpc("eth_sendTransaction", {"from": owner, "to": self.asset.address, "data": "0x095ea7b3" + words})
        )
        eventually(lambda: self.rpc("eth_getTransactionReceipt", transaction))
        self.rpc("anvil_stopImpersonatingAccount", owner)


Node = TypeVar("Node", bound=Anvil)


@contextmanager
def anvil(network: str = "base-sepolia", *, timestamp: int | None = None) -> Iterator[Anvil]:
    """A node of its own, which ends with the block; its first block is of `timestamp`, or of now."""
    with running(Anvil(f"http://127.0.0.1:{free_port()}", network), timestamp) as node:
        yield node


@contextmanager
def running(node: Node, timestamp: int | None = None) -> Iterator[Node]:
    """Starts anvil at the port of `node`'s URL and sets it up; it ends with the block."""
    port = int(node.url.rpartition(":")[2])
    command = [str(program()), "--host", "127.0.0.1", "--port", str(port), "--silent"]
    command += ["--chain-id", str(node.network.chain_id), "--timestamp", str(timestamp or int(time.time()))]
    command += ["--no-request-size-limit"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(node, process)
        node.set_up()
        yield node
    finally:
        process.kill()
        process.wait()


def _await(node: Anvil, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, f"anvil ended by itself with {process.returncode}"
        try:
            node.rpc("eth_chainId")
        except OSError:
            assert time.monotonic() < deadline, "anvil did not start"
            time.sleep(0.02)
        else:
            return
