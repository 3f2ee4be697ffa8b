"""An EVM RPC that knows one wallet's balance, its allowance to Permit2 and its permit nonce, as a test sets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .answering import Answering


class TokenRpc(Answering):
    def __init__(
        self, chain_id: int, balance: int, allowance: int = 0, nonce: int | None = 7, code: str = "0x"
    ) -> None:
        super().__init__()
        self.chain_id, self.balance, self.allowance, self.nonce, self.code = chain_id, balance, allowance, nonce, code
        self.asked: list[str] = []
        self.before_answer: Callable[[], None] = lambda: None
        """Called when a question has come."""

    def before(self) -> None:
        self.before_answer()

    def answer(self, call: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(call["method"])
        if call["method"] == "eth_chainId":
            result = hex(self.chain_id)
        elif call["method"] == "eth_getCode":
            result = self.code
        else:
            selector = call["params"][0]["data"][2:10]
            known = {"70a08231": self.balance, "dd62ed3e": self.allowance, "7ecebe00": self.nonce}[selector]
            if known is None:
                return {"jsonrpc": "2.0", "id": call["id"], "error": {"code": 3, "message": "execution reverted"}}
            result = f"0x{known:064x}"
        return {"jsonrpc": "2.0", "id": call["id"], "result": result}
