"""The dialects of Google."""
