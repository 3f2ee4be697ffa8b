"""The parts of an HTTP message that payment looks at, as protocols that mitmproxy's classes fit."""

from __future__ import annotations

from typing import Protocol


class Fields(Protocol):
    """Header fields; names in any case."""

    def get(self, key: str, /) -> str | None:
        """The value of the field `key`, several of them joined with a comma; None where there is none."""


class Request(Protocol):
    """A request as the client sent it, on its way to the upstream."""

    @property
    def method(self) -> str:
        """The method, such as `POST`."""

    @property
    def scheme(self) -> str:
        """The upstream's scheme: `http` or `https`."""

    @property
    def host(self) -> str:
        """The upstream's host."""

    @property
    def port(self) -> int:
        """The upstream's port."""

    @property
    def path(self) -> str:
        """The path with its query."""

    @property
    def headers(self) -> Fields:
        """Its header fields."""


def upstream_origin(request: Request) -> str:
    """Scheme, host and port of the upstream, as in `https://sol.blockrun.ai:443`."""
    return f"{request.scheme}://{request.host}:{request.port}"


class Response(Protocol):
    """An answer of the upstream, held back whole."""

    @property
    def status_code(self) -> int:
        """The status, such as 402."""

    @property
    def headers(self) -> Fields:
        """Its header fields."""

    @property
    def raw_content(self) -> bytes | None:
        """The body, with its Content-Encoding; None where it was not kept."""
