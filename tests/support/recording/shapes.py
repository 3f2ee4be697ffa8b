"""Every shape in which vendors answer, as jobs for the SDKs: what is recorded, and served to them again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OBJECTS = Path(__file__).resolve().parents[2] / "conformance" / "clients" / "objects.py"
ONE, TWO, MIXED = "sandbox-1", "sandbox-parallel", "sandbox-interleaved"
THINKING, EMPTY = "sandbox-thinking", "sandbox-empty"
Answers = dict[str, dict[str, Any]]
"""What an SDK made of each shape, by the shape's name."""


def _shape(kind: str, name: str, model: str = ONE, tools: int = 0, fault: str = "", **more: Any) -> dict[str, Any]:
    call = {"name": f"{kind}-{name}", "kind": kind, "model": model, "tools": tools, "text": _text(f"{kind}-{name}")}
    return {**call, "headers": _headers(fault), "max_tokens": 1000, "stream": True, **more}


def _array(name: str, fault: str = "") -> dict[str, Any]:
    """What no SDK asks for: Gemini's stream as one growing array."""
    body = {"contents": [{"role": "user", "parts": [{"text": _text(name)}]}]}
    path = f"/v1beta/models/{ONE}:streamGenerateContent"
    return {"name": name, "kind": "gemini", "model": ONE, "path": path, "body": body, "headers": _headers(fault)}


def _text(name: str) -> str:
    """The prompt by which a recording is recognised."""
    return f"Show me {name}."


def _headers(fault: str) -> dict[str, str]:
    return {"x-sandbox-fault": fault} if fault else {}


def _of(kind: str) -> list[dict[str, Any]]:
    return [
        _shape(kind, "whole", TWO, 2, stream=False),
        _shape(kind, "error", stream=False, fault="error;status=400"),
        _shape(kind, "text"),
        _shape(kind, "tool", tools=1, helper=True),
        _shape(kind, "tools-parallel", TWO, 2, helper=True),
        _shape(kind, "tool-without-arguments", EMPTY, 1),
        _shape(kind, "thinking", THINKING),
        _shape(kind, "split", fault="split;bytes=35"),
        _shape(kind, "gzip", fault="gzip"),
        _shape(kind, "failing", fault="fail-after;after=9"),
        _shape(kind, "cut", fault="cut;after=9"),
    ]


SHAPES: dict[str, list[dict[str, Any]]] = {
    "openai": [*_of("chat"), _shape("chat", "tools-interleaved", MIXED, 2), *_of("responses")],
    "anthropic": _of("messages"),
    "google": _of("gemini"),
    "plain": [_array("gemini-array"), _array("gemini-array-failing", "fail-after;after=9")],
}
"""By the vendor whose SDK asks for them; `plain`: no SDK does."""
NAMES = [call["name"] for calls in SHAPES.values() for call in calls]


def shape_of(request: bytes) -> str:
    """The name of the shape that the body `request` asks for."""
    return next(name for name in NAMES if _text(name).encode() in request)


@contextmanager
def clients(home: Path) -> Iterator[Callable[[str], Answers]]:
    """Yields a function that asks a base URL for every shape, each by its vendor's SDK, all in one lasting process."""
    with subprocess.Popen(
        [sys.executable, str(OBJECTS)],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ask(url: str) -> Answers:
            assert process.stdin is not None
            assert process.stdout is not None
            jobs = [{"vendor": vendor, "url": url, "retries": 0, "calls": calls} for vendor, calls in SHAPES.items()]
            process.stdin.write(json.dumps(jobs) + "\n")
            process.stdin.flush()
            return {name: answer for job in json.loads(process.stdout.readline()) for name, answer in job.items()}

        yield ask
