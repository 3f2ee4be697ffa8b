"""What the options x402_dump... may say."""

from __future__ import annotations

from .settings_values import Given

FORMATS = ("native", "har", "mitm")


def dump_format(given: Given) -> str:
    """A format of recordings."""
    if given.value not in FORMATS:
        raise given.wrong(f"expected {', '.join(FORMATS)}, or several of them separated by commas")
    return str(given.value)


def filter_expression(given: Given) -> str:
    """A filter expression that mitmproxy can parse."""
    from mitmproxy import flowfilter  # noqa: PLC0415  # slow, and seldom needed

    allowed = (
        "expected a filter expression of mitmproxy, as in '~u /v1/ & ~m POST' (https://docs.mitmproxy.org, filters)"
    )
    if not isinstance(given.value, str):
        raise given.wrong(allowed)
    try:
        flowfilter.parse(given.value)
    except Exception:  # also a nesting too deep for the parser
        raise given.wrong(allowed) from None
    return given.value
