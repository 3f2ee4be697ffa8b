"""Two local chains, and the reference facilitators' view of them.

`EvmChain` is py-evm with a dollar contract at the address where the network table has USDC, so that domain, chain id
and address are the real ones. `SvmChain` is LiteSVM with the programs that it ships and a mint at the table's address.
Each has a `facilitator`, which implements the signer interface of the reference package's facilitator classes.
"""

# ruff: noqa: ARG002, PLR0917 - the arguments are the interface's, not ours

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eth_abi import decode, encode
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from eth_tester import EthereumTester, PyEVMBackend
from solders.account import Account
from solders.keypair import Keypair
from solders.litesvm import LiteSVM
from solders.message import to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata
from x402.mechanisms.evm.types import TransactionReceipt

from mitmproxy_x402.protocol.evm.address import checksum_address, public_key_address
from mitmproxy_x402.protocol.evm.permit2_contracts import PERMIT2, SETTLERS
from mitmproxy_x402.protocol.evm.secp256k1 import library
from mitmproxy_x402.protocol.networks import Network

_CONTRACTS = Path(__file__).parents[2] / "conformance" / "contracts"
_DOLLAR = json.loads((_CONTRACTS / "dollar.json").read_text())
JUDGE = json.loads((_CONTRACTS / "judge.json").read_text())
_GAS = 1_000_000


class EvmChain:
    """One EVM chain with one dollar contract. Blocks are a second apart and begin at the real time."""

    abi: list[dict[str, Any]] = _DOLLAR["abi"]

    def __init__(self, network: Network) -> None:
        self.network = network
        self.asset = network.assets[0]
        rich = {"balance": 10**24, "nonce": 0, "code": b"", "storage": {}}
        backend = PyEVMBackend(
            genesis_parameters=PyEVMBackend.generate_genesis_params({"timestamp": int(time.time()) - 60}),
            genesis_state={
                bytes.fromhex(
                    "7e5f4552091a69125d5dfcb7b8c2659029395bdf"
                ): rich,  # the address of eth-tester's first key
                **{bytes.fromhex(address[2:]): contract for address, contract in self.contracts().items()},
            },
        )
        type(backend.chain).chain_id = network.chain_id  # a class made for this backend
        self.tester = EthereumTester(backend)
        self.operator = str(self.tester.get_accounts()[0])
        self.facilitator = EvmFacilitator(self)
        self.begin()

    def contracts(self) -> dict[str, dict[str, Any]]:
        """What is there at the start, by address."""
        return {self.asset.address: contract(_DOLLAR["runtime"])}

    def begin(self) -> None:
        self.transact("initialize", self.asset.domain_name, self.asset.domain_version)

    def fund(self, address: str, amount: int) -> None:
        self.transact("mint", address, amount)

    def balance(self, address: str) -> int:
        return int(self.read("balanceOf", address))

    def used(self, address: str, nonce: str) -> bool:
        return bool(self.read("authorizationState", address, bytes.fromhex(nonce[2:])))

    def domain_separator(self) -> bytes:
        return bytes(self.read("DOMAIN_SEPARATOR"))

    def read(self, function: str, *args: Any) -> Any:
        return self.call(self.asset.address, self.abi, function, *args)

    def transact(self, function: str, *args: Any) -> str:
        return self.send(self.asset.address, call_data(self.abi, function, *args))

    def call(self, address: str, abi: list[dict[str, Any]], function: str, *args: Any) -> Any:
        """What the view `function` returns, or the revert of one that would be a transaction."""
        data = call_data(abi, function, *args)
        result = self.tester.call({"from": self.operator, "to": address, "data": "0x" + data.hex(), "gas": _GAS})
        outputs = [output["type"] for output in _function(abi, function)["outputs"]]
        values = decode(outputs, bytes.fromhex(result[2:])) if outputs else (None,)
        return values[0] if len(values) == 1 else values

    def send(self, address: str, data: bytes) -> str:
        """Mines a block with one transaction; returns its hash. Raises eth-tester's TransactionFailed on a revert."""
        transaction = {"from": self.operator, "to": address, "data": "0x" + data.hex(), "gas": _GAS}
        return str(self.tester.send_transaction(transaction))


