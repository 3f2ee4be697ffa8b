"""Replaces those defaults of mitmproxy that are wrong for a paying proxy, unless the user has set them."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import logging
import sys
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mitmproxy import exceptions, optmanager
from mitmproxy.options import Options
from mitmproxy.utils import signals

from ...settings.values import is_loopback

own_process = False
"""Whether our command line started this process, not `mitmdump -s`: then process-wide settings may be changed."""


SETTLE_SECONDS = 1.0
"""Seconds between two checks whether no request is under way."""


_is_frozen = False


def settle(busy: Callable[[], bool], is_wanted: Callable[[], bool]) -> None:
    """Freeze the objects loaded at start-up (`gc.freeze`), if `is_wanted` then returns True.

    Otherwise each full collection scans all of mitmproxy again while the event loop waits: 3 % of the CPU time of paid
    requests. Waits until `busy` returns False: frozen objects are never collected, and a request under way would be
    frozen, too.
    """
    global _is_frozen  # noqa: PLW0603  # as the collector's state that it describes
    if not is_wanted():
        return
    if busy():
        asyncio.get_running_loop().call_later(SETTLE_SECONDS, settle, busy, is_wanted)
        return
    gc.collect(1)  # garbage of earlier requests; a full collection would delay the next request
    gc.freeze()
    _is_frozen = True


def thaw() -> None:
    """Undo `settle`."""
    global _is_frozen  # noqa: PLW0603  # as above
    if _is_frozen:
        gc.unfreeze()
        _is_frozen = False


def end_quietly() -> None:
    """Skip garbage collection at exit, and silence asyncio's reports of cancelled tasks.

    Python's last collections take a third of a second of processor time. Python up to 3.11 reports each cancelled
    client task as an error. Warnings of tasks that had not begun are silenced only if the process is ours.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    logging.getLogger("asyncio").addFilter(_is_no_cancellation)
    if own_process:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


BETTER: Mapping[str, object] = {
    "listen_host": "127.0.0.1",  # mitmproxy listens on every interface, and anyone who reaches the port can spend
    "connection_strategy": "lazy",  # `eager` shows an unreachable upstream as a closed connection, without an answer
    "keep_alt_svc_header": True,  # otherwise a header of the answer is changed
    "web_columns": ["icon", "path", "method", "status", "size", "time", "comment"],  # `comment` shows what was paid
}


OWN: Mapping[str, object] = {
    "onboarding": False,  # the page with mitmproxy's certificate, which a reverse proxy does not need
}
"""Further defaults, if the process is ours."""


def improve(options: Options, arguments: Sequence[str]) -> dict[str, object]:
    """Set each option of BETTER, and of OWN if the process is ours, that the user has not set.

    The user sets options by the command line (`arguments`) or mitmproxy's config file. Returns what was set.
    """
    chosen = _chosen(options, arguments)
    better = {
        name: value
        for name, value in {**BETTER, **(OWN if own_process else {})}.items()
        if name in options and name not in chosen and not options.has_changed(name)
    }
    options.update(**better)
    return better


@contextlib.contextmanager
def announced_together(options: optmanager.OptManager) -> Iterator[None]:
    """Tell mitmproxy's addons of all options that are declared inside once, at the end.

    mitmproxy asks each of its forty addons about each option: a tenth of the time of a start for ours.
    """
    added: set[str] = set()

    def collect(updated: set[str]) -> None:
        added.update(updated)

    changed, collecting = options.changed, signals.SyncSignal(collect)
    collecting.connect(collect)
    attributes = vars(options)  # `options` takes what is assigned to it for an option
    if attributes.get("changed") is not changed:
        yield
        return
    attributes["changed"] = collecting
    try:
        yield
    finally:
        attributes["changed"] = changed
        if added:
            changed.send(updated=added)


