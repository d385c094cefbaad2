"""State of a running simulation: sites with their machines, links and schedulers."""

from collections.abc import Callable

from load.simulate.clock import Clock
from load.simulate.decode import DecodeWorker
from load.simulate.link import Link
from load.simulate.prefill import PrefillStation
from load.simulate.pulls import Pulls
from load.simulate.scenario import PdSite, PrefillPool, Scenario
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.replay.record import Record
from prfaas_scheduler.service_core import SchedulerCore


class Home:
    """A pd site with its scheduler."""

    def __init__(self, state: "State", site: PdSite) -> None:
        self.site = site
        self.name = site.name
        self.core = SchedulerCore(site.name, site.policy(), tpot_objective_s=site.tpot_objective_s, pulls=site.pulls)
        self.decoders = {f"d{index}": state.decoder(site, f"d{index}") for index in range(site.decode.workers)}
        self.roles = site.movable.controller(self.core.fleet) if site.movable else None
        self.role_changes: list[tuple[float, str, str]] = []
        self.records: list[Record] = []
        self.failed_after_s: dict[int, float] = {}
        """Age of each request that failed, at that moment, by its place in the order of arrival."""
        self.decode_tokens = 0
        """Prefix tokens that its decode workers had cached, over all requests."""
        self.cached_tokens = [0] * len(site.arrivals)
        """Prefix tokens that its best prefill worker had cached when each prompt was placed."""


class State:
    def __init__(self, scenario: Scenario, announce_blocks: Callable[[BlocksChanged], None]) -> None:
        """`announce_blocks`: called with each change of a prefill worker's cache."""
        self.scenario = scenario
        self.clock = Clock()
        self.timing = scenario.timing
        self.block_tokens = round(scenario.block_tokens / scenario.token_scale)
        self._announce_blocks = announce_blocks
        self.homes = [Home(self, site) for site in scenario.pd]
        self.stations: dict[str, PrefillStation] = {}
        self.links: dict[tuple[str, str], Link] = {}
        """Links by (source, destination)."""
        self.pulls = Pulls(self.clock, self.stations, self.links, scenario.timing.control_s)
        for site in scenario.pd:
            if site.prefill is not None:
                self.stations[site.name] = self._station(site.name, site.prefill)
        for remote in scenario.prfaas:
            self.stations[remote.name] = self._station(remote.name, remote.prefill)
            for destination, spec in remote.links.items():
                self.links[remote.name, destination] = Link(spec)

    def decoder(self, site: PdSite, name: str) -> DecodeWorker:
        made_by = self.scenario
        return DecodeWorker(
            self.clock,
            site.name,
            name,
            site.decode,
            made_by.token_scale,
            made_by.time_scale,
            block_tokens=made_by.block_tokens,
        )

    def control_s(self, link: Link | None) -> float:
        """Delay of one control message, within a site or over a link."""
        return self.timing.control_s + (link.rtt_s / 2 if link else 0.0)

    def is_shared(self, site: str) -> bool:
        """True if several pd sites place prompts there."""
        return len(self.homes) > 1 and all(home.name != site for home in self.homes)

    def _station(self, name: str, pool: PrefillPool) -> PrefillStation:
        scale, pace = self.scenario.token_scale, self.scenario.time_scale
        block_tokens = self.scenario.block_tokens
        return PrefillStation(
            self.clock, name, pool, scale, pace, self._announce_blocks, block_tokens=block_tokens, pull=self.pulls.begin
        )