def contract(runtime: str, storage: dict[int, int] | None = None) -> dict[str, Any]:
    return {"balance": 0, "nonce": 1, "code": bytes.fromhex(runtime[2:]), "storage": storage or {}}


def short_text(text: str) -> int:
    """A Solidity string of less than 32 bytes, as its slot holds it."""
    data = text.encode()
    return int.from_bytes(data.ljust(31, b"\0") + bytes([2 * len(data)]), "big")


class Permit2Chain(EvmChain):
    """One EVM chain with a dollar contract that knows permits, Permit2, and the two contracts that settle over it."""

    abi = JUDGE["TestUsdc"]["abi"]

    def contracts(self) -> dict[str, dict[str, Any]]:
        names = {0: short_text(self.asset.domain_name), 1: short_text(self.asset.domain_version)}
        return {
            self.asset.address: contract(JUDGE["TestUsdc"]["runtime"], names),
            PERMIT2: contract(JUDGE["JudgePermit2"]["runtime"]),
            SETTLERS["permit2"]: contract(JUDGE["JudgeExactProxy"]["runtime"]),
            SETTLERS["upto"]: contract(JUDGE["JudgeUptoProxy"]["runtime"]),
        }

    def begin(self) -> None:
        pass

    def allowance(self, owner: str) -> int:
        return int(self.read("allowance", owner, PERMIT2))

    def used_over_permit2(self, owner: str, nonce: int) -> bool:
        word = self.call(PERMIT2, JUDGE["JudgePermit2"]["abi"], "nonceBitmap", owner, nonce >> 8)
        return bool(int(word) >> (nonce & 255) & 1)


class EvmFacilitator:
    """The reference package's FacilitatorEvmSigner over an EvmChain."""

    def __init__(self, chain: EvmChain) -> None:
        self._chain = chain

    def get_addresses(self) -> list[str]:
        return [self._chain.operator]

    def get_chain_id(self) -> int:
        return self._chain.network.chain_id

    def get_code(self, address: str) -> bytes:
        return bytes.fromhex(self._chain.tester.get_code(address)[2:])

    def get_balance(self, address: str, token_address: str) -> int:
        assert token_address.lower() == self._chain.asset.address.lower()
        return self._chain.balance(address)

    def read_contract(self, address: str, abi: list[dict[str, Any]], function_name: str, *args: Any) -> Any:
        return self._chain.call(address, abi, function_name, *args)

    def write_contract(
        self, address: str, abi: list[dict[str, Any]], function_name: str, *args: Any, data_suffix: str | None = None
    ) -> str:
        suffix = bytes.fromhex((data_suffix or "0x")[2:])
        return self._chain.send(address, call_data(abi, function_name, *args) + suffix)

    def send_transaction(self, to: str, data: bytes) -> str:
        return self._chain.send(to, data)

    def wait_for_transaction_receipt(self, tx_hash: str) -> TransactionReceipt:
        receipt = self._chain.tester.get_transaction_receipt(tx_hash)
        return TransactionReceipt(receipt["status"], receipt["block_number"], tx_hash, list(receipt["logs"]))

    def verify_typed_data(
        self, address: str, domain: Any, types: Any, primary_type: str, message: dict[str, Any], signature: bytes
    ) -> bool:
        fields = {name: [{"name": f.name, "type": f.type} for f in members] for name, members in types.items()}
        every = {
            "name": domain.name,
            "version": domain.version,
            "chainId": domain.chain_id,
            "verifyingContract": domain.verifying_contract,
        }
        names = {key: value for key, value in every.items() if value}
        typed = encode_typed_data(names, fields, message)
        digest = keccak(b"\x19" + typed.version + typed.header + typed.body)
        recoverable = signature[:64] + bytes([signature[64] % 27])
        key = library().recover(recoverable, digest)
        return checksum_address(public_key_address(key)).lower() == address.lower()


