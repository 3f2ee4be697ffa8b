"""`show --follow`: the events of a recording as they come, with their times, each byte read once."""

from __future__ import annotations

import gzip
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from mitmproxy_x402.fixtures.__main__ import main
from mitmproxy_x402.fixtures.show.following import Growing
from mitmproxy_x402.llm import StreamReader

RECORDINGS = Path(__file__).parents[1] / "recordings"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n'


@pytest.mark.parametrize("name", ["chat-tool", "messages-gzip", "chat-text"])
def test_a_finished_recording_is_followed_as_its_events_are_shown(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(RECORDINGS / name), "--events"]) == 0
    expected = capsys.readouterr().out.partition("events:\n")[2]
    assert main(["show", str(RECORDINGS / name), "--follow"]) == 0
    assert capsys.readouterr().out == expected
    assert expected.count("+0.") > 3


@pytest.mark.parametrize("coding", ["", "gzip"])
def test_what_was_read_is_not_read_again(coding: str, tmp_path: Path) -> None:
    folder = shutil.copytree(RECORDINGS / "chat-tool", tmp_path / "one")
    head = json.loads((folder / "flow.json").read_text())
    head["state"] = "open"
    codings = [["Content-Encoding", coding]] if coding else []
    head["response"]["headers"] = [["Content-Type", "text/event-stream"], *codings]
    (folder / "flow.json").write_text(json.dumps(head))
    body, chunks = folder / "response.sse", folder / "chunks.jsonl"
    chunks.write_text("")
    reader = StreamReader(traced=True)
    seconds = 0.0
    with ExitStack() as files:
        growing = files.enter_context(Growing(folder))
        packer = files.enter_context(body.open("wb"))
        if coding:
            packer = files.enter_context(gzip.GzipFile(fileobj=packer, mode="wb"))  # type: ignore[assignment]
        for word in (b"one", b"two", b"three"):
            before = body.stat().st_size
            packer.write(EVENT % word)
            packer.flush()
            seconds += 0.5
            with chunks.open("a") as file:
                file.write(f"[{seconds}, {body.stat().st_size - before}]\n")
            for data in growing.news():
                reader.feed(data)
            (step,) = reader.steps()
            assert step.added[-1].text == word.decode()
            moment = growing.moment(step)
            assert (moment.seconds, moment.gap) == (seconds, None if word == b"one" else 0.5)
            with body.open("r+b") as file:  # whoever reads it again, reads this
                file.write(b"#" * (body.stat().st_size - 8))
        assert not growing.is_over
        assert not list(growing.news())
