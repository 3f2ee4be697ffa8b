"""The time-outs of a request to the upstream."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Time-outs in seconds. The defaults fit language models, whose first token can take two minutes."""

    connect: float = 10
    """To connect to the upstream, including TLS."""
    first_byte: float = 150
    """From the end of the request to the response headers."""
    idle: float = 150
    """Between two chunks of an answer."""
    total: float = 900
    """From the start of the first connection to the end of the answer."""

    @property
    def shortest(self) -> float:
        """The shortest of the four."""
        return min(self.connect, self.first_byte, self.idle, self.total)
