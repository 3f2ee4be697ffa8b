"""Recognises credentials and payments by names and values: one rule for the guard and the recorder.

A header or parameter whose name says that it is a key, a token, a secret, a password or a cookie is a credential,
whatever vendor thought of the name; so is a value that can be nothing else, whatever its name: `Bearer ...`, a signed
token (JWT), a key with the prefix that its vendor gives to keys. Names that are known to say something else
(`sort_key`, `page_token`) are none. A signature in a header belongs to one request; a signature in a URL (`sig`,
`X-Amz-Signature`) lets everybody in who has the URL.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from .patterns import EVM_ADDRESS, SVM_ADDRESS

PAYMENT_HEADERS = (b"payment-signature", b"x-payment")
"""A client that sends one of these pays by itself."""
_PAYMENT_SCHEMES = (b"payment", b"l402", b"lsat")
"""Schemes of `Authorization` that pay (draft-ryan-httpauth-payment, L402), in lower case."""

# Names.

_LONGEST_NAME = 128
"""Bytes of a name that are looked at: its last ones, which say what it is."""

_CREDENTIAL = re.compile(
    r"""(?:.*[-_.])?
    (?: (?:api|app|access|auth|account|session|id|secret|private|subscription|client|bearer|user|refresh|security|master
          |virtual)? [-_]? (?:key|token|secret)
      | jwt | assertion | dpop | vk | bearer
      | passwords? | passwd | pwd | pass | passcode | passphrase | cred(?:ential)?s?
      | auth | authorization | authentication | x?auth
      | cookie2? | sessionid | jsessionid | phpsessid
    )
    | .*(?:api|access|auth|secret|private|bearer|refresh|license|ai|anthropic|gemini|groq)[-_]?(?:key|token|secret)s?
      (?:[-_.]?(?:v?[0-9]{1,3}|id|value))?
    | (?:.*[-_.])?oauth[0-9]?
    | .*(?:password|passwd|passphrase)""",
    re.VERBOSE,
)
_OTHER = re.compile(
    r"""(?:.*[-_.])?
    (?: (?:sort|order|group|partition|row|cache|idempotency|dedup|deduplication|surrogate|websocket|primary|foreign
          |public|routing|shard|object|prompt[-_]cache)[-_]?key
      | (?:(?:next[-_]?)?page|next|prev|previous|pagination|continuation|cursor|skip|start)[-_]?(?:key|token)
    )""",
    re.VERBOSE,
)
_ONE_TIME = re.compile(
    r"""(?:.*[-_.])?(?:t|h)?otp(?:[-_]?code)?
      | (?:.*[-_.])?(?:one[-_]?time|verification|recovery|backup|mfa|2fa|sms)[-_]?(?:code|password|pin)""",
    re.VERBOSE,
)
"""One-time passwords: GitHub's `X-GitHub-OTP`, RFC 4226, RFC 6238."""
_SIGN_IN = re.compile(
    r"""(?:.*[-_.])?code[-_]verifier | (?:authorization|auth|device|user|login|exchange)[-_]?code
      | .*(?:id|refresh|access|logout|login)[-_]?token[-_]hint | (?:.*[-_.])?samlart | saml(?:response|request)
      | (?:.*[-_.])?(?:session|session[-_]?id|sid|ticket)
      | code | pin | tan | (?:.*[-_.])?(?:sas|hmac)(?:[-_]?token)?
      | .*(?:key|token|secret)(?:[-_]?[0-9]{1,3})?
      | .*(?:key|secret|token|cert)[-_]?(?:pem|der|jwks?|p8|p12|pfx|pkcs[0-9]{1,2}|hex|b64|base64|raw|value|data)""",
    re.VERBOSE,
)
"""What signs somebody in, by OAuth (RFC 6749, 7636, 8628), OpenID Connect, SAML, CAS, Azure; and any key."""
_NO_NUMBER = re.compile(r"(?:x-)?(?:keys|tokens|secrets) | (?:.*[-_.])?(?:key|token|secret)[-_]?id", re.VERBOSE)
"""The same, unless it is a number, which counts them or is the id of a coin."""
_LONGEST_SIGN_IN = 40
"""Bytes of such a name that are looked at: its last ones."""
_WORDS = frozenset(("monkey", "turkey", "hotkey", "donkey", "hockey", "whiskey"))
_SIGNATURE = re.compile(r"(?:.*[-_.])?(?:sig|signature)")
_SAYS_SO = re.compile(
    rb"key|token|secret|pass|pwd|cred|auth|cookie|sess|jwt|assertion|dpop|vk|bearer|payment|sig|otp|code|pin|tan|hint|saml"
    rb"|sid|ticket|sas|hmac|cert"
)
"""A word of which one, at least, is in every name that the patterns above take, in small letters: most names have none,
and the patterns take some eighty times as long."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_ODD = re.compile(r"[^0-9a-z!#$%&'*+^`|~]+")


def is_credential_name(name: bytes) -> bool:
    """Whether a header or parameter of this name, in any case, says who the client is. `sessionToken` does."""
    return _kind(name[-_LONGEST_NAME:]) is _IS_CREDENTIAL


def is_signature_name(name: bytes) -> bool:
    """Whether what has this name is a signature, as in a signed URL."""
    return _kind(name[-_LONGEST_NAME:]) is _IS_SIGNATURE


def is_secret_name(name: bytes) -> bool:
    """Whether what has this name must not be written down: credentials, signatures, payments, cookies that are set."""
    return _kind(name[-_LONGEST_NAME:]) is not _IS_OTHER


_IS_OTHER, _IS_CREDENTIAL, _IS_SIGNATURE, _IS_SECRET, _IS_NUMBER_OR_SECRET = range(5)


@functools.lru_cache(maxsize=1024)
def _kind(name: bytes) -> int:
    if not _SAYS_SO.search(name.lower()):
        return _IS_OTHER
    spelt = _spelt(name)
    if any(map(_CREDENTIAL.fullmatch, spelt)) and not any(map(_OTHER.fullmatch, spelt)):
        return _IS_CREDENTIAL
    if spelt[0].encode("latin-1") in (*PAYMENT_HEADERS, b"set-cookie", b"set-cookie2"):
        return _IS_SECRET
    if any(map(_ONE_TIME.fullmatch, spelt)):
        return _IS_SECRET
    return _IS_SIGNATURE if any(map(_SIGNATURE.fullmatch, spelt)) else _IS_OTHER


@functools.lru_cache(maxsize=1024)
def _signs_in(name: bytes) -> int:
    """`_IS_SECRET`, `_IS_NUMBER_OR_SECRET` or `_IS_OTHER`."""
    if not _SAYS_SO.search(name.lower()):
        return _IS_OTHER
    spelt = _spelt(name)
    if any(map(_OTHER.fullmatch, spelt)) or _WORDS.intersection(spelt):
        return _IS_OTHER
    if any(map(_SIGN_IN.fullmatch, spelt)):
        return _IS_SECRET
    return _IS_NUMBER_OR_SECRET if any(map(_NO_NUMBER.fullmatch, spelt)) else _IS_OTHER


def _spelt(name: bytes) -> tuple[str, str]:
    """`name` in lower case, as it is and with its humps marked. Brackets (`x[key]`, `token[]`) part words, too."""
    text = name.decode("latin-1")
    return _parted(text), _parted(_HUMP.sub("_", text))


def _parted(text: str) -> str:
    """Any run of what is no letter is one separator, and none stands at an end: `X-Api-Key ` is `x-api-key`."""
    return _ODD.sub("-", text.lower()).strip("-")


# Values.

_SHORTEST_KEY = 12
"""Bytes of the shortest key that can be told from a word."""

_SCHEME = re.compile(
    rb"""(?:\A|[,;=])\W{0,4}(?i: bearer\s+\S
      | (?:token|api-?key)\s+ (?=[^\s0-9]{0,200}[0-9])\S{12,1000} \s{0,4} $
      | (?:digest|hawk|aws4-hmac-sha256)\s+ \w+=
      | (?:negotiate|ntlm)\s+ [a-z0-9+/]{16}
      | basic\s+ (?P<basic>[a-z0-9+/_-]{4,1000}) \W{0,4} $
    )""",
    re.VERBOSE,
)
"""What `Authorization` begins with (RFC 9110, section 11.6.2), quoted or not."""

_WORD = re.compile(rb"[A-Za-z0-9_-]{8,}|(?:SG|AQ|ya29|hv[bsr])(?=\.)")

_VENDORS = re.compile(
    rb"""(?:
      [cg]?sk-(?:[A-Za-z0-9]{1,20}[_-]){0,4}(?=[A-Za-z]*[0-9])[A-Za-z0-9]{16,}  # OpenAI, DeepSeek, Cerebras and others
    | sk-(?=[a-z0-9_-]*[A-Z])(?=[A-Z0-9_-]*[a-z])(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}
    | sk-(?:ant|proj|or|lf|svcacct|admin|helicone)-[A-Za-z0-9_-]{6,}
    | (?:sk|rk)_(?:live|test)_[A-Za-z0-9]{10,} | (?:sk|gsk)_[A-Za-z0-9]{32,}      # Stripe, ElevenLabs, Groq
    | AIza[A-Za-z0-9_-]{30,} | AQ\.[A-Za-z0-9_-]{30,} | ya29\.[A-Za-z0-9_-]{20,} | GOCSPX-[A-Za-z0-9_-]{20,}  # Google
    | (?:hf|r8|fw|fpk)_[A-Za-z0-9]{20,} | xai-[A-Za-z0-9]{40,} | pplx-[A-Za-z0-9]{32,} | nvapi-[A-Za-z0-9_-]{32,}
    | tgp_v1_[A-Za-z0-9_-]{20,} | tvly-[A-Za-z0-9-]{20,} | jina_[A-Za-z0-9_-]{32,} | fc-[0-9a-f]{32}
    | lsv2_(?:pt|sk)_[0-9a-f_]{32,} | pcsk_[A-Za-z0-9_]{32,} | bedrock-api-key-[A-Za-z0-9_-]{20,} | ABSK[A-Za-z0-9]{40,}
    | gh[opsur]_[A-Za-z0-9]{30,} | github_pat_[A-Za-z0-9_]{22,} | glpat-[A-Za-z0-9_-]{20,} | npm_[A-Za-z0-9]{36}
    | xox[abeoprs]-[A-Za-z0-9-]{10,} | xapp-[0-9]-[A-Za-z0-9-]{20,} | SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}
    | hv[bsr]\.[A-Za-z0-9_-]{20,} | do[opr]_v1_[0-9a-f]{32,} | dapi[0-9a-f]{32} | lin_api_[A-Za-z0-9]{32,}
    | (?:secret|ntn)_[A-Za-z0-9]{40,} | sb[pv]_[0-9a-f]{32,} | sb_secret_[A-Za-z0-9_-]{20,} | vc[kp]_[A-Za-z0-9]{32,}
    | [0-9]{8,10}:AA[A-Za-z0-9_-]{30,}                                            # Telegram
    | (?:openai-insecure-api-key|base64url\.bearer\.authorization\.k8s\.io)\.[^\s,;]  # as a WebSocket's subprotocol
    )""",
    re.VERBOSE,
)


_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}\.")
"""A JSON Web Token (RFC 7519)."""


def is_credential_value(value: bytes) -> bool:
    """Whether a header's or parameter's value, with percent signs decoded, looks like a credential and nothing else."""
    if b" " in value:  # every scheme is followed by one
        scheme = _SCHEME.search(value)
        if scheme is not None and (scheme["basic"] is None or _is_user_and_password(scheme["basic"])):
            return True
    if len(value) >= _SHORTEST_KEY:
        for word in _WORD.finditer(value):
            if _VENDORS.match(value, word.start()):
                return True
            # Only before a full stop: else it is tried at each length of a long word, which base64 of JSON is.
            if value[word.end() : word.end() + 1] == b"." and _JWT.match(value, word.start()):
                return True
    return False


def _is_user_and_password(text: bytes) -> bool:
    """Whether it is what `Basic` is followed by (RFC 7617), and no word (`Basic plan`)."""
    try:
        return b":" in base64.b64decode(text + b"==", validate=False)
    except binascii.Error:
        return False


def is_credential(name: bytes, value: bytes) -> bool:
    """Whether a header is a credential, by its name or because its value looks like nothing else."""
    if is_credential_name(name) or is_credential_value(value) or (len(name) > 20 and is_credential_value(name)):
        return True
    query = value.partition(b"?")[2] if name.lower() == b"referer" else b""
    if not query:
        return False
    # More parameters than anybody sends: whatever they are, the page is nobody's business.
    pieces = _SEPARATOR.split(query, _MOST_PARAMETERS + 1)
    return len(pieces) > _MOST_PARAMETERS + 1 or any(map(is_credential_parameter, pieces))


def is_payment(name: bytes, value: bytes) -> bool:
    """Whether a header is a payment by the client itself."""
    key = name.lower()
    if key == b"authorization":
        return value.partition(b" ")[0].lower() in _PAYMENT_SCHEMES
    return key in PAYMENT_HEADERS


# Queries.

_MOST_PARAMETERS = 100
_SEPARATOR = re.compile(rb"[&;]")


def without_parameters(query: bytes, is_gone: Callable[[bytes], bool]) -> bytes:
    """`query` without the parameters for which `is_gone` is true; all else stands as it was.

    Parameters stand between ampersands; between semicolons, too, which some servers take for the same.
    """
    kept = []
    for part in query.split(b"&"):
        pieces = part.split(b";") if b";" in part else [part]
        rest = [piece for piece in pieces if not is_gone(piece)]
        if rest:
            kept.append(part if len(rest) == len(pieces) else b";".join(rest))
    return b"&".join(kept)


def is_credential_parameter(piece: bytes) -> bool:
    """Whether `name=value` of a query is a credential, by its name or by its value. `token=SOL` names a coin."""
    name, equals, value = piece.partition(b"=")
    if not value:
        return not equals and is_credential_value(unquote_to_bytes(name))
    name = unquote_to_bytes(name)
    if len(name) >= _SHORTEST_KEY and is_credential_value(name):
        return True
    if is_credential_name(name):
        return name.lower() != b"token" or not _is_coin(value)
    if is_signature_name(name):
        return True
    return len(value) >= len(b"Bearer x") and is_credential_value(unquote_to_bytes(value.replace(b"+", b" ")))


_SHORTEST_CODE = 4
"""Bytes of the shortest value that signs anybody in: shorter ones are countries, currencies, statuses."""


def is_secret_parameter(piece: bytes) -> bool:
    """Whether `name=value` of a query must not be written down: more than what `is_credential_parameter` finds.

    It also takes what signs somebody in once, or for a while: `code=` of OAuth, `otp=`, `session=`, and any key.
    """
    name, _, value = piece.partition(b"=")
    known = unquote_to_bytes(name.replace(b"+", b" ")).strip()  # a plus is a blank
    return (bool(value) and is_secret_field(known, value)) or is_credential_parameter(piece)


def is_secret_field(name: bytes, value: bytes) -> bool:
    """Whether the header or parameter of this name must not be written down: one rule for both.

    Upstreams need some of these, such as a `session_id`: what is taken off requests is decided by `is_credential`.
    """
    if is_secret_name(name):
        return True
    if len(value) < _SHORTEST_CODE:
        return False
    kind = _signs_in(name[-_LONGEST_SIGN_IN:])
    return kind == _IS_SECRET or (kind == _IS_NUMBER_OR_SECRET and not value.isdigit())


_COIN = re.compile(f"[A-Za-z]{{1,12}}|[A-Z0-9]{{1,10}}|[a-z]{{1,20}}(?:-[a-z]{{1,20}}){{1,3}}|{EVM_ADDRESS}".encode())
"""A coin's name or symbol, or its address on EVM."""
_SOLANA = re.compile(SVM_ADDRESS.encode())
_BASE58 = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def _is_coin(value: bytes) -> bool:
    if _COIN.fullmatch(value):
        return True
    if not _SOLANA.fullmatch(value):
        return False
    number = 0
    for digit in value:
        number = number * 58 + _BASE58.index(digit)
    return len(value) - len(value.lstrip(b"1")) + (number.bit_length() + 7) // 8 == 32
