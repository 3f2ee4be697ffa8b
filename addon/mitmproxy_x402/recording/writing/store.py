"""Writes the new data of recordings (`parts.Part`) into their folders. An error ends one recording; others go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from ..format import RecordingError
from .files import Folder, OpenFiles
from .parts import Part

TELL_AGAIN = 60.0
"""Seconds before the same trouble is reported again."""

STANDSTILL = 2.0
"""Seconds without progress after which a proxy that is ending no longer waits for the disk."""

Tell = Callable[[str, str], object]
"""Called with a folder that cannot be written to, and the cause."""


class Complaints:
    """Passes each cause of trouble on, at most once within TELL_AGAIN seconds."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: dict[str, float] = {}

    def add(self, folder: str, cause: str) -> None:
        """Report `cause`, unless that was done less than TELL_AGAIN seconds ago."""
        now = time.monotonic()
        if now - self._told.get(cause, -TELL_AGAIN) >= TELL_AGAIN:
            self._told = {each: when for each, when in self._told.items() if now - when < TELL_AGAIN}
            self._told[cause] = now
            self._tell(folder, cause)


class Kept:
    """A recording that is being written."""

    def __init__(self, parent: str, folder: Folder) -> None:
        self.parent = parent
        self.folder = folder
        self.trouble = ""
        """Why writing it was given up; empty: it was not."""


class Store:
    """Writes the recordings of one writer. No method raises."""

    def __init__(self, tell: Tell) -> None:
        self._complaints = Complaints(tell)
        self._files = OpenFiles()
        self._kept: dict[int, Kept] = {}

    def add(self, part: Part) -> None:
        """Write what is new, except for the head of a flow that is over."""
        kept = self._kept.get(part.number)
        if kept is None:
            if part.place is None:
                return
            parent = os.fsdecode(part.place[0])
            kept = self._kept[part.number] = Kept(parent, Folder(parent, part.place[1], self._files))
        if not kept.trouble:
            self.attempt(kept, _add, kept.folder, part)
        if part.is_over:
            self.attempt(kept, kept.folder.close)

    def finish(self, part: Part) -> Kept | None:
        """Write the head of a flow that is over. Returns its recording; None: nothing of it was written."""
        kept = self._kept.pop(part.number, None)
        head = part.head
        if kept is None or head is None:
            return None
        if kept.trouble:
            head = head._replace(state="incomplete", error=head.error or kept.trouble)
        self.attempt(kept, kept.folder.end, head)
        return kept

    def attempt(self, kept: Kept, work: Callable[..., object], *given: Any) -> None:
        """Call `work` with `given`; an error is the recording's trouble."""
        try:
            work(*given)
        except OSError as error:
            self._give_up(kept, error.strerror or type(error).__name__)
        except RecordingError as error:
            self._give_up(kept, error.message)
        except Exception as error:  # others are still to be written, and the text may contain secrets
            self._give_up(kept, f"a fault of the recorder: {type(error).__name__}")

    def _give_up(self, kept: Kept, cause: str) -> None:
        if not kept.trouble:
            kept.trouble = f"the recording broke off: {cause}"
            self._complaints.add(kept.parent, cause)


def _add(folder: Folder, part: Part) -> None:
    """Write the new data of `part` to `folder`. Raises OSError."""
    if part.place is not None:
        folder.make()
    if part.request is not None:
        folder.write_request(part.request, part.body, part.left_out)
    if part.answer is not None:
        folder.begin_response(*part.answer)
    if part.sizes:
        data = part.data[0] if len(part.data) == 1 else b"".join(part.data)
        folder.add(part.times, part.sizes, data, last=part.is_over)
    if not part.is_over:
        folder.flush(part.head)