def take_unusable(options: Options, names: Container[str]) -> list[str]:
    """Remove those deferred options that mitmproxy cannot convert: it would drop the whole script for one of them.

    Returns a sentence for each. `names` are our options, all of type text.
    """
    complaints = []
    for name, value in list(options.deferred.items()):
        given = getattr(value, "val", value)  # from the command line: a list of texts; from a file: any type
        one = given[0] if isinstance(given, list) and len(given) == 1 else given
        if name in names and not isinstance(one, str):
            how = f"was given {len(given)} times" if isinstance(given, list) and given else "was given no value"
            what = how if isinstance(given, list) else f"is {type(given).__name__} {given!r:.40} in mitmproxy's file"
            complaints.append(f"{name} {what}; expected one text, as in {name}=VALUE (in a file: in quotes).")
            del options.deferred[name]
    return complaints


def unclaimed(options: Options) -> tuple[list[str], list[str]]:
    """Names that no addon has declared as an option: of the command line, and of mitmproxy's configuration files."""
    typed = [name for name, value in options.deferred.items() if hasattr(value, "val")]
    return typed, [name for name in options.deferred if name not in typed]


_STOPPABLE = ("dns", "regular", "reverse", "socks5", "transparent", "upstream")
"""Names of the modes that do no more than open sockets when they start."""


def hold_port(proxyserver: Any) -> bool:
    """Stop mitmproxy from opening its port before `listen_host` is set. Returns whether `open_port` has to be called.

    On Python 3.12 and later mitmproxy begins to open the port before it loads a script. It has not accepted a
    connection by then; usually there is no socket yet, and one that exists is closed. False: nothing is being opened,
    or it cannot be stopped; then call `move_to` later.
    """
    opening = [task for task in asyncio.all_tasks() if task.get_name() == "setup_servers" and not task.done()]
    instances = getattr(proxyserver.servers, "_instances", {})
    if not opening or not all(mode.type_name in _STOPPABLE for mode in instances):
        return False
    for server in (server for task in asyncio.all_tasks() for server in _half_open(task)):
        server.close()
    for task in opening:
        task.cancel()
    instances.clear()
    return True


def _half_open(task: asyncio.Task[Any]) -> Iterator[asyncio.Server]:
    """The server that mitmproxy's `task` has created but not received yet: `create_server` yields once at its end."""
    coroutine: Any = task.get_coro()
    if not getattr(coroutine, "__qualname__", "").startswith("ServerInstance."):
        return
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        server = None if frame is None else frame.f_locals.get("server")
        if isinstance(server, asyncio.Server):
            yield server
        coroutine = getattr(coroutine, "cr_await", None)


async def open_port(proxyserver: Any) -> None:
    """Open the port that `hold_port` has held back. If that fails, the process ends, as mitmproxy's does."""
    if not await proxyserver.setup_servers():
        asyncio.get_running_loop().call_soon(sys.exit, 1)  # in a task the exit would be reported as an error


async def move_to(options: Options, addresses: Callable[[], list[tuple[str, int]]]) -> None:
    """Close the port and open it again at the current `listen_host`.

    For a script that is loaded into a running mitmproxy. `addresses` returns where it listens.
    """
    options.update(server=False)
    while addresses():  # noqa: ASYNC110  # mitmproxy tells nobody
        await asyncio.sleep(0.01)
    options.update(server=True)


def _chosen(options: Options, arguments: Sequence[str]) -> set[str]:
    """Names of the options that the user has set, even to mitmproxy's own default."""
    chosen = {
        argument.removeprefix("--set").lstrip("=").partition("=")[0].removeprefix("--").replace("-", "_")
        for argument in arguments
    }
    return chosen | file_options(options.confdir).keys()


def file_options(confdir: str) -> dict[str, object]:
    """The options that mitmproxy's configuration files in `confdir` set; mitmproxy reports an unreadable one."""
    found: dict[str, object] = {}
    for name in ("config.yaml", "config.yml"):
        with contextlib.suppress(OSError, UnicodeDecodeError, exceptions.OptionsError):
            found.update(optmanager.parse((Path(confdir).expanduser() / name).read_text(encoding="utf8")))
    return found


def beyond_loopback(proxyserver: Any) -> bool:
    """Whether other machines can reach a port whose mode names no address, so that `listen_host` was to decide it."""
    return any(
        server.mode.custom_listen_host is None and not is_loopback(address[0])
        for server in proxyserver.servers
        for address in server.listen_addrs
    )
