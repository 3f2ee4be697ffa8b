"""One tree of errors: each says what was wrong, what was expected, and what to do.

A message is shown to people and sent to clients as it is, so it never holds a key, a payment header or a token.
"""

from __future__ import annotations

import json
from typing import ClassVar


class X402Error(Exception):
    """Base of the errors whose message people see; `Undecodable` is outside of it.

    `code` is stable and meant for programs; `str(error)` is a sentence for people.
    """

    code: ClassVar[str] = "x402_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(X402Error):
    """The user's configuration is wrong: names the file or option, the key, the value and what is allowed."""

    code = "settings_invalid"


class WalletError(SettingsError):
    """A key was named or found, and cannot be used: names the source, never the content."""

    code = "wallet_invalid"


class ChallengeError(X402Error):
    """The gateway's challenge cannot be read or asks for something that no rule of the protocol allows."""

    code = "challenge_invalid"


class PaymentHeaderError(X402Error):
    """A payment or settlement header is not base64 JSON of the shape that the specification gives."""

    code = "payment_header_invalid"


class Refused(X402Error):
    """We could sign but will not, or cannot: the client gets `code` and the reason, nothing was signed.

    The message names what was asked, what the limit was, and the option that changes it. `asked` is the price alone,
    where one was chosen: "0.013081 USDC on base". `why` is the reason as half a sentence, for a list of entries; empty:
    only the message has it.
    """

    def __init__(self, code: str, message: str, *, asked: str = "", why: str = "") -> None:
        super().__init__(message)
        self.reason = code
        self.asked = asked
        self.why = why


class RpcError(X402Error):
    """No RPC gave a usable answer within its time: on Solana, or on any network when a balance was asked for."""

    code = "solana_rpc_unavailable"


class EvmRpcError(RpcError):
    """No RPC of an EVM network gave a usable answer within its time, or a transaction sent to one did not succeed."""

    code = "evm_rpc_unavailable"


class Undecodable(ValueError):
    """A stranger's bytes cannot be decoded, or are more than we read: says why, in half a sentence.

    Whoever reads them decides what that means; it never reaches people as it is.
    """


class NotRead(Undecodable):
    """A stranger's bytes may be valid, but are nested deeper, or more, or have larger numbers than what is read."""


def error_code(error: X402Error) -> str:
    """The stable code that a client sees for `error`."""
    return error.reason if isinstance(error, Refused) else error.code


def error_body(kind: str, code: str, message: str) -> bytes:
    """The JSON body that both the OpenAI and the Anthropic SDK turn into their own exception with our message.

    `kind` is `x402_refused` (we did not pay) or `upstream_error` (the gateway could not be reached or broke off). Never
    fails: a message that quotes bytes that are not UTF-8 has question marks in their place.
    """
    error = {"type": kind, "code": code, "message": message}
    return json.dumps({"type": "error", "error": error}, ensure_ascii=False).encode("utf-8", "replace")
