"""Replaces mitmproxy's defaults that are wrong for a paying proxy, where the user has not chosen them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mitmproxy import exceptions, optmanager
from mitmproxy.options import Options

from ...settings.values import is_loopback
from ..internals import RegularMode, ReverseMode

own_process = False
"""Whether the package itself started this process, and not `mitmdump -s`: then it may arrange mitmproxy's inside."""


SETTLE_SECONDS = 1.0
"""Between two looks for a moment in which nobody is served."""


def settle(busy: Callable[[], bool]) -> None:
    """Take what was loaded at the start out of the garbage collector's rounds, where the process is ours.

    Else each full round looks at all of mitmproxy again, while the event loop waits. Done when `busy` says no: what is
    taken out stays for ever, and so would a request that is under way.
    """
    if not own_process:
        return
    if busy():
        asyncio.get_running_loop().call_later(SETTLE_SECONDS, settle, busy)
        return
    gc.collect(1)  # what those before have left; a round through everything would keep the next one waiting
    gc.freeze()


def end_quietly() -> None:
    """Keep Python from listing what the end cuts off, where the process is ours."""
    if own_process:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


BETTER: Mapping[str, object] = {
    "listen_host": "127.0.0.1",  # mitmproxy listens on every interface, and whoever reaches the port can spend
    "connection_strategy": "lazy",  # eager answers an unreachable upstream with a bare end of file
    "keep_alt_svc_header": True,  # otherwise a header of the answer is changed
    "web_columns": ["icon", "path", "method", "status", "size", "time", "comment"],  # what was paid, in mitmweb
}


OWN: Mapping[str, object] = {
    "onboarding": False,  # a page with mitmproxy's certificate, which nobody needs who reverses to a gateway
}
"""Besides, where the process is ours."""


def improve(options: Options, arguments: Sequence[str]) -> dict[str, object]:
    """Set each option of BETTER that neither the command line (`arguments`) nor mitmproxy's config file sets.

    Of OWN, too, where the process is ours. Returns what was set.
    """
    chosen = _chosen(options, arguments)
    better = {
        name: value
        for name, value in {**BETTER, **(OWN if own_process else {})}.items()
        if name in options and name not in chosen and not options.has_changed(name)
    }
    options.update(**better)
    return better


def take_unusable(options: Options, names: Container[str]) -> list[str]:
    """Take out of mitmproxy's deferred options what it could not convert: it would drop the whole script over it.

    Returns a sentence for each. `names` are our options, all of them text.
    """
    complaints = []
    for name, value in list(options.deferred.items()):
        given = getattr(value, "val", value)  # from the command line: a list of texts; from a file: whatever it is
        one = given[0] if isinstance(given, list) and len(given) == 1 else given
        if name in names and not isinstance(one, str):
            how = f"was given {len(given)} times" if isinstance(given, list) and given else "was given no value"
            what = how if isinstance(given, list) else f"is {type(given).__name__} {given!r:.40} in mitmproxy's file"
            complaints.append(f"{name} {what}; expected one text, as in {name}=VALUE (in a file: in quotes).")
            del options.deferred[name]
    return complaints


def hold_port(proxyserver: Any) -> bool:
    """Stop mitmproxy from opening its port where it was told to before `listen_host` was set. True: `open_port` is due.

    From Python 3.12 on it begins with that before it loads a script. It has not accepted a connection yet; mostly there
    is no socket yet, and if there is one, it is closed. False where nothing is being opened, or it cannot be stopped;
    then `move_to` comes after it.
    """
    opening = [task for task in asyncio.all_tasks() if task.get_name() == "setup_servers" and not task.done()]
    instances = getattr(proxyserver.servers, "_instances", {})
    if not opening or not all(type(mode) in (ReverseMode, RegularMode) for mode in instances):
        return False
    for server in (server for task in asyncio.all_tasks() for server in _half_open(task)):
        server.close()
    for task in opening:
        task.cancel()
    instances.clear()
    return True


def _half_open(task: asyncio.Task[Any]) -> Iterator[asyncio.Server]:
    """The server that mitmproxy's `task` has made and not got hold of: `create_server` waits a moment at its end."""
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
    """Open the port that `hold_port` has held back. Ends the process where that fails, as mitmproxy does."""
    if not await proxyserver.setup_servers():
        asyncio.get_running_loop().call_soon(sys.exit, 1)  # a task would complain of it


async def move_to(options: Options, addresses: Callable[[], list[tuple[str, int]]]) -> None:
    """Close the port and open it again where `listen_host` says now.

    For a script that is loaded into a mitmproxy which runs already. `addresses` tells where it listens.
    """
    options.update(server=False)
    while addresses():  # noqa: ASYNC110  # mitmproxy tells nobody
        await asyncio.sleep(0.01)
    options.update(server=True)


def _chosen(options: Options, arguments: Sequence[str]) -> set[str]:
    """Names of options that the user set, be it to mitmproxy's own default."""
    chosen = {
        argument.removeprefix("--set").lstrip("=").partition("=")[0].removeprefix("--").replace("-", "_")
        for argument in arguments
    }
    return chosen | file_options(options.confdir).keys()


def file_options(confdir: str) -> dict[str, object]:
    """What mitmproxy's own configuration files in `confdir` set; one that it cannot read it complains of itself."""
    found: dict[str, object] = {}
    for name in ("config.yaml", "config.yml"):
        with contextlib.suppress(OSError, UnicodeDecodeError, exceptions.OptionsError):
            found.update(optmanager.parse((Path(confdir).expanduser() / name).read_text(encoding="utf8")))
    return found


def beyond_loopback(addresses: Sequence[tuple[str, int]]) -> bool:
    """Whether other machines can reach one of `addresses`."""
    return any(not is_loopback(address[0]) for address in addresses)
