"""Readers of OpenAI's dialects: `chat` completions, `responses`, `assistants` and `transcription` of speech."""
