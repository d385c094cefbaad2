"""Messages that reach the schedulers unasked: heartbeats, link estimates and changes of caches."""

import random
from collections.abc import Callable

from load.simulate.decode import DecodeWorker
from load.simulate.link import Link
from load.simulate.prefill import PrefillStation, PrefillWorker
from load.simulate.scenario import MODEL
from load.simulate.state import Home, State
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged, Heartbeat, LinkEstimate
from prfaas_scheduler.events import CacheChanged, HeartbeatReceived, LinkMeasured, QueueSeen
from prfaas_scheduler.queue.announced import QueueState

FINGERPRINT = "simulated"
Beat = Callable[[], Heartbeat | None]


class Announcing:
    def __init__(self, state: State) -> None:
        self._state = state
        self._clock = state.clock
        self._beats: dict[PrefillWorker | DecodeWorker, tuple[tuple[object, ...], Heartbeat]] = {}
        """Last heartbeat of each worker, and what it says: one that says the same is not made again."""

    def begin(self, home: Home, phases: random.Random) -> None:
        """Starts the heartbeats and link estimates that one pd site receives."""
        beat_s = self._state.timing.heartbeat_s
        for decoder in home.decoders.values():
            self.start_beats(home, phases.random() * beat_s, lambda d=decoder: self.decode_beat(home, d), None)  # type: ignore[misc]
        for name, station in self._state.stations.items():
            link = self._state.links.get((name, home.name))
            if link is None and name != home.name:
                continue
            for worker in station.workers:
                beat = lambda s=station, w=worker: self.prefill_beat(s, w)  # noqa: E731
                self.start_beats(home, phases.random() * beat_s, beat, link)
            if station.queue is not None:
                self._announce_queue(home, station, link)
            if link is not None:
                self._estimate(home, name, link, 1)

    def start_beats(self, home: Home, phase_s: float, beat: Beat, link: Link | None) -> None:
        # The first beats arrive before the first request: a site that has just started refuses it otherwise.
        first = beat()
        assert first is not None
        home.core.handle(HeartbeatReceived(self._clock.now_s, first))
        self._clock.after(phase_s, self._beat, home, beat, self._state.control_s(link))

    def _beat(self, home: Home, beat: Beat, delay_s: float) -> None:
        current = beat()
        if current is None:  # it has changed its role
            return
        self._clock.after(delay_s, self._deliver_beat, home, current)
        self._clock.after(self._state.timing.heartbeat_s, self._beat, home, beat, delay_s)

    def _deliver_beat(self, home: Home, beat: Heartbeat) -> None:
        home.core.handle(HeartbeatReceived(self._clock.now_s, beat))

    def _announce_queue(self, home: Home, station: PrefillStation, link: Link | None) -> None:
        state = self.queue_state(station)
        self._clock.after(self._state.control_s(link), self._deliver_queue, home, state)
        self._clock.after(self._state.timing.queue_s, self._announce_queue, home, station, link)

    def queue_state(self, station: PrefillStation) -> QueueState:
        assert station.queue is not None
        queue, now_s = station.queue.models.get(MODEL), self._clock.now_s
        if queue is None:
            return QueueState(site=station.site, due_s=0.0, running_s=0.0, ready=0, seen_at=now_s)
        running_s, ready = queue.running_s(now_s) * queue.mean_pace, len(queue.running.ready)
        return QueueState(site=station.site, due_s=queue.due_s * queue.mean_pace, running_s=running_s, ready=ready, seen_at=now_s)

    def _deliver_queue(self, home: Home, state: QueueState) -> None:
        home.core.handle(QueueSeen(self._clock.now_s, state))

    def _estimate(self, home: Home, source: str, link: Link, samples: int) -> None:
        rate = link.rate(self._clock.now_s) * self._state.scenario.link_bias
        estimate = LinkEstimate(source=source, destination=home.name, rtt_s=link.rtt_s, goodput_bytes_per_s=rate, samples=samples)
        home.core.handle(LinkMeasured(self._clock.now_s, estimate))
        self._clock.after(self._state.timing.link_estimate_s, self._estimate, home, source, link, samples + 1)

    def blocks(self, home: Home, changed: BlocksChanged) -> None:
        """Announces a change of a worker's cache to one pd site, if that site knows of the worker."""
        link = self._state.links.get((changed.site, home.name))
        if self._state.scenario.caches_announced and (link is not None or changed.site == home.name):
            self._clock.after(self._state.control_s(link), self._deliver_blocks, home, changed)

    def _deliver_blocks(self, home: Home, changed: BlocksChanged) -> None:
        home.core.handle(CacheChanged(self._clock.now_s, changed))

    def prefill_beat(self, station: PrefillStation, worker: PrefillWorker) -> Heartbeat | None:
        if worker.has_left:
            return None
        shared = self._state.is_shared(station.site)
        worker.queue.waiting = station.waiting
        says = (
            worker.queue.queued_s if shared else 0.0,
            worker.queue.busy_s(self._clock.now_s) if shared else 0.0,
            worker.observed.count,
            worker.leaving,
            station.pull_bytes_per_s,
        )
        last = self._beats.get(worker)
        if last is not None and last[0] == says:
            return last[1]
        beat = Heartbeat(
            site=station.site,
            worker=worker.name,
            role=Role.PREFILL,
            model=MODEL,
            fingerprint=FINGERPRINT,
            max_context_tokens=1 << 30,
            queued_s=says[0],
            busy_s=says[1],
            prefill_points=worker.observed.points(),
            kv_points=station.kv_points,
            pulls=True,
            pull_bytes_per_s=station.pull_bytes_per_s,
            movable=True,
            draining=worker.leaving,
        )
        self._beats[worker] = says, beat
        return beat

    def decode_beat(self, home: Home, decoder: DecodeWorker) -> Heartbeat | None:
        if decoder.has_left:
            return None
        says = (decoder.held, decoder.waiting, decoder.observed.count, decoder.output_tokens.value, decoder.leaving)
        last = self._beats.get(decoder)
        if last is not None and last[0] == says:
            return last[1]
        beat = Heartbeat(
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
        self._beats[decoder] = says, beat
        return beat
