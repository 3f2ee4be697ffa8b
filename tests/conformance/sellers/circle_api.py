"""A stand-in of Circle's API for its seller middleware: what it supports, verifies and settles, by Circle's rules.

The rules are from Circle's documentation and SDK: the contract's own signing domain, payee and amount as required,
seven days of validity left, a nonce that was never used, and a balance in the contract. Signatures are checked by
eth-account, so that nothing of ours judges what we sign.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data

from support.chains.answering import send_json
from support.wire import Peer, Upstream

NETWORK, USDC = "eip155:84532", "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
CONTRACT = "0x0077777d7EBA4688BDeF3E311b846F25870A19B9"
WEEK = 7 * 24 * 3600
_FIELDS = ("address from", "address to", "uint256 value", "uint256 validAfter", "uint256 validBefore", "bytes32 nonce")
_TYPES = {"TransferWithAuthorization": [{"type": kind, "name": name} for kind, name in map(str.split, _FIELDS)]}


class CircleApi(Upstream):
    """`balance` is what lies in the contract for each address; for the reason `refuses` no settlement is made."""

    def __init__(self, balance: int) -> None:
        super().__init__(serve)
        self.balance, self.refuses = balance, ""
        self.spent: dict[str, int] = {}
        self.used: set[str] = set()
        self.verified: list[str] = []
        """What came of each verification: empty, or why not."""

    def answer(self, path: str, asked: dict[str, Any]) -> dict[str, Any]:
        """What the API says to a request for `path`."""
        if path == "/v1/x402/supported":
            extra = {
                **{"name": "GatewayWalletBatched", "version": "1", "verifyingContract": CONTRACT},
                "assets": [{"symbol": "USDC", "address": USDC, "decimals": 6}],
            }
            kind = {"x402Version": 2, "scheme": "exact", "network": NETWORK, "extra": extra}
            return {"kinds": [kind], "extensions": [], "signers": {}}
        payload, required = asked["paymentPayload"], asked["paymentRequirements"]
        message = payload["payload"]["authorization"]
        wrong = self.objection(message, payload["payload"]["signature"], required)
        if path == "/v1/x402/verify":
            self.verified.append(wrong)
            return {"isValid": not wrong, "invalidReason": wrong or None, "payer": message["from"]}
        assert path == "/v1/x402/settle"
        wrong = wrong or self.refuses
        if wrong:
            return {"success": False, "errorReason": wrong, "transaction": "", "network": NETWORK}
        self.used.add(message["nonce"])
        self.spent[message["from"]] = self.spent.get(message["from"], 0) + int(message["value"])
        return {"success": True, "transaction": str(uuid.uuid4()), "network": NETWORK, "payer": message["from"]}

    def objection(self, message: dict[str, Any], signature: str, required: dict[str, Any]) -> str:
        """Why a payment is none; empty where it is one."""
        domain = {"name": "GatewayWalletBatched", "version": "1", "chainId": 84532, "verifyingContract": CONTRACT}
        typed = {**message, "nonce": bytes.fromhex(message["nonce"][2:])}
        for name in ("value", "validAfter", "validBefore"):
            typed[name] = int(message[name])
        signer = Account.recover_message(encode_typed_data(domain, _TYPES, typed), signature=signature)
        now = int(time.time())
        rules = {
            "invalid_signature": signer == message["from"],
            "address_mismatch": message["to"].lower() == required["payTo"].lower(),
            "amount_mismatch": message["value"] == required["amount"],
            "authorization_not_yet_valid": int(message["validAfter"]) <= now,
            "authorization_validity_too_short": int(message["validBefore"]) >= now + WEEK,
            "nonce_already_used": message["nonce"] not in self.used,
            "insufficient_balance": self.balance - self.spent.get(signer, 0) >= int(message["value"]),
        }
        return next((reason for reason, holds in rules.items() if not holds), "")


def serve(peer: Peer, upstream: Upstream) -> None:
    assert isinstance(upstream, CircleApi)
    while True:
        asked = upstream.read(peer)
        path = asked.start.split()[1].decode()
        send_json(peer, upstream.answer(path, json.loads(asked.body or b"{}")))
