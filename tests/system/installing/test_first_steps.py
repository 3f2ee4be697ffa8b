"""A new user's first minute: an empty home, a wallet, a check, and a paid, streamed tool call."""

from __future__ import annotations

import re
from pathlib import Path

import first_steps
from support.wire import free_port


def test_from_nothing_to_the_first_paid_answer(tmp_path: Path) -> None:
    session = first_steps.play(tmp_path, free_port(), free_port())
    assert session.typed < 300  # under a minute of typing
    page = first_steps.page(session, tmp_path)
    key = (tmp_path / ".blockrun" / ".session").read_text().strip()
    assert key not in session.shown
    assert key not in page
    assert page.count("......") == 24
    assert not re.search(r"(?m)^ +\d+ [a-z]{3}", page)
    assert "data: [DONE]" in page
    assert amounts(page) == amounts(first_steps.PAGE.read_text()), "run: python tests/first_steps.py"


def amounts(page: str) -> list[str]:
    return re.findall(r"\b\d+\.\d{3,}\b", page)
