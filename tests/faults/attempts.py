"""One attempt at a time: what the client does, and what happens to it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from support.wire import Client, request

from .scene import SHORT, Scene
from .sides.gateway import DRIP, GARBAGE, PATIENCE, PAUSE
from .stage import SLOW
from .tries import Account, Result, Seen, Trial, read_answer


def ordinary(scene: Scene, trial: Trial) -> None:
    """The proxy still serves another request. Besides, whatever reached it before is behind it then."""
    with scene.client(scene.gateways[0]) as client:
        client.send(request("POST", "/v1/ordinary", b"{}"))
        seen = read_answer(client)
    if seen.text != "200":
        trial.wrong.append(f"an ordinary request was answered by {seen.text}: {seen.message}")


def ask(scene: Scene, trial: Trial) -> Seen:
    """The request, from a client to which nothing happens."""
    trial.begin()
    with scene.client(trial.gateway) as client:
        client.send(trial.request())
        return read_answer(client)


def account(scene: Scene, trial: Trial, seen: Seen, open_rows: int = 0) -> Account:
    """What there is to say when an attempt is over; so many rows may stay open."""
    return trial.account(seen, scene.settled_rows(trial.what.path, open_rows))


def result(scene: Scene, trial: Trial, seen: Seen, open_rows: int = 0) -> Result:
    """What came of the attempt that the fault struck; with all well again, the client repeats it where it failed."""
    ordinary(scene, trial)
    first = account(scene, trial, seen, open_rows)
    trial.gateway.heal()
    again = None
    if first.client != "200":
        again = account(scene, trial, ask(scene, trial), first.open)
    return Result(trial.what, first, again, trial.wrong)


def strike(scene: Scene, trial: Trial) -> Result:
    """The whole of a try whose fault is the gateway's, or the client's."""
    what = trial.what
    if what.point == "held":
        return _strike_again(scene, trial)
    if what.point == "after":
        return _strike_after(scene, trial)
    trial.begin()
    with scene.client(trial.gateway) as client:
        act = _CLIENTS.get(what.point, _wait)
        seen = act(scene, trial, client)
    return result(scene, trial, seen)


def _wait(scene: Scene, trial: Trial, client: Client) -> Seen:
    client.send(trial.request(held=True))
    if trial.what.hold:
        assert trial.gateway.arrived.wait(PATIENCE)
        ordinary(scene, trial)
        scene.control.let_go(trial.what.path)
    return read_answer(client)


def _strike_again(scene: Scene, trial: Trial) -> Result:
    """The first attempt was reset; the fault strikes the second, and the third is well."""
    account(scene, trial, ask(scene, trial))
    if trial.what.fault == "refused":
        trial.gateway.close_door("refused")
    else:
        trial.gateway.strikes = ("paid", trial.what.fault)
    return result(scene, trial, ask(scene, trial))


def _strike_after(scene: Scene, trial: Trial) -> Result:
    """The client goes on with the same connection."""
    trial.begin()
    with scene.client(trial.gateway) as client:
        client.send(trial.request())
        seen = read_answer(client)
        ordinary(scene, trial)
        first = account(scene, trial, seen)
        trial.gateway.heal()
        trial.begin()
        client.send(trial.request())
        again = account(scene, trial, read_answer(client))
    return Result(trial.what, first, again, trial.wrong)


def _client_asks(scene: Scene, trial: Trial, client: Client) -> Seen:
    whole = trial.request()
    half, rest = whole[: len(whole) // 2], whole[len(whole) // 2 :]
    if trial.what.fault == "drip":
        for byte in whole:
            client.send(bytes([byte]))
            threading.Event().wait(0.01)
        return read_answer(client)
    client.send(half)
    if trial.what.fault == "stall":
        threading.Event().wait(PAUSE)
        client.send(rest)
    elif trial.what.fault == "garbage":
        client.send(GARBAGE)
    elif trial.what.fault == "timeout":
        client.sock.settimeout(SHORT["total"] + 1)
        seen = read_answer(client)
        return Seen("open") if seen.text == "HANG" else seen
    return _leave(client, trial.what.fault) or read_answer(client)


def _client_waits(scene: Scene, trial: Trial, client: Client) -> Seen:
    """It waits for the gateway, which is held."""
    client.send(trial.request())
    assert trial.gateway.arrived.wait(PATIENCE)
    if trial.what.fault == "garbage":
        client.send(GARBAGE)
    seen = _leave(client, trial.what.fault)
    ordinary(scene, trial)
    trial.gateway.go_on.set()
    return seen or read_answer(client)


def _client_is_held(scene: Scene, trial: Trial, client: Client) -> Seen:
    client.send(trial.request(held=True))
    scene.control.wait_for(trial.what.path)
    seen = _leave(client, trial.what.fault)
    assert seen is not None
    ordinary(scene, trial)
    scene.control.let_go(trial.what.path)
    return seen


def _client_reads(scene: Scene, trial: Trial, client: Client) -> Seen:
    if trial.what.fault not in SLOW:
        return _client_waits(scene, trial, client)
    client.send(trial.request())
    if trial.what.fault == "stall":
        threading.Event().wait(PAUSE)
    slowly = b""
    while trial.what.fault != "stall" and not trial.gateway.left.wait(DRIP):
        if trial.what.fault == "drip":
            slowly += client.sock.recv(1 << 14)
    client.unread(slowly)
    return read_answer(client)


def _leave(client: Client, fault: str) -> Seen | None:
    if fault not in ("reset", "close"):
        return None
    client.close(reset=fault == "reset")
    return Seen("gone")


_CLIENTS: dict[str, Callable[[Scene, Trial, Client], Seen]] = {
    "c-asking": _client_asks,
    "c-waiting": _client_waits,
    "c-signed": _client_is_held,
    "c-paid": _client_waits,
    "c-stream": _client_reads,
    "c-end": _client_is_held,
}
