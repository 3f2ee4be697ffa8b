"""Reads all models and paths that a request may be for, as limits for models and paths need them.

Gateways read requests in different ways: the first or the last of two equal keys, with or without a byte order mark, by
the content type or by the body. So every possible reading counts. If none is certain, the reason is noted, and every
limit that might apply does.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from email.message import Message
from email.parser import BytesHeaderParser
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

from ..errors import Undecodable
from ..protocol.codings import decode, needs_decoding
from ..protocol.strict_json import MAX_DEPTH
from .limits import Asked

MAX_BODY = 64 << 20
"""Most decoded bytes of a body that are read; a larger body is unclear."""
LARGE = 64 << 10
"""Bytes from which on a body is read in a thread."""
MAX_PARTS = 1000
MAX_PART_HEAD = 16 << 10
MAX_MARKS = 300_000
"""Most quotes, brackets and commas of a JSON object, whose parsing blocks Python for some tens of milliseconds."""
MAX_FIELDS = 10_000
"""Most fields of a query, or of a form in the same syntax."""
MAX_NAME = 1000
MAX_CODINGS = 3
_NAME = "model"
_IN_PATH = re.compile(r"/(?:(?:tuned)?models?|deployments|engines)/(?=([^/:?]+))(?=([^:?]+))")
"""A model in the path, as Google, Bedrock and Azure write it: one segment, and everything up to a colon."""
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s;,\"']+)")
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1", "latin-1", "windows-1252")
"""Charsets in which a model's name has the same bytes."""
_INVISIBLE = re.compile("[\\x00-\\x20\\x7f\\ufeff]")
_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN_PATH = re.compile(r"(?:/[a-z0-9_~:@!$&'()*+,=-]+(?:\.[a-z0-9_~:@!$&'()*+,=-]+)*)+")
"""Matches paths that are their own normal form."""
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Matches lone surrogates that stand for no byte (PEP 383)."""
_AMBIGUOUS = re.compile(r"[^!-~]|[?#]")
"""Matches characters of a decoded path that a server may drop, decode differently, or take for the path's end."""
_LISTED = re.compile(r"model\s*\[")
"""Matches names of form fields that some servers read as a list or an object called `model`."""
_BRACKETED = re.compile(r"\[([^\[\]]+)\]")
"""Matches the keys of an object that a form's field belongs to, as in `models[NAME]`."""
_DECODER = json.JSONDecoder()


class _Unclear(ValueError):
    """The models or the path cannot be read with certainty. The text says why, as half a sentence."""


class WholeRequest:
    """One request of a client. `target` is path and query; each header may occur several times."""

    def __init__(self, target: str, body: bytes, content_types: Sequence[str], codings: Sequence[str]) -> None:
        self._target, self._body = target, body
        self._content_types, self._codings = content_types, codings

    @property
    def is_large(self) -> bool:
        """Whether `read` takes too long for the event loop."""
        return len(self._body) > LARGE or any(map(needs_decoding, self._codings))

    def read(self) -> Asked:
        """The models and the path it may be for. The first call takes about 10 ms a megabyte. Never raises."""
        return self._asked

    @functools.cached_property
    def _asked(self) -> Asked:
        path, _, query = self._target.partition("?")
        normal, path_doubt = normal_path(path)
        in_path = itertools.chain.from_iterable(_IN_PATH.findall(normal))
        models = list(in_path)
        doubt = path_doubt  # it may name a model, too
        try:
            models += _in_form(query.replace("?", "&"))
            models += _in_form(path.partition(";")[2].replace("/", "&"))
            models += _models(_decoded(self._body, self._codings), self._content_types)
        except _Unclear as why:
            doubt = doubt or str(why)
        models += [found[1] for model in models if (found := _GOOGLES.fullmatch(model))]
        if not all(_PLAIN_NAME.fullmatch(model) for model in models):
            doubt = doubt or "its model has characters that servers read differently"
        kept = [model for model in dict.fromkeys(models) if len(model) <= MAX_NAME]
        if len(kept) < len(set(models)):
            doubt = doubt or "its model's name is too long"
        return Asked(tuple(kept), normal, doubt, path_doubt)


_GOOGLES = re.compile(r"(?:tunedM|m)odels/(.+)")
_PLAIN_NAME = re.compile(r"""(?![./])[^,;&=|"'%\\\x00-\x1f\x7f-\U0010ffff]*""")
_PLAIN_DISPOSITION = re.compile(
    r'(?i:form-data)(?:\s*;\s*(?i:filename)="[^"]*")*\s*;\s*(?i:name)="[^"\\;]*"'
    r'(?:\s*;\s*(?i:filename)(?:="[^"]*"|\*=[^;"]*))*'
)
"""Matches a Content-Disposition with one name, quoted and without escapes, before or after the file name."""


