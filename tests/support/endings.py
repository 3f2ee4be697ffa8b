"""Answers with status 200 and others, by whether a client has got with them what it paid for."""

from __future__ import annotations

import gzip
import json
import zlib

import brotli

from .attacker import http, sse
from .recording.zstd import compress as zstd
from .vendors.dialect_ends import CUT, ENDED
from .vendors.dialect_ends import FAILED as FAILED_TOO

DELTA = {"type": "response.output_text.delta", "delta": "a" * 40}
CHUNK = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
BROKEN_CHUNK = "data: " + json.dumps({"choices": [], "x": "y" * 200, "error": {"message": "no"}}) + "\n\n"
STOP = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}
GEMINI = {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}
IMAGE = {"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": "A" * 40_000}}]}}
LARGE = {"type": "response.completed", "response": {"status": "completed", "instructions": "i" * 300_000}}
LARGE_EVENT = f"event: response.completed\ndata: {json.dumps(LARGE)}\n\n"
CREATED = {"type": "response.created", "response": {"status": "in_progress"}}
FAILED = {"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error"}}}

LINE = b'{"response": "a", "done": false}\n'
DONE = b"data: %b\n\ndata: [DONE]\n\n" % json.dumps(CHUNK).encode()
PADDING = "p" * 300_000
GOOGLE_ERROR = {"error": {"code": 503, "message": "no", "status": "UNAVAILABLE"}}


def completed(response: object, padding: str = "") -> bytes:
    """A stream whose last event calls itself the end of a response."""
    said = {"type": "response.completed", "response": response}
    return sse(CREATED, DELTA, {"padding": padding, **said}) if padding else sse(CREATED, DELTA, said)


def whole(said: object) -> bytes:
    return http(200, json.dumps(said).encode())


