"""x402 on the wire, versions 1 and 2: pure functions over frozen dataclasses, importing nothing of ours but errors."""
