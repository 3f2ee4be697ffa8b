"""A content view as mitmweb and mitmproxy ask for one, in both lines of mitmproxy."""

from __future__ import annotations

from typing import Any, NamedTuple

from .console import contentviews, taddons


class Shown(NamedTuple):
    """What a screen gets. `name` is the view's own; `Raw` where mitmproxy fell back to that."""

    name: str
    text: str


def show(message: Any, flow: Any, view: str = "auto") -> Shown:
    with taddons.context():
        if hasattr(contentviews, "prettify_message"):
            result = contentviews.prettify_message(message, flow, view_name=view)
            return Shown(str(result.view_name), result.text)
        said, lines, error = contentviews.get_message_content_view(view, message, flow)
        assert error is None, error
        text = "\n".join("".join(part for _, part in line) for line in lines)
        return Shown("Raw" if "falling back" in said else said.rpartition("] ")[2], text)


def names() -> list[str]:
    """Every view there is, in lower case."""
    if hasattr(contentviews, "registry"):
        return list(contentviews.registry.available_views())
    return [view.name.lower() for view in contentviews.views]


def priority(view: str, data: bytes, message: Any, flow: Any) -> float:
    kind = message.headers.get("content-type", "").partition(";")[0]
    if hasattr(contentviews, "registry"):
        about = contentviews.Metadata(flow=flow, content_type=kind, http_message=message)
        return float(contentviews.registry[view].render_priority(data, about))
    found: Any = contentviews.get(view)
    return float(found.render_priority(data, content_type=kind, flow=flow, http_message=message))
