"""Messages that reach the schedulers unasked: heartbeats, link estimates and changes of caches."""

import random
from collections.abc import Generator
from typing import Any

import simpy

from load.simulate.decode import DecodeWorker
from load.simulate.link import Link
from load.simulate.prefill import PrefillStation, PrefillWorker
from load.simulate.scenario import MODEL
from load.simulate.state import Home, State
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged, Heartbeat, LinkEstimate
from prfaas_scheduler.events import CacheChanged, Event, HeartbeatReceived, LinkMeasured

FINGERPRINT = "simulated"


class Announcing:
    def __init__(self, state: State) -> None:
        self._state = state

    def begin(self, home: Home, phases: random.Random) -> None:
        """Starts the heartbeats and link estimates that one pd site receives."""
        beat_s = self._state.timing.heartbeat_s
        for decoder in home.decoders.values():
            self._state.env.process(self.beats(home, phases.random() * beat_s, lambda d=decoder: self.decode_beat(home, d), None))
        for name, station in self._state.stations.items():
            link = self._state.links.get((name, home.name))
            if link is None and name != home.name:
                continue
            for worker in station.workers:
                beat = lambda s=station, w=worker: self.prefill_beat(s, w)  # noqa: E731
                self._state.env.process(self.beats(home, phases.random() * beat_s, beat, link))
            if link is not None:
                self._state.env.process(self._estimates(home, name, link))

    def beats(self, home: Home, phase_s: float, beat: Any, link: Link | None) -> Generator[simpy.Event, Any, None]:
        delay_s = self._state.control_s(link)
        # The first beats arrive before the first request: a site that has just started refuses it otherwise.
        home.core.handle(HeartbeatReceived(self._state.env.now, beat()))
        yield self._state.env.timeout(phase_s)
        while True:
            current: Heartbeat | None = beat()
            if current is None:  # it has changed its role
                return
            self._state.env.process(self._deliver(home, HeartbeatReceived(self._state.env.now + delay_s, current), delay_s))
            yield self._state.env.timeout(self._state.timing.heartbeat_s)

    def _estimates(self, home: Home, source: str, link: Link) -> Generator[simpy.Event, Any, None]:
        samples = 0
        while True:
            samples += 1
            estimate = LinkEstimate(
                source=source,
                destination=home.name,
                rtt_s=link.rtt_s,
                goodput_bytes_per_s=link.rate(self._state.env.now),
                samples=samples,
            )
            home.core.handle(LinkMeasured(self._state.env.now, estimate))
            yield self._state.env.timeout(self._state.timing.link_estimate_s)

    def blocks(self, home: Home, changed: BlocksChanged) -> None:
        """Announces a change of a worker's cache to one pd site, if that site knows of the worker."""
        link = self._state.links.get((changed.site, home.name))
        if self._state.scenario.caches_announced and (link is not None or changed.site == home.name):
            delay_s = self._state.control_s(link)
            self._state.env.process(self._deliver(home, CacheChanged(self._state.env.now + delay_s, changed), delay_s))

    def _deliver(self, home: Home, event: Event, delay_s: float) -> Generator[simpy.Event, Any, None]:
        yield self._state.env.timeout(delay_s)
        home.core.handle(event)

    def prefill_beat(self, station: PrefillStation, worker: PrefillWorker) -> Heartbeat | None:
        if worker.left.triggered:
            return None
        shared = self._state.is_shared(station.site)
        worker.queue.waiting = station.waiting
        return Heartbeat(
            site=station.site,
            worker=worker.name,
            role=Role.PREFILL,
            model=MODEL,
            fingerprint=FINGERPRINT,
            max_context_tokens=1 << 30,
            queued_s=worker.queue.queued_s if shared else 0.0,
            busy_s=worker.queue.busy_s(self._state.env.now) if shared else 0.0,
            prefill_points=worker.core.observed.points(),
            kv_points=station.kv_points,
            movable=True,
            draining=worker.leaving,
        )

    def decode_beat(self, home: Home, decoder: DecodeWorker) -> Heartbeat | None:
        if decoder.left.triggered:
            return None
        return Heartbeat(
            site=home.name,
            worker=decoder.name,
            role=Role.DECODE,
            model=MODEL,
            fingerprint=FINGERPRINT,
            max_context_tokens=1 << 30,
            running=decoder.held,
            slots=decoder.slots,
            waiting=decoder.waiting,
            waiting_limit=decoder.waiting_limit,
            step_points=decoder.observed.points(),
            output_tokens=decoder.output_tokens.value,
            movable=True,
            draining=decoder.leaving,
        )
