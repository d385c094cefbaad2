"""Simulated pulls: done where they are soon, given up where they are late, and never in the way of a request's KV."""

import math
from collections.abc import Sequence

import pytest

from load.simulate.clock import Clock
from load.simulate.link import Link
from load.simulate.prefill import PrefillStation
from load.simulate.prefill_job import Job, Prompt
from load.simulate.pulls import PIECE_S, Pulls
from load.simulate.scenario import LinkSpec, PrefillPool
from prfaas.capacity.builtin import builtin_profile
from prfaas.contracts.kv import PrefixSource
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.kvcache.blocks import unpack_hashes

H20 = builtin_profile("paper-1t-h20")
BLOCK_TOKENS = 512
BLOCKS = tuple(range(1, 65))
"""A prefix of 32,768 tokens: 4.6 s to compute, 0.73 GB."""
TOKENS = len(BLOCKS) * BLOCK_TOKENS


class Sites:
    """A pd site with two workers, a prefill site with one, and a link from there."""

    def __init__(self, gbit_s: float) -> None:
        self.clock = Clock()
        self.link = Link(LinkSpec(rates=((0.0, gbit_s * 1e9 / 8),), rtt_s=0.02))
        self.stations: dict[str, PrefillStation] = {}
        self.pulls = Pulls(self.clock, self.stations, {("far", "home"): self.link}, 0.002)
        self.told: list[BlocksChanged] = []
        for site, workers in (("home", 2), ("far", 1)):
            pool = PrefillPool(profile=H20, workers=workers, cache_bytes=100_000_000_000)
            self.stations[site] = PrefillStation(self.clock, site, pool, 1.0, 1.0, self.told.append, pull=self.pulls.begin)

    def prefill(
        self, worker: str, blocks: Sequence[int] = BLOCKS, *, pull: PrefixSource | None = None, site: str = "home"
    ) -> Job:
        prompt = Prompt(len(blocks) * BLOCK_TOKENS, tuple(blocks), BLOCK_TOKENS)
        job = Job(prompt, None, worker=worker, pull=pull)
        self.stations[site].submit(job)
        return job

    def run(self) -> float:
        """Runs all that is due. Returns the seconds that it took."""
        started_s = self.clock.now_s
        self.clock.run()
        return self.clock.now_s - started_s


def source(site: str, worker: str = "p0", *, timeout_s: float = 60.0) -> PrefixSource:
    return PrefixSource(site=site, worker=worker, tokens=TOKENS, timeout_s=timeout_s)


def test_a_pulled_prefix_is_not_computed_and_is_told() -> None:
    for site, gbit_s in (("home", 1.0), ("far", 100.0)):
        sites = Sites(gbit_s)
        sites.prefill("p0", site=site)
        alone_s = sites.run()
        sites.told.clear()
        job = sites.prefill("p1", [*BLOCKS, 100], pull=source(site))
        sites.run()
        assert job.verified and job.cached_tokens == TOKENS and job.prompt.tokens > TOKENS
        assert sites.stations["home"].worker("p1").busy_s < alone_s / 4  # type: ignore[union-attr]
        assert sites.pulls.results == {f"{site} done": 1}
        assert sites.pulls.sent_bytes[site] == pytest.approx(0.73e9, rel=0.05)
        assert {changed.worker for changed in sites.told} == {"p1"}
        assert BLOCKS[-1] in {block for changed in sites.told for block in unpack_hashes(changed.stored)}
        assert (sites.stations["home"].pull_bytes_per_s > 0) == (site == "home")


def test_a_late_pull_is_given_up_and_the_prefix_computed() -> None:
    sites = Sites(gbit_s=0.1)
    sites.prefill("p0", site="far")
    sites.run()
    job = sites.prefill("p1", pull=source("far", timeout_s=1.0))
    sites.run()
    assert job.verified and job.cached_tokens == 0
    assert sites.pulls.results == {"far late": 1}
    assert 0 < sites.pulls.sent_bytes["far"] < 0.1e9
    assert sites.stations["far"].worker("p0").sending == 0  # type: ignore[union-attr]


def test_who_does_not_hold_it_refuses() -> None:
    sites = Sites(gbit_s=100.0)
    job = sites.prefill("p1", pull=source("far", "unknown"))
    other = sites.prefill("p0", pull=source("far"))
    sites.run()
    assert job.verified and other.verified and sites.pulls.results == {"far refused": 2}


def test_what_another_site_made_is_not_handed_on() -> None:
    sites = Sites(gbit_s=100.0)
    sites.prefill("p0", site="far")
    sites.run()
    sites.prefill("p0", pull=source("far"))
    sites.run()
    job = sites.prefill("p1", pull=source("home"))
    sites.run()
    assert sites.pulls.results == {"far done": 1, "home refused": 1} and job.cached_tokens == 0


def test_a_cancelled_job_ends_its_pull_and_frees_its_worker() -> None:
    sites = Sites(gbit_s=1.0)
    sites.prefill("p0", site="far")
    sites.run()
    job = sites.prefill("p1", pull=source("far"))
    sites.clock.run(sites.clock.now_s + 0.3)
    sites.stations["home"].withdraw(job)
    sites.run()
    assert sites.pulls.results == {"far late": 1} and not job.verified
    assert not sites.stations["home"].worker("p1").busy  # type: ignore[union-attr]


def test_a_pull_waits_for_requests_and_a_request_for_one_piece_at_most() -> None:
    sites = Sites(gbit_s=10.0)
    sites.prefill("p0", site="far")
    sites.run()
    started_at = sites.clock.now_s
    busy_until_at = sites.link.send(1.25e9 * 0.2, started_at) - sites.link.rtt_s / 2
    job = sites.prefill("p1", pull=source("far"))
    sites.clock.run(busy_until_at - 1e-6)
    assert sites.link.free_at == pytest.approx(started_at + 0.2), "nothing of the pull is queued"
    sites.clock.run(busy_until_at + 0.1)
    now_s = sites.clock.now_s
    assert 0 < sites.link.free_at - now_s <= PIECE_S + 1e-9
    sites.run()
    assert job.verified and job.cached_tokens == TOKENS and math.isclose(sites.pulls.sent_bytes["far"], 0.73e9, rel_tol=0.05)
