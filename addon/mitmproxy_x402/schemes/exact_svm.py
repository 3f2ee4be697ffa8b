"""Scheme `exact` on Solana: a version-0 transaction with one TransferChecked, signed by the payer alone.

The gateway's fee payer signs and submits it. Reference facilitators allow exactly this order of instructions and a fee
payer that takes part in none of them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from solders.hash import Hash
from solders.instruction import AccountMeta, Instruction
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from ..errors import ChallengeError
from ..protocol.messages import Json, PaymentRequirements
from ..protocol.networks import ENABLED, TOKEN_2022_PROGRAM, TOKEN_PROGRAM, Asset
from ..protocol.strict_json import shown

COMPUTE_UNIT_LIMIT = 20_000
"""Compute units for the transfer and a memo of 32 characters."""
COMPUTE_UNITS_PER_MEMO_BYTE = 700
"""Older memo programs need about 350 units for each byte of a seller's memo."""
MAX_COMPUTE_UNIT_LIMIT = 200_000
COMPUTE_UNIT_PRICE = 1
"""Micro-lamports per compute unit; the fee payer pays it, and one vendor takes no more than 50,000."""
MAX_MEMO_BYTES = 256
NONCE_BYTES = 16

_COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
_MEMO = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")
_NOBODY = frozenset(
    Pubkey.from_string(each)
    for each in (
        "11111111111111111111111111111111",
        "1nc1nerator11111111111111111111111111111111",
        "AddressLookupTab1e1111111111111111111111111",
        "ATokenGPvbdGVxr1b2hvZbsiqW5xWH25efTNsLJA8knL",
        "BPFLoader1111111111111111111111111111111111",
        "BPFLoader2111111111111111111111111111111111",
        "BPFLoaderUpgradeab1e11111111111111111111111",
        "ComputeBudget111111111111111111111111111111",
        "Config1111111111111111111111111111111111111",
        "Ed25519SigVerify111111111111111111111111111",
        "KeccakSecp256k11111111111111111111111111111",
        "L2TExMFKdjpN9kozasaurPirfHy9P8sbXoAN1qA3S95",
        "Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo",
        "MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr",
        "NativeLoader1111111111111111111111111111111",
        "Stake11111111111111111111111111111111111111",
        "SysvarC1ock11111111111111111111111111111111",
        "SysvarEpochSchedu1e111111111111111111111111",
        "SysvarFees111111111111111111111111111111111",
        "Sysvar1nstructions1111111111111111111111111",
        "SysvarRecentB1ockHashes11111111111111111111",
        "SysvarRent111111111111111111111111111111111",
        "SysvarS1otHashes111111111111111111111111111",
        "SysvarS1otHistory11111111111111111111111111",
        "SysvarStakeHistory1111111111111111111111111",
        TOKEN_PROGRAM,
        TOKEN_2022_PROGRAM,
        "Vote111111111111111111111111111111111111111",
        *(asset.address for network in ENABLED if network.family == "svm" for asset in network.assets),
    )
)
"""Programs, system accounts and tokens: nobody has their keys, so what their token accounts get is lost."""
_MAX_AMOUNT = 2**64 - 1
_SET_COMPUTE_UNIT_LIMIT, _SET_COMPUTE_UNIT_PRICE, _TRANSFER_CHECKED = b"\x02", b"\x03", b"\x0c"
_PRICE = Instruction(_COMPUTE_BUDGET, _SET_COMPUTE_UNIT_PRICE + COMPUTE_UNIT_PRICE.to_bytes(8, "little"), [])