def call_data(abi: list[dict[str, Any]], function: str, *args: Any) -> bytes:
    types = [_canonical(item) for item in _function(abi, function)["inputs"]]
    return keccak(f"{function}({','.join(types)})".encode())[:4] + encode(types, args)


def _canonical(item: dict[str, Any]) -> str:
    """The type of an argument, tuples as the list of their members' types."""
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    return f"({','.join(_canonical(part) for part in item['components'])}){item['type'][5:]}"


def _function(abi: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(item for item in abi if item["type"] == "function" and item["name"] == name)


class SvmChain:
    """One Solana chain with one mint: real token and memo programs, accounts written where a test needs them."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.asset = network.assets[0]
        self.svm = LiteSVM()
        self.mint = Pubkey.from_string(self.asset.address)
        self.program = Pubkey.from_string(self.asset.token_program)
        self.fee_payers = [Keypair(), Keypair()]
        self.facilitator = SvmFacilitator(self)
        for pair in self.fee_payers:
            self.svm.airdrop(pair.pubkey(), 10**9)
        no_key = (0).to_bytes(4, "little") + bytes(32)
        self._write(self.mint, no_key + (2**60).to_bytes(8, "little") + bytes([self.asset.decimals, 1]) + no_key)

    @property
    def blockhash(self) -> str:
        return str(self.svm.latest_blockhash())

    def token_account(self, owner: str) -> Pubkey:
        return get_associated_token_address(Pubkey.from_string(owner), self.mint, self.program)

    def fund(self, owner: str, amount: int) -> None:
        """Gives `owner` a token account with exactly `amount` in it; 0 opens an empty one."""
        no_key = (0).to_bytes(4, "little") + bytes(32)
        not_native = (0).to_bytes(4, "little") + bytes(8)
        held = amount.to_bytes(8, "little")
        data = bytes(self.mint) + bytes(Pubkey.from_string(owner)) + held + no_key + b"\x01" + not_native + bytes(8)
        self._write(self.token_account(owner), data + no_key)

    def balance(self, owner: str) -> int:
        account = self.svm.get_account(self.token_account(owner))
        return int.from_bytes(account.data[64:72], "little") if account else 0

    def _write(self, address: Pubkey, data: bytes) -> None:
        self.svm.set_account(address, Account(10**9, data, self.program))


class SvmFacilitator:
    """The reference package's FacilitatorSvmSigner over an SvmChain."""

    def __init__(self, chain: SvmChain) -> None:
        self._chain = chain
        self.sent: dict[str, Any] = {}
        """Metadata of each transaction that went through, by signature."""

    def get_addresses(self) -> list[str]:
        return [str(pair.pubkey()) for pair in self._chain.fee_payers]

    def sign_transaction(self, tx_base64: str, fee_payer: str, network: str) -> str:
        pair = next(pair for pair in self._chain.fee_payers if str(pair.pubkey()) == fee_payer)
        transaction = VersionedTransaction.from_bytes(base64.b64decode(tx_base64))
        signatures = [pair.sign_message(to_bytes_versioned(transaction.message)), *transaction.signatures[1:]]
        return base64.b64encode(bytes(VersionedTransaction.populate(transaction.message, signatures))).decode()

    def simulate_transaction(self, tx_base64: str, network: str) -> None:
        self._run(self._chain.svm.simulate_transaction, tx_base64)

    def send_transaction(self, tx_base64: str, network: str) -> str:
        result = self._run(self._chain.svm.send_transaction, tx_base64)
        signature = str(result.signature())
        self.sent[signature] = result
        return signature

    def confirm_transaction(self, signature: str, network: str) -> None:
        if self._chain.svm.get_transaction(Signature.from_string(signature)) is None:
            raise RuntimeError(f"{signature} was never sent")

    @staticmethod
    def _run(use: Callable[[VersionedTransaction], Any], tx_base64: str) -> Any:
        result = use(VersionedTransaction.from_bytes(base64.b64decode(tx_base64)))
        if isinstance(result, FailedTransactionMetadata):
            raise RuntimeError(f"{result.err()}: {result.meta().logs()}")
        return result