def normal_path(path: str) -> tuple[str, str]:
    """The normal form of `path`, in lower case, and a reason if servers may read it differently, else empty text."""
    if _PLAIN_PATH.fullmatch(path):
        return path, ""
    text, doubt = path, ""
    for _ in range(5):  # proxies in front of the gateway may decode it, too
        # Bytes that are not UTF-8 appear as lone surrogates (PEP 383); none may become a "?", which ends a path.
        written = _LONE.sub("\ufffd", text).encode("utf-8", "surrogateescape")
        decoded = unquote_to_bytes(written).decode("utf-8", "replace")
        if decoded == text:
            break
        text = decoded
    else:
        doubt = "its path is encoded too often"
    if _AMBIGUOUS.search(text):
        doubt = doubt or "its path has characters that servers read differently"
    text = re.split(r"[?#]", text.replace("\\", "/"), maxsplit=1)[0].lower()
    text = "".join(character for character in text if character > " " and character != "\x7f")
    parts: list[str] = []
    for part in text.split("/"):
        name = part.partition(";")[0]
        if name == "..":
            del parts[-1:]
        elif name not in ("", "."):
            parts.append(name)
    normal = "/" + "/".join(parts)
    if not path.startswith("/") or text.startswith("//") or re.search(r"(^|/)[.]{2}(/|;|$)", text):
        doubt = doubt or "its path names a host, or leads upwards, which servers read differently"
    if "%" in normal:
        doubt = doubt or "its path has characters that servers read differently"
    return normal, doubt


def _decoded(body: bytes, codings: Sequence[str]) -> bytes:
    names = [name.strip() for each in codings for name in each.split(",") if needs_decoding(name)]
    if len(names) > MAX_CODINGS:
        raise _Unclear("its body is encoded too often")
    for name in reversed(names):
        try:
            body = decode(body, name, MAX_BODY, whole=True)
        except Undecodable as why:  # noqa: PERF203 - seldom more than one round
            raise _Unclear(f"its body cannot be decoded: {why}") from None
    if len(body) > MAX_BODY:
        raise _Unclear(f"its body is larger than {MAX_BODY >> 20} MB")
    return body


def _models(body: bytes, content_types: Sequence[str]) -> list[str]:
    """Every model that some server would find in `body`. Raises _Unclear."""
    if not body.strip():
        return []
    said = ", ".join(content_types).lower()
    if any(charset not in _CHARSETS for charset in _CHARSET.findall(said)):
        raise _Unclear("its body is in another charset than UTF-8")
    found: list[str] = []
    readings = 0
    if "multipart" in said or body.lstrip().startswith(b"--"):
        readings += 1
        found += _fields(body, content_types)
    elif "urlencoded" in said:
        readings += 1
        found += _in_form(body.decode("utf-8", "replace"))
    text = _text(body)
    if text is not None and text.lstrip()[:1] == "{":
        readings += 1
        found += _in_object(text)
    if not readings:
        raise _Unclear("its body is neither a JSON object nor a form")
    return found


