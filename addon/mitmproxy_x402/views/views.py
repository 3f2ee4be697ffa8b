"""Shows a flow in mitmweb and mitmproxy: its body while it streams, its comment and its mark.

mitmproxy keeps nothing of an answer that is streamed. Where somebody can look, the first `x402_view_limit` bytes of it
are kept here and put into the flow: a few times a second while it streams, and at its end. Nothing of that touches what
the client gets; in a plain mitmdump there is nobody to look, and nothing is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader
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
"""The key in a flow's metadata under which stands how much of its body was kept, where that is not all."""
PAUSE = 0.3
"""Seconds between two looks at the streams that are open, at least."""
HELD = 0.5
"""Seconds for which the last chunk of a stream is held back from the screen."""
MAX_UNFOLDED = 16 << 20
"""Bytes that the part of a compressed body that is kept decodes to."""
SHARE = 20
"""A look is followed by a pause of at least so many times what it took: it costs a twentieth of a core at most."""
PATIENCE = 0.2
"""Seconds for which the end of an answer waits to be read, where mitmproxy then saves it with its comment."""
BODIES = 3
"""The flow_detail from which on mitmdump prints bodies."""


class Body:
    """The first `limit` bytes of what passes."""

    def __init__(self, limit: int, coding: str = "") -> None:
        """`coding`: the body's Content-Encoding. mitmproxy decodes what it is given without a bound, and at once."""
        self.total = 0
        """Bytes that have passed."""
        self._limit = limit
        self._decoder: Decoder | None = None
        self._unfolded = 0
        if needs_decoding(coding):
            with contextlib.suppress(Undecodable):
                self._decoder = Decoder(coding)
        self._kept = bytearray()
        self._shown = 0
        self._settled = 0  # what was kept before the last chunk came
        self._last = 0.0

    def receive(self, chunk: bytes) -> None:
        """Take the next chunk; an empty one marks the end."""
        if not chunk:
            return
        self._settled = len(self._kept)
        self._last = time.monotonic()
        self.total += len(chunk)
        room = self._limit - self._settled
        if room > 0 and self._unfolds_too_far(chunk):
            self._limit, room = self._settled, 0
        if room > 0:
            self._kept += chunk[:room] if len(chunk) > room else chunk

    def _unfolds_too_far(self, chunk: bytes) -> bool:
        """Whether the body up to `chunk`, the next of it, decodes to more than a view is given."""
        try:
            for part in self._decoder.feed(chunk) if self._decoder is not None else ():
                self._unfolded += len(part)
                if self._unfolded > MAX_UNFOLDED:
                    self._decoder = None
                    return True
        except UnfoldsTooFar:
            self._decoder = None
            return True
        except Undecodable:  # then mitmproxy shows it as it came
            self._decoder = None
        return False

    def show_news(self, flow: http.HTTPFlow) -> bool:
        """Put what has come into the flow; False where there is nothing new.

        A chunk that has just come is held back a moment. It may be the last, and mitmweb reads a body again only when
        it has changed: had it all of it before the end, it would not see that the answer is finished.
        """
        size = len(self._kept) if time.monotonic() - self._last > HELD else self._settled
        if size == self._shown:
            return False
        self._put(flow, size)
        return True

    def show_all(self, flow: http.HTTPFlow) -> None:
        """Put all of it into the flow, unless mitmproxy has done so itself (`store_streamed_bodies`)."""
        assert flow.response is not None
        there = flow.response.raw_content
        if there is None or len(there) != self.total:
            self._put(flow, len(self._kept))
        else:
            flow.metadata.pop(CUT, None)

    def _put(self, flow: http.HTTPFlow, size: int) -> None:
        assert flow.response is not None
        with memoryview(self._kept) as kept:
            flow.response.raw_content = bytes(kept[:size])  # not `content`, which would write a Content-Length
        self._shown = size
        if self.total > self._limit:
            flow.metadata[CUT] = f"cut at {comment.size(self._limit)} of {comment.size(self.total)}"


Waiting = Coroutine[None, None, None] | None
"""What a hook returns: mitmproxy waits for it before it asks the next addon."""

# Of the module: they outlive a script that is loaded again.
_open: WeakKeyDictionary[http.HTTPFlow, Body] = WeakKeyDictionary()
"""The bodies of streams that are not over."""
_said: WeakKeyDictionary[http.HTTPFlow, tuple[str, str]] = WeakKeyDictionary()
"""The comment and the mark that a flow has from us."""


class Views:
    """An addon of its own, that X402Addon brings along. `payer` gives what pays at the moment, or None."""

    name = "x402views"

    def __init__(self, payer: Callable[[], Payer | None]) -> None:
        self._payer = payer
        self._looks: bool | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._reader = ThreadPoolExecutor(1, "x402 views")

    def load(self, _: Loader) -> None:
        """Register the content views."""
        contentview.register()

    def configure(self, _: Iterable[str]) -> None:
        """Options have changed: ask anew whether somebody looks."""
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
        """Bring the bodies into the flows, and the flows to the screens, as long as streams are open."""
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
        if body is not None and flow.response is not None:
            body.show_all(flow)
        describe = functools.partial(_describe, flow, broken=broken)
        describe()
        refused = flow.metadata.get("x402.state") == "refused"  # the answer is our own
        if refused or flow.response is None or not flow.response.raw_content or not (_ui() or _saves()):
            return None
        task = asyncio.get_running_loop().create_task(self._read(flow, describe))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return _wait(task) if _saves() else None

    async def _read(self, flow: http.HTTPFlow, describe: Callable[..., None]) -> None:
        """What the answer says, for the comment: in a thread, since it may take a second."""
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
        for task in (*self._tasks, *([self._looking] if self._looking else [])):
            task.cancel()
        self._reader.shutdown(wait=False, cancel_futures=True)


async def _wait(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task], timeout=PATIENCE)


def _saves() -> bool:
    return bool(ctx.options.save_stream_file)


def _ui() -> bool:
    return ctx.master.addons.get("view") is not None


def somebody_looks() -> bool:
    """Whether there is a screen, or mitmdump saves flows or prints their bodies."""
    saves = any(getattr(ctx.options, name, None) for name in ("save_stream_file", "hardump"))
    return saves or _ui() or getattr(ctx.options, "flow_detail", 0) >= BODIES


def _update(flow: http.HTTPFlow) -> None:
    ctx.master.addons.trigger(UpdateHook([flow]))


def describe_anew(flow: http.HTTPFlow) -> None:
    """The chain has spoken on the payment of `flow`: say so at the head of its comment, and show it."""
    before, mark = _said.get(flow, ("", ""))
    if flow.comment == before and before:
        _, dot, rest = before.partition(" · ")
        flow.comment = comment.payment(flow.metadata) + dot + rest
    if flow.marked in ("", mark):
        flow.marked = comment.mark(flow.metadata)
    _said[flow] = (flow.comment, flow.marked)
    _update(flow)


def _describe(flow: http.HTTPFlow, *, reading: Reading | None = None, broken: bool = False) -> None:
    """Comment and mark of a flow, unless they are the user's own."""
    line = comment.of(flow, reading=reading, broken=broken)
    mark = comment.mark(flow.metadata)
    before = _said.get(flow, ("", ""))
    if flow.comment in ("", before[0]):
        flow.comment = line
    if flow.marked in ("", before[1]):
        flow.marked = mark
    _said[flow] = (line, mark)
