"""Recognises a payment, or the signature of one, that somebody repeats in a header or a URL.

Known as a whole, wherever it begins and ends, are: a payment as its header has it; a signature on EVM in hex or base64;
a transaction of Solana in base64, and a signature of one in base58, where it stands alone. Percent signs and escapes of
JSON are undone first, and what is in base64 of a text is searched as the text is. Not known are parts
of them.
"""

from __future__ import annotations

import json
import re
from binascii import a2b_base64
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

_SHORTEST = 86
"""Bytes of the shortest of them: a signature on Solana in base58."""
_MOST_SEARCHED = 65536
"""Bytes that are searched for anything but hex."""
_DEPTH = 3
"""How often a text that is searched may be in base64."""
_MOST_WITHIN = 16384
"""Bytes of such a text that are searched for more than hex."""

_ESCAPED = re.compile(rb"\\{1,8}u00([2-7][0-9a-fA-F])")
"""A printable character as JSON may write it: of base64, most encoders write `\\u002b` or `\\u003d`. JSON in JSON has
more backslashes."""
_SLASH = re.compile(rb"\\{1,8}/")
_TIMES = 2
"""How often it may be escaped: a URL in a URL."""

_HEX = bytes(0x30 if chr(byte) in "0123456789abcdefABCDEF" else 0x20 for byte in range(256))
_SIGNATURE_HEX = b"0" * 130
"""65 bytes, after `_HEX`. Nothing else that is as long stands in headers in hex: hashes are shorter."""

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_RUNS = bytes(
    byte if byte in _ALPHABET else {0x2D: 0x2B, 0x5F: 0x2F}.get(byte, 0x20)  # base64url has - and _ for + and /
    for byte in range(256)
)
_SIGNATURE_BASE64 = 87
"""65 bytes in base64, without padding."""
_END = re.compile(rb"(?=[AQgw][AE]|[BRhx][sw])")
"""How that ends: the last byte of a signature on EVM is 0, 1, 27 or 28."""
_MOST_ENDS = 200
"""Of places where one may end: what has more is taken for a payment unseen, because each takes microseconds."""
_TRANSACTION = re.compile(
    rb"\x01[\s\S]{64}\x80?\x01\x00[\x00-\x3f][\x02-\x40]|\x02[\s\S]{128}\x80?\x02[\x00\x01][\x00-\x3f][\x03-\x40]"
    rb"|\x03[\s\S]{192}\x80?\x03[\x00-\x02][\x00-\x3f][\x04-\x40]"
)
"""A transaction on Solana: the number of its signatures, these, and the head of a message, with a version or not. It
says how many signers there are, how many of them and of the others may not be written to, and the number of accounts.
"""


_BASE58 = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_WORDS = bytes(byte if byte in _BASE58 else 0x30 if byte in b"0OIl" else 0x20 for byte in range(256))
_MOST_ALONE = 20
"""Of those in base58; more are taken for payments unseen."""
_OF_TRANSACTION = re.compile(rb"tx|transaction|hash", re.IGNORECASE)


def holds_payment(value: bytes, name: bytes = b"") -> bool:
    """Whether a payment, or the signature of one, stands in `value`, whoever wrote it there.

    The id of a transaction on Solana looks like any other of its signatures, and is public: in what `name` says to be a
    transaction, it is taken for one.
    """
    if len(value) < _SHORTEST:
        return False
    plain = _plain(value)
    if _SIGNATURE_HEX in plain.translate(_HEX):
        return True
    searched = plain[:_MOST_SEARCHED]
    if any(_in_base64(run, _DEPTH) for run in _runs(searched)):
        return True
    if _OF_TRANSACTION.search(name):
        return False
    alone = [word for word in searched.translate(_WORDS).split() if 86 <= len(word) <= 88 and b"0" not in word]
    return len(alone) > _MOST_ALONE or any(map(_is_of_64_bytes, alone))


