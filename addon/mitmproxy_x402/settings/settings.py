"""Reads options, environment and x402.toml into one frozen Settings; an error is one line that names the key.

An option beats the environment, the environment beats the file, the file beats the default. Every option is declared
to mitmproxy as text and parsed here, because mitmproxy drops a whole script when it cannot parse a typed option.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli

from ..errors import SettingsError
from ..limits.limits import Budget, Limit
from ..machine.private_files import Unfit, exposure, objection, read_file
from ..protocol.amounts import format_usd
from ..protocol.messages import Caip2
from ..protocol.networks import NetworkTable
from .ledger_place import LedgerPlace, ledger_place, ledger_warnings
from .limit_tables import address, asset, budgets, host, read_limits
from .networks import read_networks
from .options import OPTIONS, Option
from .suggest import nearest, unknown_key, unread_variables
from .timeouts import Timeouts
from .values import (
    Given,
    browser_origin,
    command,
    dump_format,
    field_name,
    filter_expression,
    flag,
    is_loopback,
    method,
    one_of,
    path,
    printable,
    rpc_url,
    seconds,
    several,
    size,
    token,
    usd,
    whole,
)

__all__ = [
    "FILE_KEYS",
    "OPTIONS",
    "Option",
    "Settings",
    "format_usd",
    "is_loopback",
    "read_settings",
]

T = TypeVar("T")
FILE_NAME = "x402.toml"
MAX_FILE = 1 << 20
"""Most bytes of x402.toml or of a token file."""
_TIMEOUTS = ("connect", "first_byte", "idle", "total")

_BY_KEY = {option.key: option for option in OPTIONS}
TABLES = ("network", "asset", "limit")
FILE_KEYS: tuple[str, ...] = (*(key for key in _BY_KEY if key != "config"), *TABLES)
"""The keys of x402.toml."""


@dataclass(frozen=True)
class Settings:
    """All settings. Amounts are millionths of a dollar, times are seconds."""

    networks: NetworkTable
    """The built-in networks and those of the configuration."""
    preference: tuple[Caip2, ...]
    """Networks in the order in which to pay; empty: the cheapest offer over everything that the wallets can pay."""
    max_request: int
    forward_auth: bool
    schemes: Literal["exact", "auto", "upto"]
    """How to pay where a gateway offers several ways."""
    gateway: bool
    """Whether Circle Gateway may be paid, with signatures that live for seven days."""
    max_validity: int
    """Most seconds that an EVM authorization is valid."""
    solana_rpc: tuple[str, ...] = field(repr=False)
    """In the order of trying. Out of the repr: such URLs often carry an API key."""
    rpc_timeout: float
    evm_key_file: Path | None
    svm_key_file: Path | None
    keystore: Path | None
    keystore_password_file: Path | None
    client_token: str | None = field(repr=False)
    forward_names: frozenset[bytes] = frozenset()
    """Headers and query parameters, in lower case, that are no credentials whatever they look like."""
    allow_origins: tuple[str, ...] = ()
    """Lower case, without a default port: compare with `Origin` as text."""
    budgets: tuple[Budget, ...] = ()
    limits: tuple[Limit, ...] = ()
    """For some models or paths; they tighten what holds for all."""
    dry_run: bool = False
    preauthorize: bool = False
    """Whether to send a payment with the first request if its challenge can be predicted."""
    repurchase: int = 1
    """How often one request may be paid again after a payment without a complete answer."""
    pay_methods: tuple[str, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE", "QUERY")
    """HTTP methods of requests that may be paid for."""
    ledger: LedgerPlace = Path("ledger.sqlite3")
    ledger_sync: bool = True
    """Whether a payment waits until its reservation is on the disk."""
    evm_rpc: tuple[tuple[Caip2, str], ...] = field(default=(), repr=False)
    """Network and URL, in the order of trying. Out of the repr as those of Solana."""
    reconcile: str = "background"
    """When the proxy looks payments up: `background`, `now` or `off`."""
    reconcile_rate: int = 300
    """Requests an hour to each RPC."""
    allow_pay_to: tuple[str, ...] = ()
    """Of the allow lists an empty one allows everything. EVM addresses are in lower case."""
    allow_networks: tuple[Caip2, ...] = ()
    allow_assets: tuple[str, ...] = ()
    """Symbols in upper case, or addresses (EVM: lower case)."""
    allow_hosts: tuple[str, ...] = ()
    """Upstream hosts, in lower case."""
    view_limit: int = 4 << 20
    """Bytes of an answer that are kept to be looked at."""
    evm_key_command: tuple[str, ...] = field(default=(), repr=False)
    """Program and arguments that print the EVM key; empty: none. Arguments may be telling: out of the repr."""
    svm_key_command: tuple[str, ...] = field(default=(), repr=False)
    keyring: str = ""
    """Service of the system's keyring that keys are looked for in; empty: none."""
    dump: Path | None = None
    """Folder that recordings go into; None: nothing is recorded."""
    dump_filter: str = ""
    """A filter expression of mitmproxy; empty: everything is recorded."""
    dump_formats: tuple[str, ...] = ("native",)
    """`native`, `har`, `mitm`."""
    file: Path | None = None
    """The x402.toml that was read."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    web_options: bool = False
    """Whether mitmweb may change options that expose the key or allow more spending."""
    max_body: int = 256 << 20
    """Most bytes of a request's body."""
    fast_path: bool = True
    """Whether slow functions of mitmproxy's are replaced while the addon is loaded."""
    drain: float = 60
    """For how long a stop waits for running answers."""
    warnings: tuple[str, ...] = ()
    """Sentences to show at the start."""


