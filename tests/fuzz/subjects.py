"""What is fuzzed: each subject takes any bytes and raises where something does not hold that must."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mitmproxy import http
from solders.keypair import Keypair
from solders.message import MessageV0, to_bytes_versioned
from solders.pubkey import Pubkey
from solders.token.associated import get_associated_token_address
from solders.transaction import VersionedTransaction

from mitmproxy_x402.errors import ChallengeError, PaymentHeaderError, Refused, SettingsError
from mitmproxy_x402.gateways import blockrun
from mitmproxy_x402.llm import StreamReader, Text, answer_text, checked, read_request, request_text
from mitmproxy_x402.llm.sse import Event, Parser
from mitmproxy_x402.payment import challenge
from mitmproxy_x402.payment.offer import Offer
from mitmproxy_x402.payment.offered import rules_of
from mitmproxy_x402.payment.policy import choose
from mitmproxy_x402.payment.retained.identity import RequestIdentity
from mitmproxy_x402.protocol.headers import (
    payment_header,
    payment_required_header,
    read_payment,
    read_settlement,
    settlement_header,
)
from mitmproxy_x402.protocol.messages import AtomicUnits, PaymentPayload, PaymentRequired, PaymentRequirements
from mitmproxy_x402.protocol.networks import BUILT_IN
from mitmproxy_x402.protocol.payment_required import read_payment_required
from mitmproxy_x402.schemes import exact_evm, exact_svm
from mitmproxy_x402.settings.settings import read_settings

PAIR = Keypair.from_seed(bytes(range(32)))
SVM_PAYER = str(PAIR.pubkey())
EVM_PAYER = "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A"
NOW = 1_760_000_000
MAX_TRANSACTION = 1232
"""Bytes that one packet of Solana's holds."""
MOST_SECONDS = 600
LAST_MOST = 64
"""Bytes of an event that the parser is told to keep."""
MOST_READ = 4096
"""Bytes of one event, and characters of an answer, that the reader is told to keep."""
MOST_PARTS = 20
_FOLDER = Path(tempfile.mkdtemp(prefix="x402-fuzz-"))
_SETTINGS = read_settings({}, {}, cwd=_FOLDER, home=_FOLDER)
_RULES = rules_of(_SETTINGS)


def header(data: bytes) -> None:
    """A header of an answer or of a request: read or declared unreadable; what was read can be written and read."""
    text = data.decode("latin-1")
    receipt = read_settlement(lambda _: text)
    if receipt is not None and receipt.success:
        name, value = settlement_header(2, receipt)
        assert read_settlement({name: value}.get) == receipt
    try:
        payment = read_payment({"PAYMENT-SIGNATURE": text}.get)
    except PaymentHeaderError:
        return
    assert payment is not None
    try:
        name, value = payment_header(payment)
    except ChallengeError:
        return  # longer than a server would take
    again = read_payment({name: value}.get)
    assert again is not None
    assert (again.payload, again.accepted.raw) == (payment.payload, payment.accepted.raw)


def challenged(data: bytes) -> None:
    """A 402, its first line in the header and the rest as its body: what is paid is in the table, to the letter."""
    first, _, body = data.partition(b"\n")
    head = [(b"PAYMENT-REQUIRED", base64.b64encode(first) if first[:1] == b"{" else first)] if first else []
    response = http.Response.make(402, body, head)
    challenge.challenge_text(response, blockrun.GATEWAY)
    code = challenge.rejection_code(response, blockrun.GATEWAY)
    assert code is not None
    try:
        required = challenge.read(response)
        if required is None:
            return
        offer = choose(required, _RULES, {"evm": EVM_PAYER, "svm": SVM_PAYER})
    except (ChallengeError, Refused):
        return
    _is_in_the_table(offer, required)
    try:
        payload = _paid(offer)
        name, value = payment_header(PaymentPayload(required.x402_version, offer.requirement, payload))
    except ChallengeError:
        return
    read = read_payment({name: value}.get)
    assert read is not None
    assert read.payload == payload


def _is_in_the_table(offer: Offer, required: PaymentRequired) -> None:
    assert offer.network in list(BUILT_IN)
    assert offer.asset in offer.network.assets
    entry = offer.requirement
    assert entry in required.accepts
    assert entry.scheme == "exact"
    assert entry.amount >= 0
    written = entry.raw["amount" if required.x402_version == 2 else "maxAmountRequired"]
    assert written == f"{entry.amount}"


