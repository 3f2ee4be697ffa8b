"""Checks the tool calls of an answer against the tools that its request declares: `calls` looks the names up, `schemas`
holds arguments against JSON schemas, by jsonschema; `patterns` runs their regular expressions, `problems` says it.

All of it comes from strangers: no schema is fetched from anywhere, a regular expression of theirs is run only where it
cannot take long, and the work (`work`) is bounded.
"""

from __future__ import annotations

from .calls import checked

__all__ = ["checked"]
