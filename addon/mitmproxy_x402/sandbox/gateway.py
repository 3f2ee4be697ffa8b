"""Runs the sandbox as a server on loopback, and gives access to what it received, sent and settled."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from ..errors import SettingsError
from ..protocol.networks import Network
from .chains.evm_ledger import EvmLedger
from .chains.interface import Chain
from .config import SandboxConfig
from .counter import Counter
from .payments.pricing import Rates
from .records import Kept, ReceivedPayment, ReceivedRequest, Sent
from .wire import Exchange, Listener, server_tls

if TYPE_CHECKING:
    from .chains.svm_chain import SvmChain


_BACKLOG = 1024


class Sandbox:
    """A gateway that charges play money.

    `start()` listens on the running asyncio loop, `stop()` ends it; `async with` does both, and `run_in_thread()` is
    for programs without a loop. What happened is in `requests`, `payments` and `sent`, which may be read any time.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig()
        keep = self.config.keep
        self.requests: Kept[ReceivedRequest] = Kept(keep)
        """Every request, paid or not, in the order in which they were complete."""
        self.payments: Kept[ReceivedPayment] = Kept(keep)
        """Every payment that passed verification, once, however often it was sent."""
        self.sent: OrderedDict[str, Sent] = OrderedDict()
        """Every answer, by request id."""
        self.chains: dict[str, Chain] = {row.caip2: _chain(row, self.config) for row in self.config.offered}
        self._listener: Listener | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """Where it listens, without a path. Raises SettingsError if it has not been started."""
        if not self._url:
            raise SettingsError("The sandbox is not started; call start() first.")
        return self._url

    @property
    def connections(self) -> int:
        """Connections accepted so far."""
        return self._listener.connections if self._listener is not None else 0

    @property
    def settled(self) -> list[ReceivedPayment]:
        """The payments whose money moved."""
        return [payment for payment in self.payments if payment.state == "settled"]

    def start(self) -> None:
        """Listen. Raises OSError when the port is taken or the certificate unreadable."""
        config = self.config
        tls = server_tls(config.certfile, config.keyfile) if config.certfile and config.keyfile else None
        self._listener = Listener(self._serve, self._remember, tls)
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listening = socket.create_server((config.host, config.port), family=family, backlog=_BACKLOG)
        listening.setblocking(False)
        self._listener.server.add_sockets([listening])
        host = f"[{config.host}]" if ":" in config.host else config.host
        self._url = f"{'https' if tls else 'http'}://{host}:{listening.getsockname()[1]}"
        self._counter = Counter(config, list(self.chains.values()), self._url, self.payments)

    def stop(self) -> None:
        """Stop listening and drop every connection; what is remembered stays."""
        if self._listener is not None:
            self._listener.stop()

    async def __aenter__(self) -> Sandbox:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        if self._listener is not None:
            await self._listener.drained()

    @contextmanager
    def run_in_thread(self) -> Iterator[Sandbox]:
        """Run on an event loop of its own while the block runs. Raises OSError as `start` does."""
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def run() -> None:
            stopped = asyncio.Event()
            async with self:
                started.set_result((asyncio.get_running_loop(), stopped))
                await stopped.wait()

        def run_thread() -> None:
            try:
                asyncio.run(run())
            except Exception as error:
                if started.done():
                    raise
                started.set_exception(error)

        thread = threading.Thread(target=run_thread, name="sandbox", daemon=True)
        thread.start()
        loop, stopped = started.result()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stopped.set)
            thread.join()

    def fund(self, network: str, address: str, atomic_units: int) -> None:
        """Give `address` exactly `atomic_units` on `network` (short or CAIP-2 name). Raises SettingsError."""
        self.chain(network).fund(address, atomic_units)

    def balance(self, network: str, address: str) -> int:
        """Atomic units that `address` has on `network`. Raises SettingsError."""
        return self.chain(network).balance(address)

    def chain(self, network: str) -> Chain:
        """One of the networks that payment is asked on. Raises SettingsError."""
        row = self.config.table.get(network)
        if row is None or row.caip2 not in self.chains:
            raise SettingsError(f"{network!r} is not offered; {', '.join(self.config.networks)} are.")
        return self.chains[row.caip2]

    def allow(self, network: str, address: str, atomic_units: int) -> None:
        """Let Permit2 take `atomic_units` of `address` on an EVM network. Raises SettingsError."""
        cast("EvmLedger", self.chain(network)).permit2.allow(address, atomic_units)

    def charge(self, rates: Rates) -> None:
        """Use other prices from now on; payments of the old ones are rejected. `Rates(0, 0, 0)`: everything is free."""
        self._counter.rates = rates

    def expire_blockhashes(self) -> None:
        """Make every blockhash that was handed out stale, on all Solana networks."""
        for chain in self.chains.values():
            if chain.network.family == "svm":
                cast("SvmChain", chain).expire_blockhashes()

    def _remember(self, request_id: str, sent: Sent) -> None:
        self.sent[request_id] = sent
        while len(self.sent) > self.config.keep:
            self.sent.popitem(last=False)

    async def _serve(self, exchange: Exchange) -> None:
        self.requests.append(exchange.request)
        await self._counter.serve(exchange)


def _chain(row: Network, config: SandboxConfig) -> Chain:
    if row.family == "evm":
        return EvmLedger(row, config.opening_balance, config.clock, allowance=config.allowance)
    from .chains.svm_chain import SvmChain  # noqa: PLC0415 - solders is loaded only where it is needed

    return SvmChain(
        row,
        config.opening_balance,
        config.clock,
        blockhash_seconds=config.blockhash_seconds,
        announce_blockhash=config.recent_blockhash,
        memo=config.memo,
    )
