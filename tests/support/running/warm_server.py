"""The process off which `warm` forks: it imports what all proxies import; on request, a child also the package itself.

`warm_server.py FILE_NUMBER`: the number is that of the socket on which requests come.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import termios
import threading
from pathlib import Path
from typing import NoReturn

_IMPORTS = (
    "mitmproxy.tools.main",
    "mitmproxy.tools.dump",
    "mitmproxy.addons",
    "mitmproxy.flowfilter",
    "mitmproxy.proxy.layers.http",
    "eth_account",
    "eth_account.messages",
    "solders.transaction",
    "certifi",
    "brotli",
    "sqlite3",
    "concurrent.futures.thread",
)
_OURS = (
    "mitmproxy_x402.addon",
    "mitmproxy_x402.check.check",
    "mitmproxy_x402.cli.main",
    "mitmproxy_x402.cli.sandbox",
    "mitmproxy_x402.cli.wallet.verb",
)


def _import(*names: str) -> None:
    for name in names:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child that collects garbage would copy all of this


def _serve(control: socket.socket) -> list[str]:
    """Fork a child for each request until the other end is closed; returns, in each child, its command.

    With a request for none, the child imports the package and serves the socket that came with it.
    """
    poll = select.poll()
    poll.register(control, select.POLLIN)
    children: dict[int, tuple[int, int]] = {}  # of a handle for its end: its number and where its end is told
    while True:
        for ready, _ in poll.poll():
            if ready != control.fileno():
                poll.unregister(ready)
                os.close(ready)
                pid, told = children.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(told, str(code).encode())
                os.close(told)
                continue
            request, fds, _, _ = socket.recv_fds(control, 1_000_000, 4)
            if not request:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                for other, (_, told) in children.items():
                    os.close(other)
                    os.close(told)
                control.close()
                wanted = json.loads(request)
                if "command" in wanted:
                    return _become(wanted, *fds)
                os.close(fds[0])
                _import(*_OURS)
                return _serve(socket.socket(fileno=fds[1]))
            handle = os.pidfd_open(pid)
            told, *its = fds
            children[handle] = pid, told
            poll.register(handle, select.POLLIN)
            for fd in its:
                os.close(fd)
            control.send(str(pid).encode())


def _become(request: dict[str, object], told: int, *streams: int) -> list[str]:
    """Take on `streams` as input, output and errors, the folder and the environment."""
    os.close(told)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    if os.isatty(0):
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environ"])  # type: ignore[call-overload]
    return request["command"]  # type: ignore[return-value]


def _run(command: list[str]) -> int:
    """Run it as Python does; its exit code."""
    try:
        if command[:3] == [sys.executable, "-I", "-c"]:
            sys.argv = ["-c", *command[4:]]
            exec(command[3], {"__name__": "__main__"})
        elif command[0] == sys.executable:  # -I -m MODULE
            sys.argv = command[3:]
            runpy.run_module(command[3], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):  # Python prints it
            raise
        return end.code or 0
    return 0


def _end(code: int) -> NoReturn:
    """End as Python does, but free no memory: that would copy, one by one, what is shared with the parent."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(code)  # Python says what is wrong
    os._exit(code & 0xFF)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who stops the tests stops the proxies, and this with its socket
    sys.path.pop(0)  # the folder of this file
    _import(*_IMPORTS)
    _end(_run(_serve(socket.socket(fileno=int(sys.argv[1])))))