def build(
    requirement: PaymentRequirements,
    asset: Asset,
    *,
    payer: str,
    blockhash: str,
    nonce: bytes,
    sign: Callable[[bytes], bytes],
) -> dict[str, Any]:
    """The payload that pays `requirement` from `payer` (x402 v2, scheme exact on SVM).

    `payer` and `blockhash` are base58, `nonce` is 16 random bytes or more: they become the memo, or, where the seller
    sets one, the variation of the compute unit limit, so that equal payments under one blockhash differ. `sign` gets
    the message and returns 64 bytes. Raises ChallengeError.
    """
    assert len(nonce) >= NONCE_BYTES
    check(requirement, asset, payer)
    owner, mint, program = Pubkey.from_string(payer), _key(asset.address), _key(asset.token_program)
    memo, limit = _memo(requirement.extra, nonce)
    source = _token_account(owner, mint, program)
    destination = _token_account(_named(requirement.pay_to, "payTo"), mint, program)
    fee_payer = _named(requirement.extra.get("feePayer"), "extra.feePayer")
    transfer = Instruction(
        program,
        _TRANSFER_CHECKED + requirement.amount.to_bytes(8, "little") + bytes([asset.decimals]),
        [
            AccountMeta(source, is_signer=False, is_writable=True),
            AccountMeta(mint, is_signer=False, is_writable=False),
            AccountMeta(destination, is_signer=False, is_writable=True),
            AccountMeta(owner, is_signer=True, is_writable=False),
        ],
    )
    set_limit = Instruction(_COMPUTE_BUDGET, _SET_COMPUTE_UNIT_LIMIT + limit.to_bytes(4, "little"), [])
    recent = Hash.from_bytes(bytes(_named(blockhash, "extra.recentBlockhash")))
    message = MessageV0.try_compile(fee_payer, [set_limit, _PRICE, transfer, Instruction(_MEMO, memo, [])], [], recent)
    # The fee payer is always the first signer, so the payer is the second; the first slot is the gateway's to fill.
    signatures = [Signature.default(), Signature.from_bytes(sign(to_bytes_versioned(message)))]
    return {"transaction": base64.b64encode(bytes(VersionedTransaction.populate(message, signatures))).decode()}


def check(requirement: PaymentRequirements, asset: Asset, payer: str | None) -> None:
    """Check that `build` can sign `requirement`; `payer` is None if no wallet is known yet.

    Raises ChallengeError, which says what rule it breaks.
    """
    mint, program = _key(asset.address), _key(asset.token_program)
    owner = None if payer is None else _key(payer)
    pay_to = _named(requirement.pay_to, "payTo")
    what = ""
    if owner is not None and pay_to in (owner, _token_account(owner, mint, program)):
        what = "is the paying wallet itself"
    elif pay_to in _NOBODY or pay_to in (mint, program):
        what = "is a program or a token: what is sent there is lost"
    if what:
        raise ChallengeError(f"The challenge's payTo {requirement.pay_to} {what}. Nothing was signed.")
    if requirement.amount > _MAX_AMOUNT:
        raise ChallengeError(
            f"The challenge asks for {requirement.amount}, more than a Solana transfer can hold. Nothing was signed."
        )
    _memo(requirement.extra, bytes(NONCE_BYTES))
    fee_payer = _named(requirement.extra.get("feePayer"), "extra.feePayer")
    taking_part = [mint, program, _MEMO, _COMPUTE_BUDGET, _token_account(pay_to, mint, program)]
    if owner is not None:
        taking_part += [owner, _token_account(owner, mint, program)]
    if fee_payer in taking_part:
        raise ChallengeError(
            f"The challenge's extra.feePayer {fee_payer} takes part in the payment; a fee payer that only submits it"
            " was expected. Nothing was signed."
        )
    if fee_payer in _NOBODY:
        raise ChallengeError(
            f"The challenge's extra.feePayer {fee_payer} is a program, which pays no fees. Nothing was signed."
        )
    blockhash = requirement.extra.get("recentBlockhash")
    if isinstance(blockhash, str):
        _named(blockhash, "extra.recentBlockhash")


def _memo(extra: Json, nonce: bytes) -> tuple[bytes, int]:
    """The memo, and the compute unit limit that it needs."""
    memo = extra.get("memo")
    if memo is None or memo == "":
        return nonce[:NONCE_BYTES].hex().encode(), COMPUTE_UNIT_LIMIT
    try:
        data = memo.encode() if isinstance(memo, str) else None
    except UnicodeEncodeError:
        data = None
    if data is None or len(data) > MAX_MEMO_BYTES:
        raise ChallengeError(
            f"The challenge's extra.memo {shown(memo, 20)} must be a text of at most {MAX_MEMO_BYTES} bytes in UTF-8."
            " Nothing was signed."
        )
    floor = min(COMPUTE_UNIT_LIMIT + COMPUTE_UNITS_PER_MEMO_BYTE * len(data), MAX_COMPUTE_UNIT_LIMIT)
    return data, floor + int.from_bytes(nonce, "big") % (MAX_COMPUTE_UNIT_LIMIT - floor + 1)


def _named(text: object, name: str) -> Pubkey:
    try:
        if isinstance(text, str):
            return Pubkey.from_string(text)
    except ValueError:
        pass
    raise ChallengeError(f"The challenge's {name} must be 32 bytes in base58, got {shown(text)}. Nothing was signed.")


@lru_cache(maxsize=64)
def _key(text: str) -> Pubkey:
    return Pubkey.from_string(text)


@lru_cache(maxsize=1024)
def _token_account(owner: Pubkey, mint: Pubkey, program: Pubkey) -> Pubkey:
    return get_associated_token_address(owner, mint, program)
