"""x402 on the wire, versions 1 and 2. Pure functions over frozen dataclasses; imports nothing of ours but the errors."""
