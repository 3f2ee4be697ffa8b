"""The process off which `warm` forks: it imports what all proxies import, and nothing of this project."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path

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


def _serve(control: socket.socket) -> list[str]:
    """Fork a child for each request until the other end is closed; returns, in each child, its command."""
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
            request, fds, _, _ = socket.recv_fds(control, 1_000_000, 2)
            if not request:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                for other, (_, told) in children.items():
                    os.close(other)
                    os.close(told)
                control.close()
                return _become(json.loads(request), *fds)
            handle = os.pidfd_open(pid)
            children[handle] = pid, fds[1]
            poll.register(handle, select.POLLIN)
            os.close(fds[0])
            control.send(str(pid).encode())


def _become(request: dict[str, object], out: int, told: int) -> list[str]:
    os.close(told)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(str(request["folder"]))
    os.environ.clear()
    os.environ.update(request["environ"])  # type: ignore[call-overload]
    return request["command"]  # type: ignore[return-value]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who stops the tests stops the proxies, and this with its socket
    for _name in _IMPORTS:
        importlib.import_module(_name)
    sys.argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
