"""Finishes a recording whose folder is written: adds it to a HAR or flow file, removes a folder that is not to stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .format import Recording, read_recording
from .har import HarFiles
from .mitm import FlowFile
from .writing.store import Kept


@dataclass(frozen=True)
class Outputs:
    """The formats that recordings are written in."""

    native: bool
    """Whether the folders are kept."""
    har: HarFiles | None = None
    mitm: FlowFile | None = None

    @property
    def is_plain(self) -> bool:
        """Whether only folders are written."""
        return self.native and self.har is None and self.mitm is None


@dataclass(frozen=True)
class Ending:
    """What is to be done at the end of a recording, besides writing its folder."""

    outputs: Outputs
    state: dict[str, Any] | None = field(default=None, repr=False)
    """mitmproxy's state of the flow without the answer's body, if a format or the filter needs it."""
    wanted: Callable[[dict[str, Any], Recording], bool] | None = field(default=None, repr=False)
    """Returns whether to keep the recording, given that state and what is recorded."""
    size: int = 0
    """Bytes of `state`."""

    def __call__(self, kept: Kept) -> None:
        """Write the other formats, and remove a folder that is not to stay. Raises OSError and RecordingError."""
        recording = read_recording(kept.folder.path)
        if self.wanted is not None and self.state is not None and not self.wanted(self.state, recording):
            kept.folder.remove()
            return
        if kept.trouble:
            return
        if self.outputs.har is not None:
            self.outputs.har.add(recording)
        if self.outputs.mitm is not None and self.state is not None:
            self.outputs.mitm.add(self.state, recording)
        if not self.outputs.native:
            kept.folder.remove()
