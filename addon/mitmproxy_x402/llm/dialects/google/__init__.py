"""Readers of Google's dialects: generateContent (`gemini`), with its calls in pieces (`partial_args`); interactions."""
