"""Pictures that a response brings piece by piece: the last one that has come is told, finished or not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseImageGenCallPartialImageEvent

from mitmproxy_x402.llm import Reading, answer_text, read_answer

PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ITEM = {"id": "ig", "type": "image_generation_call", "status": "in_progress", "result": None}


def read(*events: dict[str, Any]) -> Reading:
    body = "".join(f"data: {json.dumps({**one, 'sequence_number': at})}\n\n" for at, one in enumerate(events))
    found = read_answer("text/event-stream", body.encode())
    assert found is not None
    return found


def response(status: str, *output: Any) -> dict[str, Any]:
    body = {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": status, "output": list(output)}
    return {"type": f"response.{status if status == 'completed' else 'created'}", "response": body}


def partial(number: int, picture: str, item: int = 0) -> dict[str, Any]:
    return {
        "type": "response.image_generation_call.partial_image",
        "item_id": "ig",
        "output_index": item,
        "partial_image_index": number,
        "partial_image_b64": picture,
    }


def added(item: Any, step: str = "added") -> dict[str, Any]:
    return {"type": f"response.output_item.{step}", "output_index": 0, "item": item}


@pytest.mark.parametrize("begun", [[added(ITEM)], []])
def test_of_a_response_that_is_cut_the_last_picture_is_told(begun: Any) -> None:
    event = ResponseImageGenCallPartialImageEvent.model_validate({**partial(1, PICTURE), "sequence_number": 1})
    reading = read(response("in_progress"), *begun, partial(0, PICTURE * 2), event.to_dict())
    text = answer_text(reading)
    assert "other: image_generation_call\n  [image, 70 bytes]\n" in text
    assert '"partial_image_index": 1' in text
    assert not reading.complete


def test_the_finished_picture_replaces_it() -> None:
    done = {**ITEM, "status": "completed", "result": PICTURE}
    end = (added(done, "done"), response("completed", done))
    with_it = read(response("in_progress"), added(ITEM), partial(0, PICTURE * 2), *end)
    without = read(response("in_progress"), added(ITEM), *end)
    assert with_it.items == without.items
    assert (with_it.complete, with_it.irregular, with_it.unread) == (True, (), ())


def test_a_picture_of_an_item_of_another_kind_is_an_unknown_event() -> None:
    other = {"id": "w", "type": "web_search_call", "status": "in_progress"}
    reading = read(response("in_progress"), added(other), partial(0, PICTURE))
    assert [one.split(":")[0] for one in reading.unread] == ["response.image_generation_call.partial_image"]


def test_a_picture_that_failed_says_so() -> None:
    failed = {**ITEM, "status": "failed", "result": PICTURE}
    text = answer_text(read(response("in_progress"), added(ITEM), added(failed, "done")))
    assert '[image, 70 bytes]\n  {\n    "status": "failed"\n  }' in text