def _in_form(form: str) -> list[str]:
    """The values of all fields `model` of a query, or of a form that is written like one. Raises _Unclear."""
    try:
        fields = parse_qsl(form, keep_blank_values=True, max_num_fields=MAX_FIELDS)
        fields += parse_qsl(form.replace(";", "&"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise _Unclear(f"its form or its query has more than {MAX_FIELDS} fields") from None
    found: list[str] = []
    for key, value in fields:
        if _is_model(key, in_form=True) or _may_name_a_model(key):
            found += (value, *_BRACKETED.findall(key))
        elif value.lstrip()[:1] in _JSON_BEGINS:
            found += _in_json(value)
    return found


def _is_model(name: str, *, in_form: bool = False) -> bool:
    """Whether some server reads `name` as `model`; Go ignores case. Raises _Unclear: it is a form's list of models."""
    text = unquote(name)
    plain = _INVISIBLE.sub("", text).strip().lower()
    if in_form and _LISTED.match(plain):
        raise _Unclear("its model is no text")
    if _INVISIBLE.sub("", text.partition("\0")[0]).strip().lower() == _NAME:  # C ends a string at the first NUL
        return True
    return plain == _NAME


def _text(body: bytes) -> str | None:
    try:
        return body.decode(json.detect_encoding(body)).removeprefix("\ufeff")
    except (UnicodeDecodeError, LookupError):
        return None


def _in_object(text: str) -> list[str]:
    """The values of all top-level keys `model` of a JSON object. Raises _Unclear."""
    _bound(text)
    found: list[str] = []
    refers = False
    try:
        at = _skip(text, _skip(text, 0) + 1)
        while text[at] != "}":
            if text[at] != '"':
                raise ValueError
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, at)
            if text[at] != ":":
                raise ValueError
            at = _skip(text, at + 1)
            decoder = _DECODER if _plain(key) in _TEXTS and text[at] != "{" else _PAIRS
            value, at = decoder.raw_decode(text, at)
            if _is_model(key):
                found += _names(value)
            elif _may_name_models(key, value):
                found += _elsewhere(key, value)
            refers = refers or _refers(key, value)
            at = _skip(text, at)
            if text[at] == ",":
                at = _skip(text, at + 1)
            elif text[at] != "}":
                raise ValueError
        if _skip(text, at + 1) != len(text):
            raise ValueError
    except _Unclear:
        raise
    except (ValueError, IndexError):
        raise _Unclear("its body is no JSON object that all servers read alike") from None
    if refers and not found:
        raise _Unclear("it names no model, but something stored that may name one")
    return found


_MARK, _QUOTE = re.compile(r'["{}\[\],]'), re.compile('"')
"""The characters to stop at outside of strings, and inside one."""
MAX_ESCAPES = 1000
"""Most backslashes in a row that are counted."""


def _bound(text: str) -> None:
    """Raise _Unclear if the JSON in `text` is nested too deeply or has too many values to be parsed."""
    at = depth = 0
    marks = _MARK
    for _ in range(MAX_MARKS):
        mark = marks.search(text, at)
        if mark is None:
            return
        at, kind = mark.end(), mark[0]
        if kind == '"':
            marks = _QUOTE if marks is _MARK or _is_escaped(text, at - 1) else _MARK
        elif kind != ",":
            depth += 1 if kind in "{[" else -1
            if depth > MAX_DEPTH:
                raise _Unclear("its body is nested too deeply")
    raise _Unclear(f"its body has more than {MAX_MARKS} quotes, brackets and commas")


def _is_escaped(text: str, quote: int) -> bool:
    """Whether an odd number of backslashes stands before the quote, which then does not end a string."""
    before = text[max(0, quote - MAX_ESCAPES) : quote]
    backslashes = len(before) - len(before.rstrip("\\"))
    if backslashes == MAX_ESCAPES:
        raise _Unclear("its body has a text of backslashes")
    return backslashes % 2 == 1


_NO_WORD = re.compile(r"[^a-z0-9]")
_NAMES_A_MODEL = re.compile("model|engine|deployment|fallback")
_TEXTS = {"messages", "message", "contents", "content", "suffix", "system", "systeminstruction", "documents"}
"""Keys, as `_plain` has them, of what a model reads. Texts and lists there name none; an object may be a request."""
_PROMPTS = {"prompt", "prompts"}
"""Likewise, but a list of objects may be a batch."""
_NO_JSON = _TEXTS | _PROMPTS | {"text"}
"""Keys of texts that are for a model even where they look like JSON."""
_SCHEMAS = {
    *("properties", "patternproperties", "definitions", "defs", "schema", "jsonschema", "parameters"),
    *("inputschema", "outputschema", "responseschema", "responsejsonschema", "parametersjsonschema"),
    *("parameterdefinitions", "inputexamples", "examples"),
}
"""Keys of schemas of tools and answers, and of examples for them, in which `model` is anything."""
_REFERENCES = {"assistantid", "preset", "promptid"}
"""Keys of what is stored at the vendor, and may have a model of its own."""
_OF_MODELS = {"id", "name", "weight", "weights", "params", "provider", "type", "priority", "order", "slug", "version"}
"""Keys of objects that describe a model; other keys there may be the model's name itself."""
_JSON_BEGINS = ("{", "[")
MAX_WITHIN = 3
"""Most times that JSON may stand in a string of JSON."""


class _Pairs(tuple[tuple[str, Any], ...]):
    """An object of JSON, with equal keys."""

    __slots__ = ()


_PAIRS = json.JSONDecoder(object_pairs_hook=_Pairs)


def _plain(key: str) -> str:
    """`key` without case, separators and decoration: `modelid` for `Model_ID`, `$.modelId` or `model[id]`."""
    return _NO_WORD.sub("", (key if key.isascii() else unicodedata.normalize("NFKC", key)).lower())


def _may_name_a_model(key: str) -> bool:
    """Whether the value of `key` may be a model, as that of `models`, `modelId`, `engine` or `fallbacks`."""
    return _NAMES_A_MODEL.search(_plain(key)) is not None


def _may_name_models(key: str, value: Any) -> bool:
    """Whether models may be named somewhere in the `value` of `key`: it is neither what a model reads nor a schema."""
    plain = _plain(key)
    return plain not in _SCHEMAS and (plain not in _TEXTS or isinstance(value, _Pairs))


def _refers(key: str, value: Any) -> bool:
    """Whether a top-level `key` refers to something stored that may name a model, as OpenAI's prompts do."""
    plain = _plain(key)
    if plain in _PROMPTS:
        return isinstance(value, _Pairs) and any(_plain(name) == "id" for name, _ in value)
    return plain in _REFERENCES and bool(value)


def _elsewhere(key: str, value: Any, within: int = 0) -> Iterator[str]:
    """The models that a `key` besides the top-level `model` names, in batches and lists of models at any depth."""
    if isinstance(value, str):
        if _may_name_a_model(key) and value.strip():
            yield value.strip()
        elif value[:1] in _JSON_BEGINS and _plain(key) not in _NO_JSON:
            yield from _in_json(value, within + 1)
    elif isinstance(value, _Pairs):
        prefix = key if _may_name_a_model(key) else ""
        for name, inner in value:
            if prefix and name.strip() and _plain(name) not in _OF_MODELS:
                yield name.strip()
            if _may_name_models(name, inner):
                yield from _elsewhere(prefix or name, inner, within)
    elif isinstance(value, list) and _plain(key) != "input":  # of messages; an object may be a request
        for each in value:
            yield from _elsewhere(key, each, within)


def _in_json(text: str, within: int = 0) -> Iterator[str]:
    """The models in a field's or a string's JSON; other text has none. Raises _Unclear."""
    if text.rstrip()[-1:] not in ("}", "]"):
        return
    if within > MAX_WITHIN:
        raise _Unclear("its body has JSON in texts of JSON too often")
    _bound(text)
    try:
        value = _PAIRS.decode(text)
    except ValueError:
        return
    yield from _elsewhere("", value, within)


def _names(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, str):
        raise _Unclear("its model is no text")
    return [value.strip()]


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _fields(body: bytes, content_types: Sequence[str]) -> Iterator[str]:
    """Yield the models in a form's fields (RFC 7578). Raises _Unclear: part of it is not understood."""
    head = Message()
    for content_type in content_types[:1]:
        head["content-type"] = content_type
    boundary = head.get_boundary("")
    if not boundary or len(content_types) != 1 or content_types[0].lower().count("boundary") != 1:
        raise _Unclear("its form has no boundary")
    pieces = (b"\r\n" + body.lstrip()).split(b"\r\n--" + boundary.encode("utf-8", "replace"), MAX_PARTS + 1)
    if len(pieces) > MAX_PARTS + 1 or len(pieces) < 3 or pieces[0].strip() or not pieces[-1].startswith(b"--"):
        raise _Unclear("its form has another shape than forms have")
    for piece in pieces[1:-1]:
        headers, separator, value = piece.partition(b"\r\n\r\n")
        if not separator or headers[:2] != b"\r\n" or len(headers) > MAX_PART_HEAD:
            raise _Unclear("its form has a part without a head")
        part = BytesHeaderParser().parsebytes(headers[2:])
        dispositions = part.get_all("content-disposition") or []
        if len(dispositions) != 1 or not _PLAIN_DISPOSITION.fullmatch(str(dispositions[0]).strip()):
            raise _Unclear("its form has a part whose name servers read differently")
        name = part.get_param("name", header="content-disposition")
        name = name[2] if isinstance(name, tuple) else name  # encoded, RFC 2231
        if not isinstance(name, str) or "=?" in name:
            raise _Unclear("its form has a part without a plain name")
        if _is_model(name, in_form=True) or _may_name_a_model(name):
            charset = part.get_param("charset", "utf-8")
            if part.get("content-transfer-encoding") or str(charset).lower() not in ("utf-8", "us-ascii"):
                raise _Unclear("its model is encoded")
            yield value[: MAX_NAME + 1].decode("utf-8", "replace").strip()
        elif value.lstrip()[:1] in (b"{", b"["):
            yield from _in_json(value.decode("utf-8", "replace"))
