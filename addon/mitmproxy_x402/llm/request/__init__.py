"""What a request to a language model asks, and how its parts are called in all dialects."""
