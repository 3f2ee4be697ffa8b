"""Checks that the certificate authorities that mitmproxy trusts are fit to pay by.

The private key of a public authority (eMudhra) has leaked; certifi before OLDEST still has its roots, and who has that
key can pose as any gateway, to set prices and take payments.
"""

from __future__ import annotations

import re

import certifi

from ...installation import advice

OLDEST = (2026, 10, 18)
"""The first certifi without the roots of the authority whose key has leaked."""
REQUIREMENT = "certifi>=2026.10.18"


def found() -> str:
    """certifi and its version, in words."""
    return f"certifi {certifi.__version__}"


def outdated(*, named: bool) -> str:
    """Why nothing may be paid over the network; empty where it may.

    `named` says that the user names authorities to mitmproxy, which then trusts those alone.
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
    """The command that brings the authorities up to date here."""
    return advice([REQUIREMENT])
