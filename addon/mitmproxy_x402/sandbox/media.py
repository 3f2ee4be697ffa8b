"""Makes the answers that `work` does not: speech, images edited from a form, JSON-RPC calls that are charged."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from typing import Any

from .records import ReceivedRequest
from .work import Route, Work, error_work, json_work, plain_path

_SPEECH_PIECE = 1000
_RPC = "/v1/rpc/"


def media_route(request: ReceivedRequest) -> Route | None:
    """The route of `request`, or None: another module serves it."""
    path = plain_path(request.path)
    if request.method != "POST":
        return None
    if path == "/v1/audio/speech":
        text = str(request.json.get("input", ""))
        return Route(False, "openai", lambda _: Work(200, [("Content-Type", "audio/mpeg")], pieces=speech(text)))
    if path == "/v1/images/edits":
        fields = read_form(request)
        if not {"image", "prompt"} <= fields.keys():
            refused = error_work("openai", 400, "A form with image and prompt is expected.")
            return Route(True, "openai", lambda _: refused)
        return Route(False, "openai", lambda now: json_work({"created": now, "data": [edited(fields)]}))
    if path.startswith(_RPC):
        return Route(False, "openai", lambda _: _rpc(request.body, path.removeprefix(_RPC)))
    return None


def speech(text: str) -> Iterator[bytes]:
    """Bytes in the place of speech, derived from `text`, piece by piece: no sound, but all 256 byte values."""
    yield b"ID3\x04\x00\x00\x00\x00\x00\x00"
    for number in range(4 + len(text)):
        block = hashlib.sha256(f"{number} {text}".encode()).digest()
        yield (block * (_SPEECH_PIECE // len(block) + 1))[:_SPEECH_PIECE]


def edited(fields: dict[str, bytes]) -> dict[str, str]:
    """The image made from a form: a digest of each field."""
    digests = {name: hashlib.sha256(value).hexdigest() for name, value in fields.items()}
    return {"b64_json": base64.b64encode(json.dumps(digests, sort_keys=True).encode()).decode()}


def read_form(request: ReceivedRequest) -> dict[str, bytes]:
    """The fields of a multipart form; none where the body is something else."""
    kind = request.get("content-type") or ""
    if not kind.startswith("multipart/form-data"):
        return {}
    form = BytesParser().parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + request.body)
    parts = form.get_payload()
    fields: dict[str, bytes] = {}
    for part in parts if isinstance(parts, list) else []:
        if not isinstance(part, Message):
            continue
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str):
            fields[name.removesuffix("[]")] = bytes(part.get_payload(decode=True) or b"")
    return fields


def _rpc(body: bytes, network: str) -> Work:
    """Answers shaped like those of an EVM node."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return json_work({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "Parse error"}})
    answers = [_answer(one, network) for one in (call if isinstance(call, list) else [call])]
    said = json.dumps(answers if isinstance(call, list) else answers[0]).encode()
    return Work(200, [("Content-Type", "application/json")], said)


def _answer(call: Any, network: str) -> dict[str, Any]:
    method = call.get("method") if isinstance(call, dict) else None
    if not isinstance(method, str):
        return {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Invalid request"}}
    return {"jsonrpc": "2.0", "id": call.get("id"), "result": f"{network} {method}"}
