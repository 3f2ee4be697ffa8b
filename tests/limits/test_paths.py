"""Which path a request is for, however it is written: a limit by path holds, or lets it alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_x402.limits.limits import Limit, Scope, for_request
from mitmproxy_x402.limits.whole_request import WholeRequest, normal_path

BY_PATH = Limit(Scope(path="/v1/images/*"), 1, ())


def limits_of(target: str) -> list[Limit]:
    return for_request([BY_PATH], WholeRequest(target, b"", ("application/json",), ()).read())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images",
        "/V1/images/",
        "/api/v1/images?x",
        "/v1/images/generations",
        "/v1/%69mages/generations",
        "/v1/%2569mages/generations",
        "/v1/%252569mages/generations",
        "//v1/images/generations",
        "/v1//images/generations",
        "/v1/./images/generations",
        "/v1/%2e/images/generations",
        "/v1/x/../images/generations",
        "/v1/x/%2E%2e/images/generations",
        "/V1/Images/generations",
        "/v1/images/generations/",
        "/v1/images/generations//",
        "/v1\\images\\generations",
        "/v1/images;x=1/generations",
        "/v1%2fimages%2Fgenerations",
        "/api/v1/images/generations",
        "/API//v1/%69mages/generations",
        "/v1/images/generations%20",
        "/v1/images/%00generations",
        "/v1/images/generations%3Fx",
        "/v1/images/generations%23x",
        "/v1/\u0131mages/generations",
        "/v1/%c4%b1mages/generations",
        "/v1/ima%ges/generations",
        "/v1/%25252525252525252569mages/x",
        "/v1/\udcfc/../images/x",
        "/v1/\ud800\udcfc/../images/x",
        "/v1/%fc/../images/x",
        "/v1/%3f/../images/x",
        "/v1/%23/../images/x",
        "/v1/#/../images/x",
        "http://127.0.0.1/v1/images/x",
        "/v1/x /v1/images/x",
        "v1/images/x",
    ],
)
def test_the_limit_of_a_path_holds(path: str) -> None:
    assert limits_of(path + "?a=/b") == [BY_PATH]


@pytest.mark.parametrize(
    "path", ["//h/v1/images/x", "//h:80/v1/images/x", "///h/v1/images/x", "/v1/images/x/../../y", "/v1/images/../chat"]
)
def test_a_path_that_servers_read_differently_falls_under_the_limit(path: str) -> None:
    assert limits_of(path) == [BY_PATH]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/imagesx/y", "/v1/x/images/y", "/"])
def test_another_path_is_let_alone(path: str) -> None:
    assert limits_of(path) == []


@given(st.lists(st.sampled_from("abcxyz0189._-~%2/;\\ A\u00e9"), max_size=30).map("".join))
def test_normal_forms_are_their_own(text: str) -> None:
    normal, doubt = normal_path("/" + text)
    if not doubt:
        assert normal_path(normal) == (normal, "")
