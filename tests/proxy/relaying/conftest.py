"""A certificate for the upstreams of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.running import certs


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return certs.make(tmp_path)
