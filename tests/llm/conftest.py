"""A server that gives the vendors' SDKs whatever stream a test has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.vendors.vendor_server import Vendor


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    running = Vendor()
    yield running
    running.close()