def _paid(offer: Offer) -> dict[str, object]:
    entry = offer.requirement
    if offer.network.family == "svm":
        blockhash = entry.extra.get("recentBlockhash")
        blockhash = blockhash if isinstance(blockhash, str) else SVM_PAYER
        payload = exact_svm.build(entry, offer.asset, payer=SVM_PAYER, blockhash=blockhash, nonce=bytes(16), sign=_sign)
        _check_transaction(entry, payload)
        return payload
    payload = exact_evm.authorize(
        entry,
        offer.network,
        offer.asset,
        payer=EVM_PAYER,
        now=NOW,
        nonce=bytes(32),
        max_validity=MOST_SECONDS,
        sign=lambda digest: digest + bytes(33),
    )
    said = payload["authorization"]
    assert int(said["value"]) == entry.amount
    assert said["to"].lower() == entry.pay_to.lower()
    assert said["from"] == EVM_PAYER
    assert NOW < int(said["validBefore"]) <= NOW + MOST_SECONDS
    return payload


def _sign(message: bytes) -> bytes:
    return bytes(PAIR.sign_message(message))


_SVM = next(network for network in BUILT_IN if network.family == "svm")
_PLAIN = ("AQqnMFBwGZEoti85aTVRy8XYpKrho7GaMDx9ZB3CEeKA", "93syNmtT1tTd5ZtPwHqzGf6CM7fKhMmArpv4AM4FtyNX", "", "11961")
_BLOCKHASH = "2Etc9q7omPrAu16uFNbM3fwUH7ygCFKkToN4YCXym1nK"


def solana(data: bytes) -> None:
    """Parts between NULs: payTo, fee payer, memo, amount, blockhash; an empty part is what a good challenge says.

    A transaction that is built does what the entry says and nothing else, by the reference facilitator's rules.
    """
    given = [part.decode("utf8", "surrogateescape") for part in data.split(b"\0")[:5]]
    given += [""] * (5 - len(given))
    pay_to, fee_payer, memo, amount, blockhash = (
        part or otherwise for part, otherwise in zip(given, (*_PLAIN, _BLOCKHASH), strict=True)
    )
    units = int(amount) if amount.isascii() and amount.isdecimal() and len(amount) < 100 else 1
    asset = _SVM.assets[0]
    entry = PaymentRequirements(
        "exact", _SVM.caip2, AtomicUnits(units), asset.address, pay_to, 300, {"feePayer": fee_payer, "memo": memo}, {}
    )
    try:
        nonce = data[:16].ljust(16)
        payload = exact_svm.build(entry, asset, payer=SVM_PAYER, blockhash=blockhash, nonce=nonce, sign=_sign)
    except ChallengeError:
        return
    _check_transaction(entry, payload)


def _check_transaction(entry: PaymentRequirements, payload: Mapping[str, object]) -> None:
    raw = base64.b64decode(str(payload["transaction"]), validate=True)
    assert len(raw) <= MAX_TRANSACTION
    transaction = VersionedTransaction.from_bytes(raw)
    message = transaction.message
    assert isinstance(message, MessageV0)
    assert not message.address_table_lookups
    assert transaction.signatures[1].verify(PAIR.pubkey(), to_bytes_versioned(message))
    keys = message.account_keys
    fee_payer = Pubkey.from_string(str(entry.extra["feePayer"]))
    assert keys[:2] == [fee_payer, PAIR.pubkey()]
    assert message.header.num_required_signatures == 2
    limit, price, transfer, memo = message.instructions
    asset = next(each for network in BUILT_IN for each in network.assets if each.address == entry.asset)
    mint, program = Pubkey.from_string(asset.address), Pubkey.from_string(asset.token_program)
    assert [str(keys[each.program_id_index])[:7] for each in (limit, price, memo)] == ["Compute", "Compute", "MemoSq4"]
    assert keys[transfer.program_id_index] == program
    assert [keys[index] for index in transfer.accounts] == [
        get_associated_token_address(PAIR.pubkey(), mint, program),
        mint,
        get_associated_token_address(Pubkey.from_string(entry.pay_to), mint, program),
        PAIR.pubkey(),
    ]
    assert bytes(transfer.data) == b"\x0c" + entry.amount.to_bytes(8, "little") + bytes([asset.decimals])
    assert all(0 not in each.accounts for each in message.instructions)
    units, lamports = int.from_bytes(bytes(limit.data)[1:], "little"), int.from_bytes(bytes(price.data)[1:], "little")
    assert (bytes(limit.data)[0], bytes(price.data)[0]) == (2, 3)
    assert 0 < units <= exact_svm.MAX_COMPUTE_UNIT_LIMIT
    assert lamports == 1
    assert not limit.accounts
    assert not price.accounts
    assert not memo.accounts


