"""How long a stream may wait for its upstream."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Seconds. The defaults fit language models, whose first token can take two minutes (protocol, section 5)."""

    connect: float = 10
    """Until the connection to the upstream stands, TLS included."""
    first_byte: float = 150
    """From a request's end to its answer's head."""
    idle: float = 150
    """Between two chunks of an answer."""
    total: float = 900
    """From the first connection to the end of the answer."""

    @property
    def shortest(self) -> float:
        """No wait that begins later can end sooner than this."""
        return min(self.connect, self.first_byte, self.idle, self.total)
