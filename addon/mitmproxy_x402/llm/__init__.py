"""Answers and requests of language models as a person reads them, in the four dialects of the vendors. Pure."""