def sse(data: bytes) -> None:
    """The first byte says in how long pieces the rest comes: that changes nothing, and memory is bounded."""
    step, stream = max(1, data[0] if data else 1), data[1:]
    whole, pieces = Parser(LAST_MOST), Parser(LAST_MOST)
    events = whole.feed(stream)
    parts: list[Event] = []
    for at in range(0, len(stream), step):
        parts += pieces.feed(stream[at : at + step])
        kept = [len(each) for each in vars(pieces).values() if isinstance(each, bytes | bytearray)]
        assert sum(kept) <= 2 * LAST_MOST + 3  # a name, lines of data, and the beginning of a byte order mark
    whole.end()
    pieces.end()
    assert parts == events
    assert (pieces.retry, pieces.comments, pieces.irregular) == (whole.retry, whole.comments, whole.irregular)
    assert all(len(event.data.encode()) <= 3 * LAST_MOST for event in events)


def answer(data: bytes) -> None:
    """A body in any form and dialect: in pieces it says the same as at once, bounded, and safe to print."""
    step, body = max(1, data[0] if data else 1), data[1:]
    whole, pieces = (StreamReader(MOST_READ, MOST_READ, MOST_PARTS, traced=traced) for traced in (True, False))
    whole.feed(body)
    whole.end()
    for at in range(0, len(body), step):
        pieces.feed(body[at : at + step])
        pieces.reading()
    pieces.end()
    reading = pieces.reading()
    assert repr(reading) == repr(whole.reading())
    assert len(reading.items) <= MOST_PARTS
    assert sum(len(item.text) for item in reading.items if isinstance(item, Text)) <= MOST_READ
    steps = whole.steps()
    assert [one.number for one in steps] == list(range(1, reading.events + 1))
    assert all(0 <= one.begin <= one.end <= len(body) for one in steps)
    text = answer_text(reading)
    text.encode()
    assert not any(ord(one) < 32 and one not in "\n\t" for one in text)
    asked = read_request("/v1/messages", "application/json", body)
    if asked is not None:
        request_text(asked).encode()
        checked(reading, asked)


def toml(data: bytes) -> None:
    """x402.toml: settings within their bounds, or the error that names what is wrong."""
    file = _FOLDER / "x402.toml"
    file.write_bytes(data)
    try:
        settings = read_settings({}, {}, cwd=_FOLDER, home=_FOLDER)
    except SettingsError:
        return
    finally:
        file.unlink()
    assert settings.max_request >= 0
    assert 30 <= settings.max_validity <= 86400
    assert 0 <= settings.repurchase <= 10
    assert all(budget.micro_usd >= 0 for budget in settings.budgets)
    assert list(BUILT_IN) == [settings.networks.get(network.caip2) for network in BUILT_IN]
    repr(settings)
    replace(settings)


def body(data: bytes) -> None:
    """A client's request: its fingerprint is found, and found again."""
    route = ("POST", "http://127.0.0.1:1", "/v1/chat/completions")
    assert RequestIdentity(route, data).fingerprint == RequestIdentity(route, bytes(data)).fingerprint
    required = None
    try:
        required = read_payment_required(None, data)
    except ChallengeError:
        return
    if required is not None and required.x402_version == 2:
        raw = {"x402Version": 2, "accepts": [entry.raw for entry in required.accepts]}
        again = read_payment_required(payment_required_header(raw), b"")
        assert again is not None
        assert again.accepts == required.accepts


SUBJECTS: Mapping[str, Callable[[bytes], None]] = {
    "header": header,
    "challenge": challenged,
    "solana": solana,
    "sse": sse,
    "answer": answer,
    "toml": toml,
    "body": body,
}
