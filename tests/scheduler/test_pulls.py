"""The scheduler has a prefix pulled when that beats computing it and waiting for who has it, and from whom it may be."""

from array import array
from typing import Any

import pytest

from prfaas.contracts.terms import Outcome, Role
from prfaas.contracts.to_gateway import Placement
from prfaas.contracts.to_scheduler import BlocksChanged, Heartbeat, LinkEstimate, PlaceRequest
from prfaas_scheduler.events import CacheChanged, HeartbeatReceived, LinkMeasured, PlacementRequested, SiteDistrusted
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.policies.baselines import LocalOnly
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.pull_sources import OVERHEAD_S, PullOptions
from prfaas_scheduler.service_core import PULL_LEAST_S, PULL_SLACK, SchedulerCore
from tests.scheduler.placing import SPEED, beat, far_link

BLOCK = 100
"""100 tokens take 0.1 s and 10 MB here."""
EVERYWHERE = PullOptions(True, ("far",))


def worker(site: str, name: str, **more: Any) -> Heartbeat:
    return beat(site, name, Role.PREFILL, **({"pulls": True} | SPEED | more))


def scheduler(*beats: Heartbeat, policy: Policy | None = None, pulls: PullOptions = EVERYWHERE) -> SchedulerCore:
    core = SchedulerCore("home", policy or LocalOnly(), pulls=pulls)
    for heard in (beat("home", "d0", Role.DECODE, slots=50), *beats):
        core.handle(HeartbeatReceived(0.0, heard))
    return core


def holds(core: SchedulerCore, site: str, name: str, blocks: int, on_disk: bytes = b"") -> None:
    changed = BlocksChanged(
        site=site, worker=name, role=Role.PREFILL, incarnation="i", sequence=1,
        stored=bytes(array("Q", range(1, blocks + 1))), on_disk=on_disk,
    )  # fmt: skip
    core.handle(CacheChanged(0.0, changed))


def ask(core: SchedulerCore, tokens: int = 1001, name: str = "r") -> Placement:
    request = PlaceRequest(
        request_id=name,
        model="m",
        prompt_tokens=tokens,
        max_tokens=8,
        ttft_deadline_s=100.0,
        block_hashes=bytes(array("Q", range(1, tokens // BLOCK + 1))),
        block_tokens=BLOCK,
    )
    (answer,) = core.handle(PlacementRequested(0.0, request))
    core.validate()
    assert isinstance(answer.answer, Placement)
    return answer.answer


def test_an_idle_holder_gets_the_prompt_and_a_busy_ones_prefix_is_pulled() -> None:
    core = scheduler(worker("home", "p0"), worker("home", "p1", pull_bytes_per_s=1e9))
    holds(core, "home", "p0", 9)
    first, *others = [ask(core, name=f"r{number}") for number in range(20)]
    assert (first.prefill_worker, first.pull) == ("p0", None)
    pulled = next(answer for answer in others if answer.pull is not None)
    assert pulled.prefill_worker is None and pulled.pull is not None
    assert (pulled.pull.site, pulled.pull.worker, pulled.pull.tokens) == ("home", "p0", 900)
    pull_s = OVERHEAD_S + 9e7 / 1e9
    assert pulled.pull.timeout_s == pytest.approx(PULL_SLACK * pull_s + PULL_LEAST_S, rel=0.2)
    assert "900 of 1000 tokens are pulled from p0 of home" in pulled.reason


def pulls_of_many(core: SchedulerCore) -> int:
    """Returns how many of some prompts at once are placed with a pull."""
    return sum(ask(core, name=f"r{number}").pull is not None for number in range(20))


@pytest.mark.parametrize(
    ("changes", "pulls"),
    [
        ({}, PullOptions(False)),
        ({"pulls": False}, EVERYWHERE),
        ({"pull_bytes_per_s": 1e6}, EVERYWHERE),
    ],
    ids=["switched off", "workers that cannot", "slower than computing"],
)
def test_no_pull(changes: dict[str, Any], pulls: PullOptions) -> None:
    core = scheduler(worker("home", "p0", **changes), worker("home", "p1", **changes), pulls=pulls)
    holds(core, "home", "p0", 9)
    assert not pulls_of_many(core)


def test_what_is_on_disk_costs_its_reading() -> None:
    for disk_bytes_per_s, found in ((1e9, True), (1e8, False)):
        workers = [worker("home", name, pull_bytes_per_s=1e9, disk_bytes_per_s=disk_bytes_per_s) for name in ("p0", "p1")]
        core = scheduler(*workers)
        holds(core, "home", "p0", 9, on_disk=b"\xff\x01")
        assert (pulls_of_many(core) > 0) is found


def test_from_other_sites_only_where_the_configuration_names_them_and_the_link_is_known_and_trusted() -> None:
    def core_of(pulls: PullOptions, link: LinkEstimate | None) -> SchedulerCore:
        core = scheduler(worker("home", "p0"), worker("far", "p1"), pulls=pulls)
        if link is not None:
            core.handle(LinkMeasured(0.0, link))
        holds(core, "far", "p1", 9)
        return core

    pull = ask(core_of(EVERYWHERE, far_link(1e9))).pull
    assert pull is not None and (pull.site, pull.worker, pull.tokens) == ("far", "p1", 900)
    assert ask(core_of(PullOptions(True), far_link(1e9))).pull is None
    assert ask(core_of(EVERYWHERE, None)).pull is None
    assert ask(core_of(EVERYWHERE, far_link(1e7))).pull is None, "slower than computing"
    distrusted = core_of(EVERYWHERE, far_link(1e9))
    distrusted.handle(SiteDistrusted(0.0, "far"))
    assert ask(distrusted).pull is None


def test_threshold_counts_a_far_cache_as_its_own_while_bandwidth_is_abundant() -> None:
    """Paper, section 3.4.3: 30K tokens, t = 19.4K, 10K here and 25K there; a tenth of that."""
    for scarce, site in ((True, "far"), (False, "home")):
        policy = Threshold(1940)
        policy.bandwidth_scarce = scarce
        core = scheduler(worker("home", "p0"), worker("far", "p1"), policy=policy)
        core.handle(LinkMeasured(0.0, far_link(1e9)))
        holds(core, "home", "p0", 10)
        holds(core, "far", "p1", 25)
        answer = ask(core, 3001)
        assert answer.prefill_site == site
        assert (answer.pull is not None) is (not scarce)
        assert answer.outcome is (Outcome.OFFLOADED if scarce else Outcome.LOCAL_SHORT)
        assert answer.fallback_site == ("home" if scarce else None)


def test_without_pulls_it_goes_to_where_the_cache_is_as_before() -> None:
    policy = Threshold(1940)
    policy.bandwidth_scarce = False
    core = scheduler(worker("home", "p0"), worker("far", "p1"), policy=policy, pulls=PullOptions(True))
    core.handle(LinkMeasured(0.0, far_link(1e9)))
    holds(core, "far", "p1", 25)
    answer = ask(core, 3001)
    assert (answer.prefill_site, answer.pull) == ("far", None)
