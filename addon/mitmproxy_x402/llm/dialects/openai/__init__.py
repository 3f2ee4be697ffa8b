"""The dialects of OpenAI."""
