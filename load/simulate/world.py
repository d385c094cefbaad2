"""Runs a scenario: every request through the scheduler's own core, a slot, its prefill, its link and its batch."""

import random
from collections.abc import Generator
from typing import Any

import msgspec
import simpy

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
        phases = random.Random(self._seed)
        for home in self._state.homes:
            self._announcing.begin(home, phases)
            self._state.env.process(self._requests.arrivals(home))
            if home.roles is not None:
                self._state.env.process(self._move_workers(home, home.roles))
        if self._requests.open:
            self._state.env.run(until=self._requests.all_over)
        return SimResult(
            records={home.name: home.records for home in self._state.homes},
            egress_bytes={
                f"{source}.{destination}": link.sent_bytes for (source, destination), link in self._state.links.items()
            },
            prefill_busy_s={name: sum(worker.busy_s for worker in at.workers) for name, at in self._state.stations.items()},
            cached_tokens={name: at.cached_tokens for name, at in self._state.stations.items()}
            | {f"{home.name} decode": home.decode_tokens for home in self._state.homes},
            home_cached_tokens={home.name: home.cached_tokens for home in self._state.homes},
            role_changes={home.name: home.role_changes for home in self._state.homes},
        )

    def _move_workers(self, home: Home, roles: RoleController) -> Generator[simpy.Event, Any, None]:
        while True:
            yield self._state.env.timeout(ROLES_TICK_S)
            for instruction in roles.handle(RolesDue(self._state.env.now)):
                if isinstance(instruction, BeginMove):
                    self._state.env.process(self._move(home, instruction))
                elif instruction.result is MoveResult.DONE:
                    home.role_changes.append((self._state.env.now, instruction.worker, instruction.to_role.value))

    def _move(self, home: Home, move: BeginMove) -> Generator[simpy.Event, Any, None]:
        """Moves a worker: it drains, however long that takes, and is away for a while."""
        assert home.site.movable is not None
        station, control_s = self._state.stations[home.name], self._state.timing.control_s
        yield self._state.env.timeout(control_s)
        yield home.decoders[move.worker].leave() if move.role is Role.DECODE else station.leave(move.worker).left
        yield self._state.env.timeout(control_s)
        home.core.handle(WorkerGone(self._state.env.now, f"{home.name}.{move.role}.{move.worker}"))
        yield self._state.env.timeout(home.site.movable.away_s)
        if move.to_role is Role.PREFILL:
            worker = station.add(move.worker)
            self._state.env.process(
                self._announcing.beats(home, 0.0, lambda: self._announcing.prefill_beat(station, worker), None)
            )
        else:
            decoder = home.decoders[move.worker] = self._state.decoder(home.site, move.worker)
            self._state.env.process(self._announcing.beats(home, 0.0, lambda: self._announcing.decode_beat(home, decoder), None))
