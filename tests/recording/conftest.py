"""A proxy that records."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import changer
from support.recording.recorders import Recorded, recording_proxy


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    home = tmp_path_factory.mktemp("home")
    with recording_proxy(home, *changer.script(home)) as rig:
        yield rig
