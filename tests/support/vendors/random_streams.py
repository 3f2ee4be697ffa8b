"""Random streams in the dialects that have an SDK here: parts of any number, cut anywhere, fragments mixed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from . import vendor_streams as v

Event = dict[str, Any]
NUMBER = 12
"""Streams of each dialect."""
_WORDS = ("a", "b ", " é", "日", "🦀", "\n", "\t", '"', "\\", "{", "}", "data: ", "[DONE]", "  ", "</s>", ":", "word ")


class Source:
    """Random texts and values. The same for the same seed."""

    def __init__(self, seed: object) -> None:
        self.random = Random(str(seed))

    def text(self, most: int = 20) -> str:
        return "".join(self.random.choices(_WORDS, k=self.random.randint(1, most)))

    def pieces(self, text: str) -> list[str]:
        """`text` in fragments."""
        found = []
        while text:
            size = self.random.choice((1, 2, 5, 20))
            found.append(text[:size])
            text = text[size:]
        return found

    def value(self, depth: int = 0) -> Any:
        simple = (self.text(4), 0, -1, 1.5, True, None, 1234567890123)
        if depth > 2 or self.random.random() < 0.5:
            return self.random.choice(simple)
        if self.random.random() < 0.5:
            return [self.value(depth + 1) for _ in range(self.random.randint(0, 3))]
        return {self.text(3): self.value(depth + 1) for _ in range(self.random.randint(0, 3))}

    def arguments(self) -> dict[str, Any]:
        return {self.text(3): self.value() for _ in range(self.random.randint(0, 3))}

    def json(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=self.random.random() < 0.5)

    def kinds(self, of: str, most: int = 4) -> list[str]:
        return self.random.choices(of, k=self.random.randint(1, most))

    def mixed(self, *queues: Iterable[Event]) -> list[Event]:
        """The events of several queues, those of each in their order."""
        left, found = [list(queue) for queue in queues], []
        while left := [queue for queue in left if queue]:
            found.append(self.random.choice(left).pop(0))
        return found


def chat(seed: int) -> list[Event]:
    """Chunks of one to three choices at once, whose calls come at the same time."""
    source = Source(f"chat {seed}")
    first: list[Event] = []
    queues: list[list[Event]] = []
    for choice in range(source.random.randint(1, 3)):
        first.append(v.chunk({"role": "assistant", "content": None}, index=choice))
        said: list[Event] = []
        for key in source.random.sample(("reasoning_content", "content", "refusal"), source.random.randint(0, 3)):
            said += [v.chunk({key: piece}, index=choice) for piece in source.pieces(source.text())]
        calls = []
        for number in range(source.random.randint(0, 3)):
            said.append(v.chunk(v.call(number, "", f"call_{choice}_{number}", "weather"), index=choice))
            pieces = source.pieces(source.json(source.arguments()))
            calls.append([v.chunk(v.call(number, piece), index=choice) for piece in pieces])
        said += source.mixed(*calls)
        queues.append([*said, v.chunk({}, "tool_calls" if calls else "stop", index=choice)])
    return [*first, *source.mixed(*queues), v.chunk(usage=v.CHAT_USAGE)]


def responses(seed: int) -> list[Event]:
    """Items one after the other, or all at the same time."""
    source = Source(f"responses {seed}")
    queues, items = [], []
    for place, kind in enumerate(source.kinds("rmfc")):
        events, item = {"r": _thought, "m": _message, "f": _function, "c": _custom}[kind](source, place)
        queues.append([*events, v.item(place, item, "done")])
        items.append(item)
    begun = [queue.pop(0) for queue in queues]
    said = source.mixed(*queues) if seed % 2 else [one for queue in queues for one in queue]
    end = v.state("completed", items, usage=v.RESPONSES_USAGE)
    events = [v.CREATED, v.state("in_progress"), *begun, *said, end]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _thought(source: Source, place: int) -> tuple[list[Event], Event]:
    item = {"id": f"rs_{place}", "type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    events = [v.item(place, item)]
    texts = [source.text() for _ in range(source.random.randint(1, 2))]
    for number, text in enumerate(texts):
        where = {"summary_index": number, "item_id": item["id"]}
        part = {"type": "summary_text", "text": ""}
        events.append({"type": "response.reasoning_summary_part.added", "output_index": place, **where, "part": part})
        events += [v.fragment("reasoning_summary_text", place, piece, **where) for piece in source.pieces(text)]
        events.append(v.whole("reasoning_summary_text", place, text=text, **where))
    return events, {**item, "summary": [{"type": "summary_text", "text": text} for text in texts]}


def _message(source: Source, place: int) -> tuple[list[Event], Event]:
    item = {**v.message(), "id": f"msg_{place}"}
    events, parts = [v.item(place, item)], []
    for number in range(source.random.randint(1, 2)):
        what, key = source.random.choice((("output_text", "text"), ("refusal", "refusal")))
        text, empty = source.text(), {**(v.RAINS if key == "text" else {"type": "refusal"}), key: ""}
        where: Any = {"content_index": number, "item_id": item["id"], **({"logprobs": []} if key == "text" else {})}
        events.append({**v.content(place, empty), "content_index": number})
        events += [v.fragment(what, place, piece, **where) for piece in source.pieces(text)]
        events.append(v.whole(what, place, **{**where, key: text}))
        parts.append({**empty, key: text})
        events.append({**v.content(place, parts[-1], "done"), "content_index": number})
    return events, {**item, "content": parts}


def _function(source: Source, place: int) -> tuple[list[Event], Event]:
    arguments = source.json(source.arguments())
    item = {**v.CALLED, "id": f"fc_{place}", "call_id": f"call_{place}", "arguments": arguments}
    return _called(source, place, item, "function_call_arguments", "arguments")


def _custom(source: Source, place: int) -> tuple[list[Event], Event]:
    head = {"id": f"ct_{place}", "type": "custom_tool_call", "call_id": f"call_{place}", "name": "apply"}
    return _called(source, place, {**head, "input": source.text()}, "custom_tool_call_input", "input")


def _called(source: Source, place: int, item: Event, what: str, key: str) -> tuple[list[Event], Event]:
    pieces = [v.fragment(what, place, piece, item_id=item["id"]) for piece in source.pieces(item[key])]
    done = v.whole(what, place, **{key: item[key], "item_id": item["id"], "name": item["name"]})
    return [v.item(place, {**item, key: ""}), *pieces, done], item


def messages(seed: int) -> list[Event]:
    """Blocks of all kinds, pings between them."""
    source = Source(f"messages {seed}")
    events: list[Event] = [v.start(cache_read_input_tokens=640, cache_creation_input_tokens=7)]
    for place, kind in enumerate(source.kinds("ttrxcs", 5)):
        text = source.text()
        if kind == "t":
            events.append(v.block(place, "text", text=source.random.choice(("", "begun "))))
            events += [v.delta(place, "text", text=piece) for piece in source.pieces(text)]
        elif kind == "r":
            events.append(v.block(place, "thinking", thinking="", signature=""))
            events += [v.delta(place, "thinking", thinking=piece) for piece in source.pieces(text)]
            events.append(v.delta(place, "signature", signature="EqQB"))
        elif kind == "x":
            events.append(v.block(place, "redacted_thinking", data="EmwKAh"))
        else:
            tool = {"c": "tool_use", "s": "server_tool_use"}[kind]
            events.append(v.block(place, tool, id=f"t{place}", name="web_search", input={}))
            pieces = ["", *source.pieces(source.json(source.arguments()))]
            events += [v.delta(place, "input_json", partial_json=piece) for piece in pieces]
        events += [v.PING, v.stop(place)] if source.random.random() < 0.3 else [v.stop(place)]
    reasons = ("end_turn", "max_tokens", "pause_turn")
    return [*events, *v.finish(source.random.choice(reasons))]


def gemini(seed: int) -> list[Event]:
    """Answers with parts of one or two candidates."""
    source = Source(f"gemini {seed}")
    queues: list[list[Event]] = []
    for candidate in range(source.random.randint(1, 2)):
        said: list[Event] = []
        for kind in source.kinds("ttrco"):
            more: Event = {"thought": True} if kind == "r" else {}
            parts: list[Any] = [{"text": piece, **more} for piece in source.pieces(source.text())]
            if kind == "c":
                parts = [{"functionCall": {"name": "weather", "args": source.arguments()}} for _ in range(2)]
            elif kind == "o":
                parts = [{"executableCode": {"language": "PYTHON", "code": source.text(4)}}]
            said += [v.part(part, index=candidate) for part in parts]
        queues.append([*said, v.part(finish=source.random.choice(("STOP", "MAX_TOKENS")), index=candidate)])
    events = source.mixed(*queues)
    return [*events[:-1], {**events[-1], "usageMetadata": v.GEMINI_USAGE}]


EVENTS: dict[str, Callable[[int], list[Event]]] = {
    "chat": chat,
    "responses": responses,
    "messages": messages,
    "gemini": gemini,
}


def body(dialect: str, events: Iterable[Event], *, done: bool = True) -> bytes:
    """The events of a whole stream, or of the first part of one: not `done`."""
    named = dialect in ("responses", "messages")
    return v.events(*events, named=named, done=done and dialect == "chat")


def streams(dialect: str) -> dict[str, bytes]:
    """Whole streams by their names."""
    return {f"random {seed}": body(dialect, EVENTS[dialect](seed)) for seed in range(NUMBER)}
