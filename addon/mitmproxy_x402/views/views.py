"""Shows a flow in mitmweb and mitmproxy: its body while it streams, its comment and its mark.

mitmproxy keeps nothing of a streamed answer. If there is a screen, or mitmdump saves or prints bodies, the first
`x402_view_limit` bytes are kept here and put into the flow, a few times a second while the answer streams and at its
end. What the client gets does not change. In a plain mitmdump nothing is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http, tcp
from mitmproxy.addonmanager import Loader
from mitmproxy.flow import Flow
from mitmproxy.hooks import UpdateHook

from ..errors import Undecodable
from ..llm.reading import Reading
from ..payment.payer import Payer
from ..protocol.codings import Decoder, UnfoldsTooFar, needs_decoding
from ..proxy.body_observers import tap
from ..proxy.exchange import exchange_of
from . import comment, contentview, flow_metadata
from .reading import answers, read

CUT = "x402.cut"
"""The key in a flow's metadata that says how much of its body was kept; absent: all of it."""
PAUSE = 0.3
"""Least seconds between two updates of the flows of open streams."""
HELD = 0.5
"""Seconds for which the last chunk of a stream is held back from the screen."""
LIVE = 4 << 20
"""Most bytes of a body that are shown while it streams. More than that takes the event loop milliseconds to copy, a few
times a second, so it is copied once, at the end, in a thread."""
_BLOCK = 256 << 10
"""Bytes of a part of a kept body. Python lets other threads run while it joins parts."""
MAX_UNFOLDED = 16 << 20
"""Most decoded bytes of the part of a compressed body that is kept."""
SHARE = 20
"""Pause after an update, as a multiple of the time it took: updates take at most a twentieth of a core."""
PATIENCE = 0.2
"""Most seconds that the end of an answer waits for its comment, if mitmproxy then saves the flow."""
PATIENCE_OF_PRINTS = 1.0
"""The same if mitmdump then prints the body, which it does once."""
BODIES = 3
"""The flow_detail from which on mitmdump prints bodies."""


class Body:
    """Keeps the first `limit` bytes of an answer's body."""

    def __init__(self, limit: int, coding: str = "") -> None:
        """`coding` is the Content-Encoding, needed to bound what is kept: mitmproxy decodes it without a bound."""
        self.total = 0
        """Bytes received so far."""
        self._limit = limit
        self._decoder: Decoder | None = None
        self._unfolded = 0
        if needs_decoding(coding):
            with contextlib.suppress(Undecodable):
                self._decoder = Decoder(coding)
        self._blocks: list[bytes] = []
        self._sealed = 0  # bytes in these
        self._rest = bytearray()  # what follows them
        self._shown = 0
        self._settled = 0  # bytes kept before the last chunk; no block ends after them
        self._last = 0.0

    def receive(self, chunk: bytes) -> None:
        """Take the next chunk; an empty one marks the end."""
        if not chunk:
            return
        if len(self._rest) >= _BLOCK:
            self._blocks.append(bytes(self._rest))
            self._sealed += len(self._rest)
            self._rest.clear()
        self._settled = self._size
        self._last = time.monotonic()
        self.total += len(chunk)
        room = self._limit - self._settled
        if room > 0 and self._unfolds_too_far(chunk):
            self._limit, room = self._settled, 0
        if room > 0:
            self._rest += chunk[:room] if len(chunk) > room else chunk

    @property
    def _size(self) -> int:
        """Bytes kept so far."""
        return self._sealed + len(self._rest)

    @property
    def is_long(self) -> bool:
        """Whether so much is kept that `kept` is to be called in a thread."""
        return self._size > LIVE

    def kept(self, size: int | None = None) -> bytes:
        """The first `size` bytes, by default all that were kept. `size` is not less than before the last chunk."""
        rest = self._rest if size is None else self._rest[: size - self._sealed]
        return b"".join([*self._blocks, bytes(rest)])

    def _unfolds_too_far(self, chunk: bytes) -> bool:
        """Whether the body up to and including `chunk` decodes to more than MAX_UNFOLDED bytes."""
        try:
            for part in self._decoder.feed(chunk) if self._decoder is not None else ():
                self._unfolded += len(part)
                if self._unfolded > MAX_UNFOLDED:
                    self._decoder = None
                    return True
        except UnfoldsTooFar:
            self._decoder = None
            return True
        except Undecodable:  # then mitmproxy shows the encoded bytes
            self._decoder = None
        return False

    def show_news(self, flow: http.HTTPFlow) -> bool:
        """Put the bytes received so far into the flow. Returns whether there were new ones.

        Beyond LIVE bytes, none are put into it before the end. A new chunk is held back for HELD seconds. It may be the
        last, and mitmweb reads a body again only if it has changed: with the whole body before the end it would not
        notice that the answer is finished.
        """
        size = self._size if time.monotonic() - self._last > HELD else self._settled
        if size == self._shown or size > LIVE:
            return False
        self._put(flow, self.kept(size))
        return True

    def show_all(self, flow: http.HTTPFlow, kept: bytes | None = None) -> None:
        """Put all bytes kept into the flow, unless mitmproxy has stored the body itself (`store_streamed_bodies`).

        `kept` is what `kept` returned, where a thread called it.
        """
        assert flow.response is not None
        there = flow.response.raw_content
        if there is None or len(there) != self.total:
            self._put(flow, self.kept() if kept is None else kept)
        else:
            flow.metadata.pop(CUT, None)

    def _put(self, flow: http.HTTPFlow, kept: bytes) -> None:
        assert flow.response is not None
        flow.response.raw_content = kept  # not `content`, which would write a Content-Length
        self._shown = len(kept)
        if self.total > self._limit:
            flow.metadata[CUT] = f"cut at {comment.size(self._limit)} of {comment.size(self.total)}"


