"""Reads citations in the forms of all vendors."""

from __future__ import annotations

from typing import Any

from ..reading import Citation
from ..values import mapping, sequence, string

_TITLES = ("title", "document_title", "filename", "name", "displayName", "display_name")
_SOURCES = ("url", "uri", "source", "file_id", "fileId", "document_id", "id", "license")
_QUOTES = ("cited_text", "quote", "snippet", "content", "text")
MAX_WORDS = 1000
"""Characters of each of a citation's texts that are kept."""


def citation_of(value: Any, kind: str = "") -> Citation | None:
    """What `value` cites, an annotation or a source in a vendor's form; None: it names nothing."""
    if isinstance(value, str):
        return Citation(kind or "citation", source=value[:MAX_WORDS]) if value else None
    said = mapping(value)
    kind = string(said.get("type")) or kind
    inner = mapping(said.get(kind)) if kind else {}  # OpenAI's chat: {"type": "url_citation", "url_citation": {...}}
    if not kind and len(said) == 1:  # Gemini's chunks: {"web": {...}}
        kind, inner = next((key, mapping(one)) for key, one in said.items())
    said = inner or said
    sources = [mapping(one) for one in sequence(said.get("sources"))]
    quote = _first(said, _QUOTES) or " ".join(
        string(mapping(one).get("text")) for one in sequence(said.get("sourceContent"))
    )
    source = _first(said, _SOURCES) or ", ".join(filter(None, (_first(one, _SOURCES) for one in sources)))
    title = _first(said, _TITLES)
    if not title:
        title = ", ".join(filter(None, (_first(mapping(one.get("document")) or one, _TITLES) for one in sources)))
    if not (title or source or quote):
        return None
    return Citation(kind[:100] or "citation", title[:MAX_WORDS], source[:MAX_WORDS], quote[:MAX_WORDS])


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((string(value[key]) for key in keys if string(value.get(key))), "")
