"""Checks this machine: versions, certificate authorities, the library that signs, wallet, ledger, port."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException

from mitmproxy import version

from .. import __version__
from ..command_line import port_is_free
from ..errors import SettingsError
from ..ledger.interface import LedgerError
from ..ledger.opening import require_driver
from ..ledger.reading import find_missing, read_entries
from ..ledger.sqlite.store import SqliteLedger
from ..machine.installation import RECOMMENDED, advice, missing
from ..machine.program import program
from ..protocol.evm import secp256k1
from ..proxy.startup import authorities
from ..proxy.startup.self_check import self_check
from ..settings.ledger_place import PostgresUrl
from ..settings.settings import Settings
from ..views.flow_metadata import HEALTH
from ..wallet.sources import EVM_VARIABLE, SVM_VARIABLE, Wallets
from .line import Line, ok, todo

PROBE_SECONDS = 3


def versions() -> Line:
    """Checks that Python and mitmproxy are supported versions."""
    found = f"Python {platform.python_version()}, mitmproxy {version.VERSION}, mitmproxy-x402 {__version__}"
    try:
        caution = self_check()
    except SettingsError as error:
        return todo("versions", str(error))
    return ok("versions", f"{found}{'. ' if caution else ''}{caution}")


def certificates(options: Mapping[str, str]) -> Line:
    """Checks that the certificate authorities can be trusted with payments."""
    named = any(options.get(f"ssl_verify_upstream_trusted_{kind}") for kind in ("ca", "confdir"))
    outdated = authorities.outdated(named=named)
    if outdated:
        return todo("authorities", f"{outdated} {authorities.remedy()}")
    return ok("authorities", "those that you name" if named else f"those of {authorities.found()}")


def signing() -> Line:
    """Which library signs payments on EVM networks."""
    curve = secp256k1.library()
    if curve.is_native:
        return ok("signing", f"{curve.name} {curve.version}")
    slow = f"{curve.name} {curve.version}, in pure Python, which takes milliseconds a payment"
    return ok("signing", f"{slow}. {advice(['wallycore>=1.5'])}" if missing(RECOMMENDED) else slow)


def wallets(found: Wallets, settings: Settings) -> Iterator[Line]:
    """The addresses that pay, and what the settings warn of."""
    for family, purse in (("evm", found.evm), ("svm", found.svm)):
        if purse is not None:
            names = ", ".join(network.name for network in settings.networks if network.family == family)
            yield ok("wallet", f"{purse.address} pays on {names} (from {purse.source})")
    if found.evm is None and found.svm is None:
        others = f"or set {SVM_VARIABLE} (Solana) or {EVM_VARIABLE} (Base), or name a key file"
        yield todo("wallet", f"none was found: make one with {program()} wallet new, {others}.")
        return
    yield ok("key files", "no other user can read them")
    for warning in settings.warnings:
        yield todo("settings", warning)


def ledger(settings: Settings) -> Line:
    """Checks that payments can be recorded; without that none is made."""
    path = settings.ledger
    if isinstance(path, PostgresUrl):
        return _database(path)
    if not path.exists():
        parent = next(folder for folder in path.absolute().parents if folder.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            return todo(
                "ledger", f"{path} cannot be created: {parent} is not writable. To use another file, set x402_ledger."
            )
        return ok("ledger", f"{path} will be created when the proxy starts")
    try:
        entries = read_entries(path)
        lost = find_missing(path)
        SqliteLedger(path, is_tool=True).close()
    except LedgerError as error:
        return todo("ledger", str(error))
    if lost:
        return todo("ledger", f"{lost}.")
    return ok("ledger", f"{path} is writable and holds {len(entries)} payment{'' if len(entries) == 1 else 's'}")


def _database(url: PostgresUrl) -> Line:
    try:
        require_driver(url)
    except LedgerError as error:
        return todo("ledger", str(error))
    from . import database as check_database  # noqa: PLC0415 - needs psycopg

    return check_database.ledger(url)


def port(host: str, number: int) -> Line:
    """Checks that the proxy can listen there, or that one does already."""
    where = f"{number} on {host}"
    if port_is_free(host, number):
        return ok("port", f"{where} is free")
    if _is_ours(host, number):
        return ok("port", f"{where} is in use by a proxy of this kind")
    return todo(
        "port", f"{where} is in use by another program, or may not be used. To use another port: -p {number + 1}"
    )


def _is_ours(host: str, number: int) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (asked, not listened on)
    try:
        with closing(HTTPConnection(host, number, timeout=PROBE_SECONDS)) as connection:
            connection.request("GET", HEALTH)  # leaves neither a flow nor a log line
            answer = json.loads(connection.getresponse().read(4096))
        return bool(answer["status"] in ("ok", "draining", "not ready"))
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return False