Waiting = Coroutine[None, None, None] | None
"""The result of a hook; mitmproxy awaits it before it calls the next addon."""

# Module globals, so that they survive a reload of the script.
_open: WeakKeyDictionary[http.HTTPFlow, Body] = WeakKeyDictionary()
"""The bodies of open streams."""
_messages: WeakKeyDictionary[Flow, int] = WeakKeyDictionary()
"""Bytes that the kept messages take, by flow."""
OF_A_MESSAGE = 256
"""Bytes that an empty message takes."""
_said: WeakKeyDictionary[http.HTTPFlow, tuple[str, str]] = WeakKeyDictionary()
"""The comment and the mark that we have set, by flow."""


class Views:
    """The mitmproxy addon that updates flows, a child of X402Addon. `payer` returns the current payer, or None."""

    name = "x402views"

    def __init__(self, payer: Callable[[], Payer | None]) -> None:
        self._payer = payer
        self._looks: bool | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._is_done = False  # the end of the proxy interrupts answers after `done`
        self._reader = ThreadPoolExecutor(1, "x402 views")

    def load(self, _: Loader) -> None:
        """Register the content views."""
        contentview.register()

    def configure(self, _: Iterable[str]) -> None:
        """Called when options have changed: check again whether anybody can look at flows."""
        self._looks = None

    def _somebody_looks(self) -> bool:
        if self._looks is None:
            self._looks = somebody_looks()
        return self._looks

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Called with the answer's head: keep the body as it streams, and show what was paid."""
        payer = self._payer()
        if exchange_of(flow) is None or flow.response is None or payer is None or not self._somebody_looks():
            return
        limit = payer.settings.view_limit
        if flow.response.stream and limit:
            body = Body(limit, flow.response.headers.get("content-encoding", ""))
            tap(flow, body.receive)
            _open[flow] = body
            if _ui() and (self._looking is None or self._looking.done()):
                self._looking = asyncio.get_running_loop().create_task(self._look())
        _describe(flow)
        _update(flow)

    async def _look(self) -> None:
        """Update the flows with their bodies, and the screens with the flows, while streams are open."""
        pause = PAUSE
        while _open:
            await asyncio.sleep(pause)
            took = 0.0
            for flow, body in list(_open.items()):
                began = time.perf_counter()
                if _open.get(flow) is body and flow.response is not None and body.show_news(flow):
                    _update(flow)
                    took += time.perf_counter() - began
                    await asyncio.sleep(0)
            pause = max(PAUSE, took * SHARE)

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        """Bound the messages that mitmproxy keeps of a WebSocket."""
        if flow.websocket is not None and exchange_of(flow) is not None:
            self._forget(flow, flow.websocket.messages)

    def tcp_message(self, flow: tcp.TCPFlow) -> None:
        """Bound what mitmproxy keeps of another protocol that an answer has switched to."""
        if flow.client_conn.proxy_mode.full_spec.startswith("reverse:http"):
            self._forget(flow, flow.messages)

    def _forget(self, flow: Flow, messages: list[Any]) -> None:
        """Drop all messages but the last when those of `flow` take more than is kept for looking at."""
        payer = self._payer()
        most = payer.settings.view_limit if payer is not None and self._somebody_looks() else 0
        last = len(messages[-1].content) + OF_A_MESSAGE
        size = _messages.get(flow, 0) + last
        if size > most:
            del messages[:-1]
            size = last
        _messages[flow] = size

    def response(self, flow: http.HTTPFlow) -> Waiting:
        """Called at the end of the answer: read the whole body for the comment."""
        return self._end(flow, broken=False)

    def error(self, flow: http.HTTPFlow) -> Waiting:
        """Called when the answer breaks off: what arrived of its body stays in the flow."""
        return self._end(flow, broken=True)

    def _end(self, flow: http.HTTPFlow, *, broken: bool) -> Waiting:
        body = _open.pop(flow, None)
        if exchange_of(flow) is None:
            flow_metadata.loaded(flow)
            return None
        if not self._somebody_looks():
            return None
        if body is None or flow.response is None:
            return self._ended(flow, broken=broken)
        if body.is_long:
            return self._end_of_long(flow, body, broken=broken)
        body.show_all(flow)
        return self._ended(flow, broken=broken)

    async def _end_of_long(self, flow: http.HTTPFlow, body: Body, *, broken: bool) -> None:
        body.show_all(flow, await asyncio.to_thread(body.kept))
        waiting = self._ended(flow, broken=broken)
        if waiting is not None:
            await waiting

    def _ended(self, flow: http.HTTPFlow, *, broken: bool) -> Waiting:
        describe = functools.partial(_describe, flow, broken=broken)
        describe()
        refused = flow.metadata.get("x402.state") == "refused"  # the answer is our own
        is_empty = flow.response is None or not flow.response.raw_content
        if self._is_done or refused or is_empty or not (_ui() or _saves() or _prints()):
            return None
        task = asyncio.get_running_loop().create_task(self._read(flow, describe))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        patience = PATIENCE_OF_PRINTS if _prints() else PATIENCE if _saves() else 0
        return _wait(task, patience) if patience else None

    async def _read(self, flow: http.HTTPFlow, describe: Callable[..., None]) -> None:
        """Read the answer in a thread, since it may take a second, and call `describe` with the result."""
        assert flow.response is not None
        headers, raw = flow.response.headers, flow.response.raw_content or b""
        kind, coding = headers.get("content-type", ""), headers.get("content-encoding", "")
        in_thread = asyncio.get_running_loop().run_in_executor(self._reader, read, kind, coding, raw, flow.request)
        reading, text, data = await in_thread
        if reading is not None:
            answers.remember(data, text)
            describe(reading=reading)
            _update(flow)

    def done(self) -> None:
        """Called when the proxy stops or the script is reloaded: end all tasks."""
        self._is_done = True
        for task in (*self._tasks, *([self._looking] if self._looking else [])):
            task.cancel()
        self._reader.shutdown(wait=False, cancel_futures=True)


