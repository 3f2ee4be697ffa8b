"""Which names carry credentials or payments: one rule for the guard and for the recorder.

A header or parameter whose name says that it is a key, a token, a secret, a password or a cookie is a credential,
whatever vendor thought of the name. Names that are known to say something else (`sort_key`, `page_token`) are none. A
signature (`X-Amz-Signature`) belongs to one request: it is not recorded, but the upstream may have asked for it.
"""

from __future__ import annotations

import functools
import re

PAYMENT_HEADERS = ("payment-signature", "x-payment")
"""A client that sends one of these pays by itself."""
_PAYMENT_SCHEMES = ("payment", "l402", "lsat")
"""Schemes of `Authorization` that pay (draft-ryan-httpauth-payment, L402), in lower case."""

_CREDENTIAL = re.compile(
    r"""(?:.*[-_.])?
    (?: (?:api|app|access|auth|account|session|id|secret|private|subscription|client|bearer|user|refresh|security|master
          |virtual)? [-_]? (?:key|token|secret)
      | jwt | assertion | dpop | vk
      | passwords? | passwd | pwd | passphrase | credentials?
      | auth | authorization | authentication | x?auth
      | cookie2? | sessionid | jsessionid | phpsessid
    )""",
    re.VERBOSE,
)
_OTHER = re.compile(
    r"""(?:x[-_]|sec[-_]|http[-_])?
    (?: (?:sort|order|group|partition|row|cache|idempotency|dedup|deduplication|surrogate|websocket|primary|foreign
          |public|routing|shard|object|prompt[-_]cache)[-_]?key
      | (?:(?:next[-_]?)?page|next|prev|previous|pagination|continuation|cursor|skip|start)[-_]?(?:key|token)
    )""",
    re.VERBOSE,
)
_SIGNATURE = re.compile(r"(?:.*[-_.])?(?:sig|signature)")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_TELLING_VALUE = re.compile(rb"(?i:bearer|basic|digest|negotiate)[ ]+[^ ]|sk-[A-Za-z0-9_-]{12}")


@functools.lru_cache(maxsize=1024)
def is_credential_name(name: bytes) -> bool:
    """Whether a header or parameter of this name, in any case, says who the client is. `sessionToken` does."""
    spelt = _spelt(name)
    return any(map(_CREDENTIAL.fullmatch, spelt)) and not any(map(_OTHER.fullmatch, spelt))


def is_credential(name: bytes, value: bytes) -> bool:
    """Whether a header is a credential, by its name or because its value looks like nothing else."""
    return is_credential_name(name) or _TELLING_VALUE.match(value) is not None


@functools.lru_cache(maxsize=1024)
def is_secret_name(name: bytes) -> bool:
    """Whether what has this name must not be written down: credentials, signatures, payments, cookies that are set."""
    spelt = _spelt(name)
    return (
        is_credential_name(name)
        or any(map(_SIGNATURE.fullmatch, spelt))
        or spelt[0] in (*PAYMENT_HEADERS, "set-cookie", "set-cookie2")
    )


def _spelt(name: bytes) -> tuple[str, str]:
    """`name` in lower case, as it is and with its humps marked."""
    text = name.decode("latin-1")
    return text.lower(), _HUMP.sub("_", text).lower()


def is_payment(name: bytes, value: bytes) -> bool:
    """Whether a header is a payment by the client itself."""
    key = name.lower().decode("latin-1")
    if key == "authorization":
        return value.partition(b" ")[0].lower().decode("latin-1") in _PAYMENT_SCHEMES
    return key in PAYMENT_HEADERS
