"""Runs a scenario: every request through the scheduler's own core, a slot, its prefill, its link and its batch."""

import random
from array import array
from collections.abc import Generator, Sequence
from typing import Any

import msgspec
import simpy

from load.client import Arrival, Record
from load.simulate.decode import DecodeWorker
from load.simulate.link import Link
from load.simulate.prefill import Job, PrefillStation, PrefillWorker, Prompt
from load.simulate.scenario import MODEL, PdSite, Scenario
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.terms import Outcome, Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, BlocksChanged, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import (
    AttemptOver,
    CacheChanged,
    Event,
    HeartbeatReceived,
    LinkMeasured,
    PlacementRequested,
    WorkerGone,
)
from prfaas_scheduler.roles.controller import RoleController
from prfaas_scheduler.roles.events import BeginMove, MoveResult, RequestSeen, RolesDue
from prfaas_scheduler.service_core import SchedulerCore

FINGERPRINT = "simulated"
ROLES_TICK_S = 1.0


class SimResult(msgspec.Struct, frozen=True, kw_only=True):
    records: dict[str, list[Record]]
    """Records by pd site, in order of arrival."""
    egress_bytes: dict[str, dict[int, float]]
    """Bytes sent in each second, by link `source.destination`."""
    prefill_busy_s: dict[str, float]
    """Time that prefill workers were held, waiting for the link included, by site."""
    cached_tokens: dict[str, int]
    """Prompt tokens that prefill workers had cached, by site; those that decode workers had, by `<site> decode`."""
    home_cached_tokens: dict[str, list[int]]
    """Prefix tokens that the site's best prefill worker had cached when each prompt was placed, by pd site, in order of
    arrival."""
    role_changes: dict[str, list[tuple[float, str, str]]]
    """(moment of its end, worker, new role) of each change, by pd site."""


def simulate(scenario: Scenario) -> SimResult:
    return _World(scenario).run()


class _Home:
    """A pd site with its scheduler."""

    def __init__(self, world: "_World", site: PdSite) -> None:
        self.site = site
        self.core = SchedulerCore(site.name, site.policy())
        self.decoders = {f"d{index}": world.decoder(site, f"d{index}") for index in range(site.decode.workers)}
        self.roles = site.movable.controller(self.core.fleet) if site.movable else None
        self.role_changes: list[tuple[float, str, str]] = []
        self.records: list[Record] = []
        self.decode_tokens = 0
        self.cached_tokens = [0] * len(site.arrivals)