def _plain(value: bytes) -> bytes:
    """`value` without escapes of URLs and JSON."""
    for _ in range(_TIMES):
        if b"%" in value:
            value = unquote_to_bytes(value)
        if b"\\u00" in value:
            value = _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), value)
        if b"\\/" in value:
            value = _SLASH.sub(b"/", value)
    return value


def _runs(text: bytes) -> Iterator[bytes]:
    """The parts of `text` that may be base64 and are long enough, in the standard alphabet."""
    return (run for run in text.translate(_RUNS).split() if len(run) >= _SIGNATURE_BASE64)


def _in_base64(run: bytes, depth: int) -> bool:
    """Whether a payment is in `run`, which is `depth` times in base64 at most."""
    first = _decode(run)
    if first.isascii():  # a text, as all headers of x402 are
        return _is_payload(first) or _in_text(first, depth)
    decoded = [first, *[_decode(run[start:]) for start in range(1, 4)]]
    if any(_is_payload(one) or _in_text(one, depth) for one in decoded):
        return True
    if any(map(bytes.isascii, decoded)) or _is_id(run):
        return False
    return any(map(_TRANSACTION.search, decoded)) or _holds_signature(run)


def _in_text(text: bytes, depth: int) -> bool:
    """Whether a payment is in `text`, which was in base64."""
    if _OF_SELLER in text:
        text = _without_offers(text)
    plain = _plain(text)
    if _SIGNATURE_HEX in plain.translate(_HEX):
        return True
    return depth > 1 and any(_in_base64(run, depth - 1) for run in _runs(plain[:_MOST_WITHIN]))


_OF_SELLER = b'"offer-receipt"'
"""The extension of x402 that has offers and receipts, which the seller signs."""


def _without_offers(text: bytes) -> bytes:
    try:
        message = json.loads(text)
        del message["extensions"][_OF_SELLER.strip(b'"').decode()]
        return json.dumps(message).encode()
    except (ValueError, RecursionError, LookupError, TypeError):
        return text


def _is_id(run: bytes) -> bool:
    """Whether it is the id of a transaction on Solana: what is base58 as a whole is no base64, in all likelihood."""
    return 86 <= len(run) <= 88 and not run.translate(None, _BASE58) and _is_of_64_bytes(run)


def _is_payload(plain: bytes) -> bool:
    """Whether a PaymentPayload is in `plain`, and no PaymentRequired, which names what is accepted."""
    return b'"x402Version"' in plain and b'"payload"' in plain and b'"accepts"' not in plain


def _holds_signature(run: bytes) -> bool:
    for count, found in enumerate(_END.finditer(run, _SIGNATURE_BASE64 - 2)):
        end = found.start() + 2
        if count >= _MOST_ENDS or _is_random(run[end - _SIGNATURE_BASE64 : end]):
            return True
    return False


def _is_random(text: bytes) -> bool:
    """Whether `text` may be random bytes in base64, and is neither a path or a word, nor base64 of a text."""
    if len(text.translate(None, _UPPER)) > len(text) - 15 or len(text.translate(None, _LOWER)) > len(text) - 15:
        return False
    return not any(map(_is_text, [_decode(text[start:]) for start in range(4)]))


_UPPER, _LOWER = _ALPHABET[:26], _ALPHABET[26:52]
_CONTROLS = bytes(range(32))


def _is_text(plain: bytes) -> bool:
    """Whether nearly all of `plain` is UTF-8 without control characters, as of random bytes two thirds are at most."""
    return len(plain.decode("utf-8", "ignore").encode().translate(None, _CONTROLS)) > 0.85 * len(plain)


def _decode(text: bytes) -> bytes:
    """The bytes that `text`, which has no padding, is in base64."""
    rest = len(text) % 4
    return a2b_base64(text[:-1] if rest == 1 else text + b"==" if rest == 2 else text + b"=" if rest else text)


def _is_of_64_bytes(text: bytes) -> bool:
    number = 0
    for digit in text:
        number = number * 58 + _BASE58.index(digit)
    return len(text) - len(text.lstrip(b"1")) + (number.bit_length() + 7) // 8 == 64
