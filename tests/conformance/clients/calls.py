"""Run by test_clients.py in a process of its own: each line on stdin is a list of jobs in JSON (vendor, URL, calls).

Calls each vendor's SDK as any program would, and prints in a line what it made of the answers: for each job an object
by call name. The calls marked `together` are made at the same time, by the async client, after all others.
"""

# ruff: noqa: PLC0415 - each SDK takes seconds to import

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Awaitable
from typing import Any

PARAMETERS = {
    "get_weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"], "type": "string"}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "search": {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "pages": {"type": "array", "items": {"type": "integer"}},
            "deep": {"type": "boolean"},
        },
        "required": ["query", "pages", "deep"],
        "additionalProperties": False,
    },
}


class OpenAi:
    def __init__(self, url: str, retries: int) -> None:
        import openai

        self.error: type[Exception] = openai.OpenAIError
        self.sync = openai.OpenAI(api_key="any", base_url=f"{url}/v1", max_retries=retries)
        self.later = openai.AsyncOpenAI(api_key="any", base_url=f"{url}/v1", max_retries=retries)

    def ask(self, call: dict[str, Any]) -> dict[str, Any]:
        kind, arguments = self._arguments(call)
        where = self.sync.chat.completions if kind == "chat" else self.sync.responses
        if call.get("raw"):
            return pieces([chunk.model_dump() for chunk in where.create(**arguments, stream=True)])
        if not call["stream"]:
            return self._read(kind, where.create(**arguments))
        with where.stream(**arguments) as stream:
            for _ in stream:
                pass
            return self._read(kind, stream.get_final_completion() if kind == "chat" else stream.get_final_response())

    async def ask_later(self, call: dict[str, Any]) -> dict[str, Any]:
        kind, arguments = self._arguments(call)
        where = self.later.chat.completions if kind == "chat" else self.later.responses
        if not call["stream"]:
            return self._read(kind, await where.create(**arguments))
        async with where.stream(**arguments) as stream:
            async for _ in stream:
                pass
            final = stream.get_final_completion() if kind == "chat" else stream.get_final_response()
            return self._read(kind, await final)

    @staticmethod
    def _arguments(call: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        kind, tools = call["kind"], list(PARAMETERS.items())[: call["tools"]]
        arguments: dict[str, Any] = {"model": call["model"], "extra_headers": call.get("headers", {})}
        if kind == "chat":
            arguments["messages"] = [{"role": "user", "content": call["text"]}]
            arguments["max_tokens"] = call["max_tokens"]
            listed = [{"type": "function", "function": _function(name, schema)} for name, schema in tools]
        else:
            arguments["input"] = call["text"]
            arguments["max_output_tokens"] = call["max_tokens"]
            listed = [{"type": "function", **_function(name, schema)} for name, schema in tools]
        if kind == "chat" and call["stream"] and not call.get("raw"):
            arguments["stream_options"] = {"include_usage": True}
        return kind, {**arguments, **({"tools": listed} if listed else {})}

    @staticmethod
    def _read(kind: str, answer: Any) -> dict[str, Any]:
        if kind == "chat":
            message, usage = answer.choices[0].message, answer.usage
            calls = [[call.id, call.function.name, call.function.arguments] for call in message.tool_calls or []]
            text, end = message.content or "", answer.choices[0].finish_reason
            used = [usage.prompt_tokens, usage.completion_tokens] if usage else None
        else:
            found = [item for item in answer.output if item.type == "function_call"]
            calls = [[item.call_id, item.name, item.arguments] for item in found]
            text, end = answer.output_text, answer.status
            used = [answer.usage.input_tokens, answer.usage.output_tokens]
        return {"id": answer.id, "model": answer.model, "text": text, "calls": calls, "end": end, "used": used}


class Anthropic:
    def __init__(self, url: str, retries: int) -> None:
        import anthropic

        self.error: type[Exception] = anthropic.AnthropicError
        self.sync = anthropic.Anthropic(api_key="any", base_url=url, max_retries=retries)
        self.later = anthropic.AsyncAnthropic(api_key="any", base_url=url, max_retries=retries)

    def ask(self, call: dict[str, Any]) -> dict[str, Any]:
        if not call["stream"]:
            return self._read(self.sync.messages.create(**self._arguments(call)))
        with self.sync.messages.stream(**self._arguments(call)) as stream:
            for _ in stream:
                pass
            return self._read(stream.get_final_message())

    async def ask_later(self, call: dict[str, Any]) -> dict[str, Any]:
        if not call["stream"]:
            return self._read(await self.later.messages.create(**self._arguments(call)))
        async with self.later.messages.stream(**self._arguments(call)) as stream:
            async for _ in stream:
                pass
            return self._read(await stream.get_final_message())

    @staticmethod
    def _arguments(call: dict[str, Any]) -> dict[str, Any]:
        tools = [
            {"name": name, "description": name, "input_schema": schema}
            for name, schema in list(PARAMETERS.items())[: call["tools"]]
        ]
        return {
            "model": call["model"],
            "max_tokens": call["max_tokens"],
            "messages": [{"role": "user", "content": call["text"]}],
            "extra_headers": call.get("headers", {}),
            **({"tools": tools} if tools else {}),
        }

    @staticmethod
    def _read(answer: Any) -> dict[str, Any]:
        return {
            "id": answer.id,
            "model": answer.model,
            "text": "".join(block.text for block in answer.content if block.type == "text"),
            "calls": [[block.id, block.name, block.input] for block in answer.content if block.type == "tool_use"],
            "end": answer.stop_reason,
            "used": [answer.usage.input_tokens, answer.usage.output_tokens],
        }


class Google:
    def __init__(self, url: str, _retries: int) -> None:
        from google import genai
        from google.genai import errors, types

        self.types = types
        self.error: type[Exception] = errors.APIError
        self.client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=url))

    def _arguments(self, call: dict[str, Any]) -> dict[str, Any]:
        types = self.types
        declared = [
            types.FunctionDeclaration(name=name, description=name, parameters_json_schema=schema)
            for name, schema in list(PARAMETERS.items())[: call["tools"]]
        ]
        config = types.GenerateContentConfig(
            max_output_tokens=call["max_tokens"],
            tools=[types.Tool(function_declarations=declared)] if declared else None,
            automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
            http_options=types.HttpOptions(headers=call.get("headers", {})),
        )
        return {"model": call["model"], "contents": call["text"], "config": config}

    def ask(self, call: dict[str, Any]) -> dict[str, Any]:
        arguments = self._arguments(call)
        if call["stream"]:
            answers = list(self.client.models.generate_content_stream(**arguments))
        else:
            answers = [self.client.models.generate_content(**arguments)]
        parts = [part for answer in answers for part in answer.candidates[0].content.parts]
        last = answers[-1]
        return {
            "id": last.response_id,
            "model": last.model_version,
            "text": "".join(part.text or "" for part in parts),
            "calls": [[part.function_call.name, part.function_call.args] for part in parts if part.function_call],
            "end": last.candidates[0].finish_reason.value,
            "used": [last.usage_metadata.prompt_token_count, last.usage_metadata.candidates_token_count],
        }