class _World:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.env = simpy.Environment()
        self.timing = scenario.timing
        self.stations: dict[str, PrefillStation] = {}
        self.links: dict[tuple[str, str], Link] = {}
        self.homes = [_Home(self, site) for site in scenario.pd]
        self.block_tokens = round(scenario.block_tokens / scenario.token_scale)
        for site in scenario.pd:
            if site.prefill is not None:
                self.stations[site.name] = self._station(site.name, site.prefill)
        for remote in scenario.prfaas:
            self.stations[remote.name] = self._station(remote.name, remote.prefill)
            for destination, spec in remote.links.items():
                self.links[remote.name, destination] = Link(spec)
        self._open = sum(len(site.arrivals) for site in scenario.pd)
        self._all_over = self.env.event()

    def decoder(self, site: PdSite, name: str) -> DecodeWorker:
        return DecodeWorker(self.env, site.name, name, site.decode, self.scenario.token_scale, self.scenario.time_scale)

    def _station(self, name: str, pool: Any) -> PrefillStation:
        def announce(changed: BlocksChanged) -> None:
            for home in self.homes:
                self._announce_blocks(home, changed)

        return PrefillStation(self.env, name, pool, self.scenario.token_scale, self.scenario.time_scale, announce)

    def run(self) -> SimResult:
        phases = random.Random(self.scenario.seed)
        for home in self.homes:
            self._announce(home, phases)
            self.env.process(self._arrivals(home))
            if home.roles is not None:
                self.env.process(self._move_workers(home, home.roles))
        if self._open:
            self.env.run(until=self._all_over)
        return SimResult(
            records={home.site.name: home.records for home in self.homes},
            egress_bytes={f"{source}.{destination}": link.sent_bytes for (source, destination), link in self.links.items()},
            prefill_busy_s={name: sum(worker.busy_s for worker in at.workers) for name, at in self.stations.items()},
            cached_tokens={name: at.cached_tokens for name, at in self.stations.items()}
            | {f"{home.site.name} decode": home.decode_tokens for home in self.homes},
            home_cached_tokens={home.site.name: home.cached_tokens for home in self.homes},
            role_changes={home.site.name: home.role_changes for home in self.homes},
        )

    # ---- events of the scheduler

    def _announce(self, home: _Home, phases: random.Random) -> None:
        beat_s = self.timing.heartbeat_s
        for decoder in home.decoders.values():
            self.env.process(self._beats(home, phases.random() * beat_s, lambda d=decoder: self._decode_beat(home, d), None))
        for name, station in self.stations.items():
            link = self.links.get((name, home.site.name))
            if link is None and name != home.site.name:
                continue
            for worker in station.workers:
                beat = lambda s=station, w=worker: self._prefill_beat(s, w)  # noqa: E731
                self.env.process(self._beats(home, phases.random() * beat_s, beat, link))
            if link is not None:
                self.env.process(self._estimates(home, name, link))

    def _beats(self, home: _Home, phase_s: float, beat: Any, link: Link | None) -> Generator[simpy.Event, Any, None]:
        delay_s = self.timing.control_s + (link.rtt_s / 2 if link else 0.0)
        # The first beats arrive before the first request: a site that has just started refuses it otherwise.
        home.core.handle(HeartbeatReceived(self.env.now, beat()))
        yield self.env.timeout(phase_s)
        while True:
            current: Heartbeat | None = beat()
            if current is None:  # it has changed its role
                return
            self.env.process(self._deliver(home, HeartbeatReceived(self.env.now + delay_s, current), delay_s))
            yield self.env.timeout(self.timing.heartbeat_s)

    def _estimates(self, home: _Home, source: str, link: Link) -> Generator[simpy.Event, Any, None]:
        samples = 0
        while True:
            samples += 1
            estimate = LinkEstimate(
                source=source,
                destination=home.site.name,
                rtt_s=link.rtt_s,
                goodput_bytes_per_s=link.rate(self.env.now),
                samples=samples,
            )
            home.core.handle(LinkMeasured(self.env.now, estimate))
            yield self.env.timeout(self.timing.link_estimate_s)

    def _announce_blocks(self, home: _Home, changed: BlocksChanged) -> None:
        link = self.links.get((changed.site, home.site.name))
        if self.scenario.caches_announced and (link is not None or changed.site == home.site.name):
            delay_s = self.timing.control_s + (link.rtt_s / 2 if link else 0.0)
            self.env.process(self._deliver(home, CacheChanged(self.env.now + delay_s, changed), delay_s))

    def _deliver(self, home: _Home, event: Event, delay_s: float) -> Generator[simpy.Event, Any, None]:
        yield self.env.timeout(delay_s)
        home.core.handle(event)

    def _prefill_beat(self, station: PrefillStation, worker: PrefillWorker) -> Heartbeat | None:
        if worker.left.triggered:
            return None
        shared = self._is_shared(station.site)
        worker.queue.waiting = station.waiting
        return Heartbeat(
            site=station.site,
            worker=worker.name,
            role=Role.PREFILL,
            model=MODEL,
            fingerprint=FINGERPRINT,
            max_context_tokens=1 << 30,
            queued_s=worker.queue.queued_s if shared else 0.0,
            busy_s=worker.queue.busy_s(self.env.now) if shared else 0.0,
            prefill_points=worker.core.observed.points(),
            kv_points=station.kv_points,
            movable=True,
            draining=worker.leaving,
        )

    def _is_shared(self, site: str) -> bool:
        """True if several pd sites place prompts there."""
        return len(self.homes) > 1 and all(home.site.name != site for home in self.homes)

    def _decode_beat(self, home: _Home, decoder: DecodeWorker) -> Heartbeat | None:
        if decoder.left.triggered:
            return None
        return Heartbeat(
            site=home.site.name,
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

    # ---- workers that change their role

    def _move_workers(self, home: _Home, roles: RoleController) -> Generator[simpy.Event, Any, None]:
        while True:
            yield self.env.timeout(ROLES_TICK_S)
            for instruction in roles.handle(RolesDue(self.env.now)):
                if isinstance(instruction, BeginMove):
                    self.env.process(self._move(home, instruction))
                elif instruction.result is MoveResult.DONE:
                    home.role_changes.append((self.env.now, instruction.worker, instruction.to_role.value))

    def _move(self, home: _Home, move: BeginMove) -> Generator[simpy.Event, Any, None]:
        """Moves a worker: it drains, however long that takes, and is away for a while."""
        assert home.site.movable is not None
        station, control_s = self.stations[home.site.name], self.timing.control_s
        yield self.env.timeout(control_s)
        yield home.decoders[move.worker].leave() if move.role is Role.DECODE else station.leave(move.worker).left
        yield self.env.timeout(control_s)
        home.core.handle(WorkerGone(self.env.now, f"{home.site.name}.{move.role}.{move.worker}"))
        yield self.env.timeout(home.site.movable.away_s)
        if move.to_role is Role.PREFILL:
            worker = station.add(move.worker)
            self.env.process(self._beats(home, 0.0, lambda: self._prefill_beat(station, worker), None))
        else:
            decoder = home.decoders[move.worker] = self.decoder(home.site, move.worker)
            self.env.process(self._beats(home, 0.0, lambda: self._decode_beat(home, decoder), None))

    # ---- requests

    def _arrivals(self, home: _Home) -> Generator[simpy.Event, Any, None]:
        for index, arrival in enumerate(home.site.arrivals):
            yield self.env.timeout(max(0.0, arrival.arrival_s - self.env.now))
            record = Record(arrival=arrival, sent_s=self.env.now)
            home.records.append(record)
            self.env.process(self._request(home, index, arrival, record))

    def _request(self, home: _Home, index: int, arrival: Arrival, record: Record) -> Generator[simpy.Event, Any, None]:
        yield from self._serve(home, index, arrival, record)
        self._open -= 1
        if not self._open:
            self._all_over.succeed()

    def _serve(self, home: _Home, index: int, arrival: Arrival, record: Record) -> Generator[simpy.Event, Any, None]:
        # Placed, and handed to a decode worker that is not leaving.
        deadline_at = self.env.now + self.timing.ttft_deadline_s
        yield self.env.timeout(self.timing.control_s)
        refused_by: list[str] = []
        while True:
            placement = self._place(home, index, arrival, refused_by)
            if isinstance(placement, Refusal):
                record.error, record.message = placement.code, placement.message
                return
            record.outcome, record.prefill_site = placement.outcome.value, placement.prefill_site
            yield self.env.timeout(self.timing.control_s)
            decoder = home.decoders[placement.decode_worker]
            if not decoder.leaving:
                break
            refused_by.append(decoder.name)
            yield self.env.timeout(self.timing.control_s)
        # A slot.
        slot = decoder.admit()
        if slot is None:
            record.error = FailureCode.OVERLOADED
            return
        yield slot | self.env.timeout(max(0.0, deadline_at - self.env.now))
        if not slot.triggered:
            decoder.leave_line(slot)
            record.error = FailureCode.DEADLINE
            return
        # Its KV.
        verified = yield from self._prefill(home, self._request_id(home, index), arrival, record, placement, decoder, deadline_at)
        if not verified:
            record.error = FailureCode.DEADLINE
            decoder.release()
            return
        # The answer.
        first, last = decoder.join(arrival.output_tokens)
        yield first
        record.first_s = self.env.now + 2 * self.timing.control_s
        yield last
        record.last_s = self.env.now + 2 * self.timing.control_s
        record.tokens = arrival.output_tokens
        decoder.output_tokens.observe(record.tokens)
        decoder.release()

    def _request_id(self, home: _Home, index: int) -> str:
        return f"{home.site.name}-{index}"

    def _place(self, home: _Home, index: int, arrival: Arrival, refused_by: Sequence[str]) -> Placement | Refusal:
        request = PlaceRequest(
            request_id=self._request_id(home, index),
            model=MODEL,
            prompt_tokens=arrival.prompt_tokens,
            max_tokens=arrival.output_tokens,
            ttft_deadline_s=self.timing.ttft_deadline_s,
            block_hashes=bytes(array("Q", arrival.block_ids)),
            block_tokens=self.block_tokens,
            refused_by=tuple(refused_by),
        )
        if home.site.name in self.stations:
            usable = arrival.block_ids[: (arrival.prompt_tokens - 1) // self.block_tokens]
            cached = (worker.cache.cached(usable) for worker in self.stations[home.site.name].workers)
            home.cached_tokens[index] = max(cached) * self.block_tokens
        (answer,) = home.core.handle(PlacementRequested(self.env.now, request))
        if home.roles is not None and not refused_by:
            home.roles.handle(RequestSeen(self.env.now, MODEL, max(0, arrival.prompt_tokens - 1 - answer.cached_tokens)))
        return answer.answer

    def _prefill(
        self,
        home: _Home,
        request_id: str,
        arrival: Arrival,
        record: Record,
        placement: Placement,
        decoder: DecodeWorker,
        deadline_at: float,
    ) -> Generator[simpy.Event, Any, bool]:
        """Attempts as a decode worker makes them: a deferred one if the placement asks for it, one at the placement's site,
        then one at its fallback, until the deadline. Returns True once the KV is verified."""
        site, worker, deferred = placement.prefill_site, placement.prefill_worker, placement.deferred_s > 0
        tokens = arrival.prompt_tokens - 1
        prompt = Prompt(tokens, arrival.block_ids[: tokens // self.block_tokens], self.block_tokens)
        while True:
            left_s = max(0.0, deadline_at - self.env.now)
            may_fall_back = placement.fallback_site not in (None, site)
            # Send the job to the site of this attempt.
            link = self.links.get((site, home.site.name))
            from_token = decoder.cache.cached(prompt.blocks) * self.block_tokens
            job = Job(self.env, prompt, link, from_token=from_token, worker=worker, deferred=deferred)
            limit_s, next_site = left_s, None
            if deferred:
                limit_s, next_site = placement.deferred_s, site
            elif may_fall_back:
                limit_s, next_site = placement.fallback_after_s, placement.fallback_site
            timeout = self.env.timeout(min(left_s, limit_s))
            yield self.env.timeout(self.timing.control_s + (link.rtt_s / 2 if link else 0.0))
            self.stations[site].submit(job)
            yield job.verified | timeout
            # Report its end to the scheduler.
            ended = AttemptEnded(
                request_id=request_id,
                site=site,
                verified=job.verified.triggered,
                code="" if job.verified.triggered else FailureCode.TIMEOUT,
                next_site=None if job.verified.triggered else next_site,
            )
            home.core.handle(AttemptOver(self.env.now, ended))
            if job.verified.triggered:
                home.decode_tokens += from_token
                if (changed := decoder.cache.use(prompt.blocks)) is not None:
                    self._announce_blocks(home, changed)
                return True
            # Not verified: the next attempt, if there is one.
            job.cancel()
            if deferred and self.env.now < deadline_at:
                deferred = False
                continue
            if not may_fall_back:
                return False
            assert placement.fallback_site is not None
            site, worker = placement.fallback_site, None
            record.outcome, record.prefill_site = Outcome.FALLBACK_TIMEOUT.value, site
