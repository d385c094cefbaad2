"""Runs a scenario: every request through the scheduler's own core, a slot, its prefill, its link and its batch."""

import random

import msgspec

from load.simulate.announcing import Announcing
from load.simulate.requests import Requests
from load.simulate.scenario import Scenario
from load.simulate.state import Home, State
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.replay.record import Record
from prfaas_scheduler.events import WorkerGone
from prfaas_scheduler.roles.controller import RoleController
from prfaas_scheduler.roles.events import BeginMove, MoveResult, RolesDue

ROLES_TICK_S = 1.0
QUEUE_TICK_S = 0.5
"""Interval at which queues are told the time, beside what they hear of jobs and workers."""


class SimResult(msgspec.Struct, frozen=True, kw_only=True):
    records: dict[str, list[Record]]
    """Records by pd site, in order of arrival."""
    pulls: dict[str, int]
    """Number of pulls by `<source site> <result>`."""
    pulled_bytes: dict[str, float]
    """Bytes that pulls sent, those given up included, by source site."""
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
    failed_after_s: dict[str, dict[int, float]]
    """Age of each request that failed or was refused, at that moment, by pd site and place in the order of arrival."""


def simulate(scenario: Scenario) -> SimResult:
    return _World(scenario).run()


class _World:
    def __init__(self, scenario: Scenario) -> None:
        self._seed = scenario.seed
        self._state = State(scenario, self._announce_blocks)
        self._announcing = Announcing(self._state)
        self._requests = Requests(self._state, self._announcing)

    def _announce_blocks(self, changed: BlocksChanged) -> None:
        for home in self._state.homes:
            self._announcing.blocks(home, changed)

    def run(self) -> SimResult:
        phases, state = random.Random(self._seed), self._state
        for home in state.homes:
            self._announcing.begin(home, phases)
            self._requests.begin(home)
            if home.roles is not None:
                state.clock.after(ROLES_TICK_S, self._look_at_roles, home, home.roles)
        if any(station.queue is not None for station in state.stations.values()):
            state.clock.after(QUEUE_TICK_S, self._pass_time)
        state.clock.stopped = not self._requests.open
        state.clock.run()
        return SimResult(
            records={home.name: home.records for home in state.homes},
            pulls=dict(state.pulls.results),
            pulled_bytes=dict(state.pulls.sent_bytes),
            egress_bytes={f"{source}.{destination}": link.sent_bytes for (source, destination), link in state.links.items()},
            prefill_busy_s={name: sum(worker.busy_s for worker in at.workers) for name, at in state.stations.items()},
            cached_tokens={name: at.cached_tokens for name, at in state.stations.items()}
            | {f"{home.name} decode": home.decode_tokens for home in state.homes},
            home_cached_tokens={home.name: home.cached_tokens for home in state.homes},
            role_changes={home.name: home.role_changes for home in state.homes},
            failed_after_s={home.name: home.failed_after_s for home in state.homes},
        )

    def _pass_time(self) -> None:
        for station in self._state.stations.values():
            station.pass_time()
        self._state.clock.after(QUEUE_TICK_S, self._pass_time)

    def _look_at_roles(self, home: Home, roles: RoleController) -> None:
        for instruction in roles.handle(RolesDue(self._state.clock.now_s)):
            if isinstance(instruction, BeginMove):
                self._state.clock.after(self._state.timing.control_s, self._drain, home, instruction)
            elif instruction.result is MoveResult.DONE:
                home.role_changes.append((self._state.clock.now_s, instruction.worker, instruction.to_role.value))
        self._state.clock.after(ROLES_TICK_S, self._look_at_roles, home, roles)

    # ---- a worker's move: it drains, however long that takes, and is away for a while

    def _drain(self, home: Home, move: BeginMove) -> None:
        def left() -> None:
            self._state.clock.after(self._state.timing.control_s, self._gone, home, move)

        if move.role is Role.DECODE:
            home.decoders[move.worker].leave(left)
        else:
            self._state.stations[home.name].leave(move.worker, left)

    def _gone(self, home: Home, move: BeginMove) -> None:
        assert home.site.movable is not None
        home.core.handle(WorkerGone(self._state.clock.now_s, f"{home.name}.{move.role}.{move.worker}"))
        self._state.clock.after(home.site.movable.away_s, self._back, home, move)

    def _back(self, home: Home, move: BeginMove) -> None:
        if move.to_role is Role.PREFILL:
            station = self._state.stations[home.name]
            worker = station.add(move.worker)
            self._announcing.start_beats(home, 0.0, lambda: self._announcing.prefill_beat(station, worker), None)
        else:
            decoder = home.decoders[move.worker] = self._state.decoder(home.site, move.worker)
            self._announcing.start_beats(home, 0.0, lambda: self._announcing.decode_beat(home, decoder), None)
