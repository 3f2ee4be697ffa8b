"""Checks that mitmproxy does not trust a certificate authority whose key is known to have leaked.

The private key of a public authority (eMudhra) has leaked. certifi before OLDEST still lists it, and anyone with that
key can impersonate a gateway, set prices and take payments.
"""

from __future__ import annotations

import re

import certifi

from ...machine.installation import advice

OLDEST = (2026, 10, 18)
"""The first certifi without the roots of the authority whose key has leaked."""
REQUIREMENT = "certifi>=2026.10.18"


def found() -> str:
    """Name and version of the installed certifi, for messages."""
    return f"certifi {certifi.__version__}"


def outdated(*, named: bool) -> str:
    """Why nothing may be paid over a network; empty if payments are safe.

    `named` says that the user has configured authorities, in which case mitmproxy trusts only those.
    """
    if named:
        return ""
    if tuple(int(number) for number in re.findall(r"\d+", certifi.__version__)[:3]) >= OLDEST:
        return ""
    return (
        f"{found()} still trusts a certificate authority whose private key has leaked, so anyone on the way could pose "
        f"as the gateway. Nothing is paid over the network until it is {REQUIREMENT.partition('>=')[2]} or later."
    )


def remedy() -> str:
    """The command that updates the authorities on this installation."""
    return advice([REQUIREMENT])