def read_settings(options: Mapping[str, str], environ: Mapping[str, str], *, cwd: Path, home: Path) -> Settings:
    """The settings from mitmproxy's `options` (names with the prefix; empty means not set), `environ` and x402.toml.

    Reads x402.toml and a client token file, nothing else: whether a key file can be used is the wallet's question.
    Raises SettingsError: with one line that names option, variable or file, key, value and what is allowed.
    """
    if unread := unread_variables(name for name, value in environ.items() if value.strip()):
        raise SettingsError(unread)
    file = _find_file(options, environ, cwd, home)
    document = {} if file is None else _read_file(file)
    sources = _Sources(options, environ, document, file, cwd, home)
    table = read_networks(str(file), document)
    warnings: list[str] = []
    nothing: tuple[Caip2, ...] = ()
    preference = sources.get("networks", several(_network_in(table), "networks"), nothing)
    allowed = sources.get("allow_networks", several(_network_in(table), "networks"), nothing)
    table = table.enabling((*preference, *allowed))
    return Settings(
        networks=table,
        preference=preference,
        max_request=sources.default("max_request", usd),
        forward_auth=sources.default("forward_auth", flag),
        forward_names=frozenset(sources.default("forward_names", several(field_name, "names"))),
        schemes=sources.default("schemes", _schemes),
        gateway=sources.default("gateway", flag),
        max_validity=sources.default("max_validity", whole(30, 86_400, "seconds")),
        solana_rpc=sources.default("solana_rpc", several(rpc_url, "URLs")),
        rpc_timeout=sources.default("rpc_timeout", seconds("0.1", "60")),
        evm_key_file=sources.get("evm_key_file", path, None),
        svm_key_file=sources.get("solana_key_file", path, None),
        keystore=sources.get("keystore", path, None),
        keystore_password_file=sources.get("keystore_password_file", path, None),
        evm_key_command=_key_command(sources, "evm_key_command"),
        svm_key_command=_key_command(sources, "solana_key_command"),
        keyring=sources.get("keyring", printable, ""),
        client_token=_client_token(sources),
        allow_origins=sources.get("allow_origins", several(browser_origin, "origins"), ()),
        budgets=sources.default("budget", budgets),
        limits=read_limits(str(file), document, cwd if file is None else file.parent, home),
        dry_run=sources.default("dry_run", flag),
        preauthorize=sources.default("preauthorize", flag),
        fast_path=sources.default("fast_path", flag),
        repurchase=sources.default("repurchase", whole(0, 10, "purchases")),
        pay_methods=sources.default("pay_methods", several(method, "methods")),
        ledger=_ledger(sources, warnings),
        ledger_sync=sources.default("ledger_sync", flag),
        allow_pay_to=sources.get("allow_pay_to", several(address, "addresses"), ()),
        allow_networks=allowed,
        allow_assets=sources.get("allow_assets", several(asset, "assets"), ()),
        allow_hosts=sources.get("allow_hosts", several(host, "hosts"), ()),
        reconcile=sources.default("reconcile", one_of("background", "now", "off")),
        reconcile_rate=sources.default("reconcile_rate", whole(1, 100_000, "requests an hour")),
        evm_rpc=sources.get("evm_rpc", several(_network_rpc(table), "NETWORK=URL"), ()),
        view_limit=sources.default("view_limit", size),
        dump=sources.get("dump", path, None),
        dump_filter=sources.get("dump_filter", filter_expression, ""),
        dump_formats=sources.default("dump_format", several(dump_format, "formats")),
        timeouts=Timeouts(**{name: sources.default(f"{name}_timeout", seconds("0.1", "86400")) for name in _TIMEOUTS}),
        web_options=sources.default("web_options", flag),
        max_body=sources.default("max_body", size),
        drain=sources.default("drain", seconds("0", "86400")),
        file=file,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _Sources:
    """Where a value may come from, first come first served."""

    options: Mapping[str, str]
    environ: Mapping[str, str]
    document: Mapping[str, Any]
    file: Path | None
    cwd: Path
    home: Path

    def levels(self, key: str) -> tuple[Given | None, Given | None, Given | None]:
        """What option, environment and file say about `key`. Empty text counts as unset."""
        option = _BY_KEY[key]
        in_option = self.options.get(option.name, "").strip()
        in_environ = self.environ.get(option.variable, "").strip() if option.variable else ""
        base = self.cwd if self.file is None else self.file.parent
        in_file = self.document.get(key, "")
        return (
            Given(option.name, in_option, self.cwd, self.home) if in_option else None,
            Given(f"environment: {option.variable}", in_environ, self.cwd, self.home) if in_environ else None,
            Given(f"{self.file}: {key}", in_file, base, self.home) if in_file != "" else None,
        )

    def first(self, key: str) -> Given | None:
        """The first value that is there."""
        return next((level for level in self.levels(key) if level is not None), None)

    def get(self, key: str, read: Callable[[Given], T], default: T) -> T:
        """The first value that is there, read; else `default`."""
        given = self.first(key)
        return default if given is None else read(given)

    def default(self, key: str, read: Callable[[Given], T]) -> T:
        """The first value that is there, read; else the option's own default."""
        option = _BY_KEY[key]
        return self.get(key, read, read(Given(option.name, option.otherwise, self.cwd, self.home)))


def _find_file(options: Mapping[str, str], environ: Mapping[str, str], cwd: Path, home: Path) -> Path | None:
    named = _Sources(options, environ, {}, None, cwd, home).get("config", path, None)
    if named is not None:
        return named
    config_home = _xdg(environ, "XDG_CONFIG_HOME", home / ".config")
    places = (cwd / FILE_NAME, config_home / "mitmproxy-x402" / FILE_NAME)
    return next(filter(_is_there, places), None)


def _is_there(place: Path) -> bool:
    try:
        place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise SettingsError(
            f"{place}: cannot be looked at: {error.strerror}; name the configuration file in x402_config"
        ) from None
    return True


def _key_command(sources: _Sources, key: str) -> tuple[str, ...]:
    """A command to run. Raises SettingsError, also if an x402.toml that nobody named, in the working folder, has it.

    Such a file may have come with somebody else's project, and entering a folder must not run programs that it names.
    """
    given = sources.first(key)
    if given is None:
        return ()
    in_file = given.where.startswith(f"{sources.file}: ")
    if in_file and sources.file == sources.cwd / FILE_NAME and sources.first("config") is None:
        raise given.wrong(
            "a command is not taken from an x402.toml in the working folder, which may be somebody else's: move it "
            "to ~/.config/mitmproxy-x402/x402.toml, or name that file with x402_config",
            show=False,
        )
    return command(given)


def _ledger(sources: _Sources, warnings: list[str]) -> LedgerPlace:
    given = sources.first("ledger")
    if given is None:
        return state_home(sources.environ, sources.home) / "mitmproxy-x402" / "ledger.sqlite3"
    place = ledger_place(given)
    warnings += ledger_warnings(given, place, sources.environ)
    return place


def state_home(environ: Mapping[str, str], home: Path) -> Path:
    """The folder for what programs keep of a user (XDG base directory specification)."""
    return _xdg(environ, "XDG_STATE_HOME", home / ".local" / "state")


def _xdg(environ: Mapping[str, str], variable: str, otherwise: Path) -> Path:
    given = Path(environ.get(variable, ""))
    return given if given.is_absolute() else otherwise  # the specification has relative paths ignored


def _read_text(file: Path, what: str) -> str:
    try:
        return read_file(file, MAX_FILE).decode()
    except Unfit as why:
        raise SettingsError(f"{what} {why}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{what} is not UTF-8 text") from None


def _read_file(file: Path) -> Mapping[str, Any]:
    text = _read_text(file, f"{file}: the configuration file")
    why = objection(file)
    if why is not None:
        raise SettingsError(f"the configuration file cannot be trusted: {why}")
    try:
        document = tomli.loads(text)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a plain ValueError
        raise SettingsError(f"{file}: not valid TOML: {error}") from None
    for key in document:
        if key not in FILE_KEYS:
            raise SettingsError(f"{file}: {unknown_key(key, FILE_KEYS)}")
    order = document.get("networks")
    if isinstance(order, list) and any(isinstance(item, dict) for item in order):
        raise SettingsError(f"{file}: networks: is the order to pay in; a new network is written as [[network]]")
    return document


def _schemes(given: Given) -> Literal["exact", "auto", "upto"]:
    if given.value == "exact" or given.value == "auto" or given.value == "upto":  # noqa: PLR1714  (for the types)
        return given.value
    raise given.wrong("expected exact, auto or upto")


def _network_in(table: NetworkTable) -> Callable[[Given], Caip2]:
    def read(given: Given) -> Caip2:
        names = [row.name for row in (*table, *table.waiting)]
        text = given.value if isinstance(given.value, str) else ""
        row = table.known(text)
        if row is None:
            near = nearest(text, names)
            hint = f"did you mean {near}? " if near else ""
            raise given.wrong(f"{hint}expected {', '.join(names)} or one's CAIP-2 name")
        return row.caip2

    return read


def _network_rpc(table: NetworkTable) -> Callable[[Given], tuple[Caip2, str]]:
    network = _network_in(table)

    def read(given: Given) -> tuple[Caip2, str]:
        name, equals, url = given.value.partition("=") if isinstance(given.value, str) else ("", "", "")
        if not equals or "/" in name:  # a URL without its network, whose query may hold a secret
            raise given.wrong("expected NETWORK=URL, as in base=https://mainnet.base.org", show=False)
        caip2 = network(Given(given.where, name.strip(), given.base, given.home))
        if not caip2.startswith("eip155:"):
            raise given.wrong(f"{name.strip()} is no EVM network; Solana RPCs belong in x402_solana_rpc", show=False)
        return caip2, rpc_url(Given(given.where, url.strip(), given.base, given.home))

    return read


def _client_token(sources: _Sources) -> str | None:
    for direct, in_file in zip(sources.levels("client_token"), sources.levels("client_token_file"), strict=True):
        if direct is not None and in_file is not None:
            raise in_file.wrong(f"{direct.where} is set as well; keep one", show=False)
        if direct is not None:
            if sources.file is not None and direct.where == f"{sources.file}: client_token":
                why = exposure(sources.file)
                if why is not None:
                    raise direct.wrong(f"a token is not taken from this file: {why}", show=False)
            return token(direct)
        if in_file is not None:
            file = path(in_file)
            text = _read_text(file, f"{in_file.where}: {file}")
            why = objection(file) or exposure(file)
            if why is not None:
                raise in_file.wrong(f"{file} is not used: {why}", show=False)
            first = (text.splitlines() or [""])[0].strip()
            return token(Given(f"{in_file.where}: {file}", first, sources.cwd, sources.home))
    return None