def pieces(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """What a program gets that puts the chunks of a chat together by itself, by their index."""
    calls: dict[int, list[str]] = {}
    text = ""
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"]
        text += delta["content"] or ""
        for call in delta["tool_calls"] or []:
            one = calls.setdefault(call["index"], ["", "", ""])
            for place, piece in enumerate((call["id"], call["function"]["name"], call["function"]["arguments"])):
                one[place] += piece or ""
    last = chunks[-1]
    end = last["choices"][0]["finish_reason"]
    ordered = [call for _, call in sorted(calls.items())]
    return {"id": last["id"], "model": last["model"], "text": text, "calls": ordered, "end": end, "used": None}


def _function(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "description": name, "parameters": schema, "strict": True}


def failure(error: Exception) -> dict[str, Any]:
    status = getattr(error, "status_code", None)
    return {"error": type(error).__name__, "module": type(error).__module__, "status": status, "message": str(error)}


async def ask_together(sdk: Any, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    async def one(asked: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        try:
            return await asked
        except sdk.error as error:
            return failure(error)

    return list(await asyncio.gather(*(one(sdk.ask_later(call)) for call in calls)))


def do(job: dict[str, Any]) -> dict[str, Any]:
    sdk: Any = {"openai": OpenAi, "anthropic": Anthropic, "google": Google}[job["vendor"]](job["url"], job["retries"])
    answers: dict[str, Any] = {}
    for call in job["calls"]:
        if not call.get("together"):
            try:
                answers[call["name"]] = sdk.ask(call)
            except sdk.error as error:
                answers[call["name"]] = failure(error)
    together = [call for call in job["calls"] if call.get("together")]
    for call, answer in zip(together, asyncio.run(ask_together(sdk, together)), strict=True):
        answers[call["name"]] = answer
    return answers


if __name__ == "__main__":
    for line in sys.stdin:
        answers = [do(job) for job in json.loads(line)]
        gc.collect()  # closes the connections of the SDKs' clients, for which tap and proxy would wait
        print(json.dumps(answers), flush=True)
