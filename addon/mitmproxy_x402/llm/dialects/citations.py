"""Reads citations in the forms of all vendors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..reading import Citation
from ..values import mapping, sequence, string

_TITLES = ("title", "document_title", "filename", "name", "displayName", "display_name", "fileName", "file_name")
_SOURCES = (
    *("url", "uri", "sourceUri", "source_uri", "documentUri", "document_uri", "source", "file_id", "fileId"),
    *("document_id", "documentName", "document_name", "placeId", "place_id", "id", "license"),
)
_ADDRESSES = ("url", "uri")
_WITHIN = ("document", "tool_output")
"""Keys of a source within which its address may be."""
_FURTHER = ("imageUri", "image_uri", "googleMapsUri", "google_maps_uri", *_ADDRESSES)
"""Keys of addresses that come beside: a picture's own beside its page's, those of reviews beside their place's."""
_REVIEWS = ("reviewSnippets", "review_snippets", "reviewSnippet", "review_snippet")
_QUOTES = ("cited_text", "quote", "snippet", "content", "text")
_MAX_REVIEWS = 10
MAX_WORDS = 1000
"""Characters of each of a citation's texts that are kept."""


def citation_of(value: Any, kind: str = "") -> Citation | None:
    """What `value` cites, an annotation or a source in a vendor's form; None: it names nothing."""
    if isinstance(value, str):
        return Citation(kind or "citation", source=value[:MAX_WORDS]) if value else None
    said = {key: one for key, one in mapping(value).items() if one is not None}  # some SDKs send all keys
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
    source = ", ".join(dict.fromkeys(filter(None, (source, *_further(said)))))
    title = _first(said, _TITLES)
    if not title:
        title = ", ".join(filter(None, (_first(mapping(one.get("document")) or one, _TITLES) for one in sources)))
    if not (title or source or quote):
        return None
    return Citation(kind[:100] or "citation", title[:MAX_WORDS], source[:MAX_WORDS], quote[:MAX_WORDS])


def _further(said: dict[str, Any]) -> Iterator[str]:
    """The addresses beside a source's own, or beside its id."""
    yield _first(said, _FURTHER[:2])
    yield _first(mapping(mapping(said.get("location")).get("web")), _ADDRESSES)  # Bedrock's
    for one in map(mapping, sequence(said.get("sources"))):  # Cohere's
        for key in _WITHIN:
            yield _first(mapping(one.get(key)), _ADDRESSES)
    for place in (said, mapping(said.get("placeAnswerSources")), mapping(said.get("place_answer_sources"))):
        for key in _REVIEWS:
            reviews = place.get(key)
            for review in reviews[:_MAX_REVIEWS] if isinstance(reviews, list) else [reviews]:
                yield _first(mapping(review), _FURTHER)


def _first(value: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((string(value[key]) for key in keys if string(value.get(key))), "")
