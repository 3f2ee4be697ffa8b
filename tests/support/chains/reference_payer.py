"""A payer made of the reference client's parts, so that the sandbox and the facilitators are judged without our own."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping
from typing import Any

import httpx
from eth_account import Account
from solders.keypair import Keypair
from x402.mechanisms.evm.exact.client import ExactEvmScheme
from x402.mechanisms.evm.exact.v1.client import ExactEvmSchemeV1
from x402.mechanisms.svm.exact.client import ExactSvmScheme
from x402.mechanisms.svm.exact.v1.client import ExactSvmSchemeV1
from x402.mechanisms.svm.signers import KeypairSigner
from x402.schemas import PaymentRequirements
from x402.schemas.v1 import PaymentRequirementsV1

CHAT: dict[str, Any] = {"model": "sandbox-1", "messages": [{"role": "user", "content": "Grüß dich"}], "max_tokens": 100}
PATH = "/v1/chat/completions"

Message = dict[str, Any]


class ReferencePayer:
    """New keys on both families. `rpc_url` is where the Solana client asks for mints and blockhashes."""

    def __init__(self, rpc_url: str = "http://127.0.0.1:9/") -> None:
        self.evm = Account.create()
        self.svm = Keypair()
        self.entry: Mapping[str, Any] = {}
        """The entry that was paid last."""
        signer = KeypairSigner(self.svm)
        self._schemes = {
            ("evm", 2): ExactEvmScheme(self.evm),
            ("evm", 1): ExactEvmSchemeV1(self.evm),
            ("svm", 2): ExactSvmScheme(signer, rpc_url=rpc_url),
            ("svm", 1): ExactSvmSchemeV1(signer, rpc_url=rpc_url),
        }

    def close(self) -> None:
        for (kind, _), scheme in self._schemes.items():
            if kind == "svm":
                close_rpc(scheme)

    def address(self, network: str) -> str:
        return str(self.evm.address) if family(network) == "evm" else str(self.svm.pubkey())

    def payload(self, entry: Mapping[str, Any], version: int = 2) -> Message:
        """The scheme's part of a payment for `entry`."""
        model = PaymentRequirements if version == 2 else PaymentRequirementsV1
        scheme = self._schemes[family(entry["network"]), version]
        return dict(scheme.create_payment_payload(model.model_validate(entry)))

    def payment(self, challenge: Mapping[str, Any], network: str) -> Message:
        """A whole payment for the `exact` entry on `network`, as JSON before base64."""
        self.entry = entry = exact(challenge, network)
        version = challenge["x402Version"]
        message: Message = {"x402Version": version, "payload": self.payload(entry, version)}
        if version == 1:
            return {**message, "scheme": "exact", "network": entry["network"]}
        echoed = {key: challenge[key] for key in ("resource", "extensions") if key in challenge}
        return copy.deepcopy({**message, "accepted": dict(entry), **echoed})


def close_rpc(scheme: Any) -> None:
    """Close the connections of the reference's Solana client, which has no way of its own to do so."""
    for client in scheme._clients.values():
        client._provider.session.close()


def family(network: str) -> str:
    return "svm" if network.startswith("solana") else "evm"


def exact(challenge: Mapping[str, Any], network: str) -> Mapping[str, Any]:
    found = [e for e in challenge["accepts"] if e["scheme"] == "exact" and e["network"] == network]
    assert len(found) == 1
    return found[0]


def challenge_of(response: httpx.Response) -> Message:
    """The challenge of a 402, from its header where there is one."""
    assert response.status_code == 402
    header = response.headers.get("payment-required")
    return dict(json.loads(base64.b64decode(header)) if header else response.json())


def encoded(message: Mapping[str, Any]) -> dict[str, str]:
    """The request header that carries a payment."""
    name = "X-PAYMENT" if message["x402Version"] == 1 else "PAYMENT-SIGNATURE"
    return {name: base64.b64encode(json.dumps(message).encode()).decode()}


def decoded(header: str) -> Message:
    return dict(json.loads(base64.b64decode(header, validate=True)))


class Shopper:
    """Asks a sandbox for things and pays for them."""

    def __init__(self, url: str, network: str = "eip155:84532") -> None:
        self.http = httpx.Client(base_url=url, timeout=30)
        self.network = network
        self.payer = ReferencePayer(f"{url}/api/v1/solana/rpc")

    def __enter__(self) -> Shopper:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.payer.close()

    @property
    def address(self) -> str:
        return self.payer.address(self.network)

    def ask(
        self,
        body: Any = CHAT,
        *,
        path: str = PATH,
        payment: Mapping[str, Any] | None = None,
        fault: str = "",
        **headers: str,
    ) -> httpx.Response:
        if fault:
            headers["x-sandbox-fault"] = fault
        if payment is not None:
            headers |= encoded(payment)
        return self.http.post(path, json=body, headers=headers)

    def payment_for(self, body: Any = CHAT, *, path: str = PATH, fault: str = "") -> Message:
        return self.payer.payment(challenge_of(self.ask(body, path=path, fault=fault)), self.network)

    def buy(self, body: Any = CHAT, *, path: str = PATH, fault: str = "") -> httpx.Response:
        return self.ask(body, path=path, payment=self.payment_for(body, path=path), fault=fault)
