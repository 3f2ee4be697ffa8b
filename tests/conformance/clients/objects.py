"""Run in a process of its own, with the jobs of calls.py: everything that an SDK hands to its program.

A line of stdin is a list of jobs, and is answered by a line, so that the SDKs are imported once for several lines.
Each answer is {"objects": [...], "error": ...}: the answer, or every event of a stream with what the SDK's own helper
made of them; and the exception, where there was one, with what had come before it.
"""

# ruff: noqa: PLC0415 - each SDK takes seconds to import

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import calls


class OpenAi(calls.OpenAi):
    def objects(self, call: dict[str, Any]) -> Iterator[Any]:
        kind, arguments = self._arguments(call)
        where = self.sync.chat.completions if kind == "chat" else self.sync.responses
        if not call["stream"]:
            yield where.create(**arguments).model_dump(mode="json")
            return
        with where.create(**arguments, stream=True) as events:
            for event in events:
                yield event.model_dump(mode="json")
        if call.get("helper"):
            with where.stream(**arguments) as stream:
                final = stream.get_final_completion() if kind == "chat" else stream.get_final_response()
            yield final.model_dump(mode="json")


class Anthropic(calls.Anthropic):
    def objects(self, call: dict[str, Any]) -> Iterator[Any]:
        arguments = self._arguments(call)
        if not call["stream"]:
            yield self.sync.messages.create(**arguments).model_dump(mode="json")
            return
        with self.sync.messages.create(**arguments, stream=True) as events:
            for event in events:
                yield event.model_dump(mode="json")
        if call.get("helper"):
            with self.sync.messages.stream(**arguments) as stream:
                yield stream.get_final_message().model_dump(mode="json")


class Google(calls.Google):
    def objects(self, call: dict[str, Any]) -> Iterator[Any]:
        arguments = self._arguments(call)
        if call["stream"]:
            for answer in self.client.models.generate_content_stream(**arguments):
                yield self._plain(answer)
        else:
            yield self._plain(self.client.models.generate_content(**arguments))

    @staticmethod
    def _plain(answer: Any) -> Any:
        document = answer.model_dump(mode="json")
        headers = (document.get("sdk_http_response") or {}).get("headers")
        if headers:
            headers.pop("transfer-encoding", None)
        return document


class Plain:
    """No SDK: `path` and `body` as they are."""

    def __init__(self, url: str, _retries: int) -> None:
        self.url = url

    def objects(self, call: dict[str, Any]) -> Iterator[Any]:
        import httpx

        with httpx.stream(
            "POST", self.url + call["path"], json=call["body"], headers=call["headers"], timeout=30
        ) as answer:
            yield [answer.status_code, answer.reason_phrase, answer.headers.multi_items()]
            for chunk in answer.iter_raw():
                yield chunk.decode("latin-1")


def ask(sdk: Any, call: dict[str, Any]) -> dict[str, Any]:
    objects: list[Any] = []
    try:
        objects.extend(sdk.objects(call))
    except Exception as error:
        return {"objects": objects, "error": [type(error).__module__, type(error).__name__, str(error)]}
    return {"objects": objects, "error": None}


VENDORS: dict[str, Any] = {"openai": OpenAi, "anthropic": Anthropic, "google": Google, "plain": Plain}


def do(job: dict[str, Any]) -> dict[str, Any]:
    sdk = VENDORS[job["vendor"]](job["url"], job["retries"])
    return {call["name"]: ask(sdk, call) for call in job["calls"]}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps([do(job) for job in json.loads(line)]), flush=True)