INCOMPLETE: dict[str, bytes] = {
    "response.failed": sse(CREATED, DELTA, FAILED),
    "response.failed without its event's name": sse(f"data: {json.dumps(CREATED)}\n\ndata: {json.dumps(FAILED)}\n\n"),
    "responses: an error": sse(CREATED, {"type": "error", "code": "server_error", "message": "no"}),
    "responses: no end": sse(CREATED, DELTA),
    "responses: no end, long": sse(CREATED, *[DELTA] * 3000),
    "responses: an end that is cut off": sse(CREATED, DELTA, 'event: response.completed\ndata: {"type": "resp'),
    "messages: an error": sse(TEXT, {"type": "error", "error": {"type": "overloaded_error"}}),
    "messages: an error in the middle": sse(
        TEXT, {"type": "error", "error": {"type": "overloaded_error"}}, *[TEXT] * 500, {"type": "message_stop"}
    ),
    "an error in the middle, in small pieces": sse(
        *[
            f'data: {{"choices": [], "x": "{"y" * 200}", "error": {{"message": "no"}}}}\n\n'[at : at + 7]
            for at in range(0, 266, 7)
        ],
        *[CHUNK] * 500,
        "data: [DONE]\n\n",
    ),
    "messages: no end": sse({"type": "message_start", "message": {}}, TEXT),
    "chat: no end": sse(CHUNK, CHUNK),
    "chat: an error, then [DONE]": sse(CHUNK, {"error": {"message": "no", "code": 502}}, "data: [DONE]\n\n"),
    "chat: finish_reason error": sse(CHUNK, {"choices": [{"delta": {}, "finish_reason": "error"}]}),
    "gemini: no end": sse(GEMINI, GEMINI),
    "gemini: an error": sse(GEMINI, {"error": {"code": 503, "status": "UNAVAILABLE"}}),
    "nothing but heartbeats": sse(": ping\n\n", ": ping\n\n"),
    "an empty stream": sse(),
    "an empty 200": http(200),
    "an empty 204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "an error in a whole 200": http(200, b'{"error": {"message": "upstream is down", "code": 502}}'),
    "half of a compressed text": http(
        200, gzip.compress(b"some text " * 500)[:50], "Content-Encoding: gzip", content_type="text/plain"
    ),
    "half of a compressed file": http(
        200, brotli.compress(bytes(range(256)) * 50)[:-9], "Content-Encoding: br", content_type="audio/mpeg"
    ),
    "a problem": http(200, b'{"title": "Out of credit"}', content_type="application/problem+json"),
    "a status in the body": whole({"statusCode": 503, "message": "busy"}),
    "a challenge in a 200": whole({"x402Version": 2, "accepts": [{"scheme": "exact"}]}),
    "a chat without choices": whole({"object": "chat.completion", "choices": []}),
    "a cancelled response": whole({"object": "response", "status": "cancelled", "output": []}),
    "a failed response in a whole 200": http(200, b'{"object": "response", "status": "failed", "output": []}'),
    "a completed response that failed": completed({"status": "failed", "error": None}),
    "a completed response with an error": completed({"status": "completed", "error": {"code": "server_error"}}),
    "a large completed response that failed": completed({"instructions": PADDING, "status": "failed"}),
    "a completed response that failed behind padding": completed({"x": [PADDING, 1], "status": "failed"}, PADDING),
    "a list that ends in an error": whole([GEMINI, GOOGLE_ERROR]),
    "a long list that ends in an error": whole([*[GEMINI] * 3000, GOOGLE_ERROR]),
    "a long list with an error at its start": whole([GOOGLE_ERROR, *[GEMINI] * 3000]),
    "a long error": whole({"error": {"message": PADDING}}),
    "an error before padding": whole({"error": {"message": "no"}, "text": PADDING}),
    "an error behind padding": whole({"text": PADDING, "more": [PADDING], "error": "no"}),
    "an error between paddings": whole({"text": PADDING, "error": "no", "more": {"a": [{"b": PADDING}]}}),
    "an error behind prices": whole({f"thing {number}": number for number in range(20_000)} | {"error": "no"}),
    "an error before prices": whole({"error": "no"} | {f"thing {number}": {"a": number} for number in range(20_000)}),
    "an escaped error": http(200, b'{"\\u0065rror": {"message": "no"}}'),
    "errors": whole({"errors": [{"message": "no"}]}),
    "long errors": whole({"errors": [{"message": PADDING}]}),
    "an error beside an answer": whole({"error": {"message": "no"}, "choices": [{"message": {"content": "a"}}]}),
    "a choice that failed": whole({"choices": [{"finish_reason": "error"}]}),
    "success is false": whole({"success": False, "result": None}),
    "errors in a stream": sse(CHUNK, {"errors": [{"message": "no"}]}, "data: [DONE]\n\n"),
    "lines of JSON that end in an error": http(200, b'{"response": "a"}\n{"error": "no"}\n'),
    "lines of JSON that others follow": http(200, LINE * 9, content_type="application/x-ndjson"),
    "lines of JSON that end in the middle": http(200, LINE * 9 + b'{"done', content_type="application/x-ndjson"),
    "lines of JSON with an error": http(200, LINE + b'{"error": "no"}', content_type="application/x-ndjson"),
    "many lines of JSON that others follow": http(200, LINE * 5000, content_type="application/x-ndjson"),
    "JSON that is broken": http(200, b'{"choices": [}'),
    "long JSON that is broken": http(200, json.dumps({"text": PADDING}).encode()[:-1] + b"]}"),
    "long JSON that is cut off": http(200, json.dumps({"text": [{}, PADDING, {}]}).encode()[:-2]),
    "a part": http(206, b'{"choices": []}', "Content-Range: bytes 0-14/99"),
    "a 402 with a page that is too long to be held back": http(
        402, b"<p>" + b"p" * (2 << 20), content_type="text/html"
    ),
    "nothing but [DONE]": sse("data: [DONE]\n\n"),
    "heartbeats and [DONE]": sse(": ping\n\n", ": ping\n\n", "data: [DONE]\n\n"),
    "nothing but message_stop": sse({"type": "message_stop"}),
    "gzip": sse(coding="gzip", body=gzip.compress(b"data: %b\n\n" % json.dumps(CHUNK).encode())),
    "deflate": sse(coding="deflate", body=zlib.compress(b"data: %b\n\n" % json.dumps(CHUNK).encode())),
    "br": sse(coding="br", body=brotli.compress(b"data: %b\n\n" % json.dumps(CHUNK).encode())),
    "zstd": sse(coding="zstd", body=zstd(b"data: %b\n\n" % json.dumps(CHUNK).encode())),
    "a bomb": sse(coding="gzip", body=gzip.compress(bytes(40 << 20))),
    **{
        f"{status}": http(status, b'{"error": {"message": "no"}}')
        for status in (300, 303, 400, 401, 403, 404, 405, 413, 415, 418, 422, 424, 426, 451, 499)
    },
    "304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "gemini: an image and no reason": sse({"candidates": [IMAGE]}, GEMINI),
    "gemini: a reason in the text of a long event": sse(
        {"candidates": [{"content": {"parts": [{"text": "y" * 9_000 + 'x "finishReason": "STOP"' + "y" * 60_000}]}}]},
        GEMINI,
    ),
    "chat: an image and the reason error": sse(
        CHUNK, {"choices": [{"index": 0, "delta": {"images": ["A" * 60_000]}, "finish_reason": "error"}]}
    ),
    **{f"{name}, cut short": raw for name, raw in CUT.items()},
    **{f"{name}, failed": raw for name, raw in FAILED_TOO.items()},
}
COMPLETE: dict[str, bytes] = {
    "response.completed": sse(CREATED, DELTA, {"type": "response.completed", "response": {"status": "completed"}}),
    "response.incomplete": sse(CREATED, {"type": "response.incomplete", "response": {"status": "incomplete"}}),
    "a large response.completed": sse(CREATED, *[DELTA] * 500, LARGE),
    "a large response.completed without its event's name": sse(CREATED, f"data: {json.dumps(LARGE)}\n\n"),
    "a large end in small pieces": sse(*[LARGE_EVENT[at : at + 1000] for at in range(0, len(LARGE_EVENT), 1000)]),
    "message_stop": sse(TEXT, {"type": "message_delta", "delta": {}}, {"type": "message_stop"}),
    "a compressed file": http(
        200, brotli.compress(bytes(range(256)) * 50), "Content-Encoding: br", content_type="audio/mpeg"
    ),
    "an order that is cancelled": http(200, b'{"order": 1, "status": "cancelled"}'),
    "[DONE]": sse(CHUNK, "data: [DONE]\n\n"),
    "finish_reason without [DONE]": sse(CHUNK, STOP, {"choices": [], "usage": {"total_tokens": 3}}),
    "words about errors": sse(
        {**CHUNK, "choices": [{"delta": {"content": 'event: error\n\ndata: {"error": {"message": "no"}}\n\n'}}]},
        *[{**CHUNK, "error": None}] * 200,
        {"type": "note", "text": "response.failed", "errors": {}},
        "data: [DONE]\n\n",
    ),
    "CRLF": sse(CHUNK, "data: [DONE]\r\n\r\n"),
    "finishReason": sse(GEMINI, {"candidates": [{"finishReason": "STOP"}]}),
    "a blocked prompt": sse({"promptFeedback": {"blockReason": "SAFETY"}}),
    "a stream of an unknown kind": sse('data: {"progress": 1}\n\n'),
    "a long answer": whole(
        {"error": None, "text": "[{" + PADDING + '\\"', "data": [{"error": 1}], "status": "completed"}
    ),
    "a long list": whole([GEMINI] * 3000),
    "many numbers": whole({"data": [{"embedding": [0.1] * 50_000}], "other": [1.5] * 50_000}),
    "prices of many things": whole({f"thing {number}": {"price": number, "error": None} for number in range(20_000)}),
    "many prices": whole({"prices": {f"thing {number}": number for number in range(20_000)}, "error": None}),
    "many flat prices": whole({f"thing {number}": number for number in range(20_000)}),
    "a list of numbers": whole([0.25] * 100_000),
    "lines of JSON": http(200, b'{"response": "a"}\n{"done": true}\n'),
    "Ollama's lines": http(200, LINE + b'{"done": true}\n', content_type="application/x-ndjson"),
    "many of Ollama's lines": http(200, LINE * 5000 + b'{"done": true}', content_type="application/x-ndjson"),
    "many lines of JSON": http(200, b'{"response": "a", "error": null}\n' * 5000),
    "a completed response about failures": completed(
        {"status": "completed", "error": None, "output": [{"status": "failed"}], "text": '"status": "failed"'}
    ),
    "a large completed response about failures": completed(
        {"status": "completed", "error": None, "output": [{"status": "failed"}], "text": '"status": "failed"' + PADDING}
    ),
    "JSON behind a byte order mark": http(200, b'\xef\xbb\xbf{"choices": []}'),
    "JSON of another kind": http(200, b'{"choices": []}', content_type="application/vnd.api+json"),
    "text in brackets": http(200, b"[a] is not {b}", content_type="text/plain"),
    "a whole answer": http(200, b'{"choices": [], "error": null}'),
    "bytes": http(200, b"\0\1\2", content_type="audio/mpeg"),
    "gzip": sse(coding="gzip", body=gzip.compress(DONE)),
    "br": sse(coding="br", body=brotli.compress(DONE)),
    "zstd": sse(coding="zstd", body=zstd(DONE)),
    "gemini: the reason behind an image": sse(GEMINI, {"candidates": [{**IMAGE, "finishReason": "STOP"}]}),
    "gemini: the reason before what was searched": sse(
        GEMINI, {"candidates": [{"finishReason": "STOP", "groundingMetadata": {"renderedContent": "r" * 30_000}}]}
    ),
    "gemini: the reason amid much": sse(
        GEMINI, {"candidates": [{**IMAGE, "finishReason": "STOP", "groundingMetadata": {"x": "r" * 30_000}}]}
    ),
    "chat: the reason behind an image, without [DONE]": sse(
        CHUNK, {"choices": [{"index": 0, "delta": {"images": ["A" * 60_000]}, "finish_reason": "stop"}]}
    ),
    **ENDED,
}
