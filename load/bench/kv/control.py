"""Control messages beside bulk: request/reply over the control account while KV saturates the same link."""

import asyncio
import multiprocessing
import time
from multiprocessing.synchronize import Event

import nats
import uvloop
from nats.aio.msg import Msg

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts import subjects
from prfaas.process.child import running_with_parent

_CONTEXT = multiprocessing.get_context("spawn")
_INTERVAL_S = 0.01
_TIMEOUT_S = 10.0


class ControlPings:
    """Two processes: one at the near site answers, one at the far site asks every 10 ms, and notes when and how long."""

    def __init__(self, near: NatsEndpoint, far: NatsEndpoint, site: str) -> None:
        self._stop = [_CONTEXT.Event(), _CONTEXT.Event()]
        self._ready = [_CONTEXT.Event(), _CONTEXT.Event()]
        self._times: multiprocessing.Queue[list[tuple[float, float]]] = _CONTEXT.Queue()
        subject = subjects.probe_echo(site)
        answers = (near, subject, self._ready[0], self._stop[0])
        # Another site's answers come through on reply subjects of this form only.
        inbox = subjects.replies(far.site, site, "pings")
        asks = (far, inbox, subject, self._ready[1], self._stop[1], self._times)
        self._processes = [
            _CONTEXT.Process(target=running_with_parent(_answer), args=answers, daemon=True),
            _CONTEXT.Process(target=running_with_parent(_ask), args=asks, daemon=True),
        ]

    def start(self) -> None:
        for process, ready in zip(self._processes, self._ready, strict=True):
            process.start()
            if not ready.wait(_TIMEOUT_S):
                raise TimeoutError("a process of the control pings did not start")

    def stop(self) -> list[tuple[float, float]]:
        """(time.monotonic() of the request, round trip in seconds)"""
        self._stop[1].set()  # the one that asks first: its last request still gets its answer
        times = self._times.get(timeout=2 * _TIMEOUT_S)
        self._stop[0].set()
        for process in self._processes:
            process.join(_TIMEOUT_S)
            if process.is_alive():
                process.kill()
        return times


def _answer(endpoint: NatsEndpoint, subject: str, ready: Event, stop: Event) -> None:
    async def main() -> None:
        client = await nats.connect(endpoint.url, nkeys_seed=endpoint.nkey_seed_file)

        async def echo(message: Msg) -> None:
            await message.respond(message.data)

        await client.subscribe(subject, cb=echo)
        await client.flush()
        ready.set()
        await asyncio.to_thread(stop.wait)
        await client.close()

    uvloop.run(main())


def _ask(
    endpoint: NatsEndpoint,
    inbox: str,
    subject: str,
    ready: Event,
    stop: Event,
    times: "multiprocessing.Queue[list[tuple[float, float]]]",
) -> None:
    async def main() -> list[tuple[float, float]]:
        client = await nats.connect(endpoint.url, nkeys_seed=endpoint.nkey_seed_file, inbox_prefix=inbox)
        await client.request(subject, b"", timeout=_TIMEOUT_S)
        ready.set()
        found: list[tuple[float, float]] = []

        async def ask() -> None:
            start = time.monotonic()
            await client.request(subject, b"ping", timeout=_TIMEOUT_S)
            found.append((start, time.monotonic() - start))

        asked: set[asyncio.Task[None]] = set()
        while not stop.is_set():
            asked.add(asyncio.create_task(ask()))
            await asyncio.sleep(_INTERVAL_S)
        await asyncio.gather(*asked)
        await client.close()
        return found

    times.put(uvloop.run(main()))