async def _wait(task: asyncio.Task[None], patience: float) -> None:
    await asyncio.wait([task], timeout=patience)


def _saves() -> bool:
    return bool(ctx.options.save_stream_file)


def _prints() -> bool:
    """Whether mitmdump prints bodies."""
    return bool(getattr(ctx.options, "flow_detail", 0) >= BODIES) and not _ui()


def _ui() -> bool:
    return ctx.master.addons.get("view") is not None


def somebody_looks() -> bool:
    """Whether mitmproxy has a screen, or mitmdump saves flows or prints bodies."""
    saves = any(getattr(ctx.options, name, None) for name in ("save_stream_file", "hardump"))
    return saves or _ui() or _prints()


def _update(flow: http.HTTPFlow) -> None:
    ctx.master.addons.trigger(UpdateHook([flow]))


def describe_anew(flow: http.HTTPFlow) -> None:
    """Update the comment of `flow` after the chain has decided on its payment, and show it."""
    before, mark = _said.get(flow, ("", ""))
    if flow.comment == before and before:
        _, dot, rest = before.partition(" · ")
        flow.comment = comment.payment(flow.metadata) + dot + rest
    if flow.marked in ("", mark):
        flow.marked = comment.mark(flow.metadata)
    _said[flow] = (flow.comment, flow.marked)
    _update(flow)


def _describe(flow: http.HTTPFlow, *, reading: Reading | None = None, broken: bool = False) -> None:
    """Set comment and mark of a flow, unless the user has set them."""
    line = comment.of(flow, reading=reading, broken=broken)
    mark = comment.mark(flow.metadata)
    before = _said.get(flow, ("", ""))
    if flow.comment in ("", before[0]):
        flow.comment = line
    if flow.marked in ("", before[1]):
        flow.marked = mark
    _said[flow] = (line, mark)
