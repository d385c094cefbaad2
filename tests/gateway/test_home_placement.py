"""Placements of the gateway itself: in silence, of short prompts, up to a number, where there is room."""

import asyncio

from prfaas.contracts.terms import Outcome, Role
from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_gateway.home_placement import HomeLimits, HomePlacement
from prfaas_gateway.job import Job

LIMITS = HomeLimits(after_s=1.0, tokens=100, requests=2)


def beat(worker: str, role: Role = Role.DECODE, *, running: int = 0, draining: bool = False, site: str = "home") -> Heartbeat:
    return Heartbeat(
        site=site, worker=worker, role=role, model="m", fingerprint="f", max_context_tokens=900, running=running, slots=2,
        waiting_limit=1, draining=draining,
    )  # fmt: skip


def job(request_id: str, tokens: int = 100) -> Job:
    deadline_at = asyncio.get_running_loop().time() + 30
    return Job(
        request_id=request_id, model="m", tenant="", cache_scope="", token_ids=[1] * tokens, sampling=Sampling(max_tokens=1),
        ttft_deadline_s=30, deadline_at=deadline_at,
    )  # fmt: skip


def home(*beats: Heartbeat) -> HomePlacement:
    found = HomePlacement("home", LIMITS)
    for each in (beat("p0", Role.PREFILL), *beats):
        found.handle_beat(each.key, each, 0.0)
    return found


async def test_a_short_prompt_is_placed_at_home_after_a_silence() -> None:
    placed = home(beat("d0")).place(job("a"), 1.0, (), 0.5)
    assert placed is not None
    assert (placed.prefill_site, placed.decode_worker, placed.fallback_site) == ("home", "d0", None)
    assert placed.outcome is Outcome.LOCAL_NO_SCHEDULER and "100 tokens" in placed.reason


async def test_what_the_limits_exclude_waits() -> None:
    found = home(beat("d0"))
    assert found.place(job("a"), 0.9, (), 0.5) is None
    assert found.place(job("a", tokens=101), 1.0, (), 0.5) is None
    assert found.place(job("a"), 1.0, ("d0",), 0.5) is None
    assert found.in_flight == 0


async def test_only_so_many_are_in_flight_and_one_that_ends_makes_room() -> None:
    found = home(beat("d0"), beat("d1"))
    assert found.place(job("a"), 1.0, (), 0.5) and found.place(job("b"), 1.0, (), 0.5)
    assert found.place(job("c"), 1.0, (), 0.5) is None
    assert found.place(job("b"), 1.0, ("d0",), 0.5), "one that was refused is no new one"
    found.end("a")
    assert found.place(job("c"), 1.0, (), 0.5)


async def test_the_least_loaded_worker_is_chosen_and_own_placements_count_until_its_next_beat() -> None:
    found = home(beat("d0", running=1), beat("d1"))
    chosen = []
    for name in "abcdef":
        placed = found.place(job(name), 1.0, (), 0.5)
        chosen.append(placed.decode_worker if placed else None)
        found.end(name)
    assert chosen == ["d1", "d0", "d1", "d0", "d1", None], "both are full then"
    found.handle_beat("home.decode.d0", beat("d0", running=2), 0.0)
    placed = found.place(job("f"), 1.0, (), 0.5)
    assert placed is not None and placed.decode_worker == "d0"


async def test_workers_that_leave_are_gone_or_cannot_be_served_get_nothing() -> None:
    assert home(beat("d0", draining=True)).place(job("a"), 1.0, (), 0.5) is None
    assert home(beat("d0", site="far")).place(job("a"), 1.0, (), 0.5) is None
    found = home(beat("d0"))
    found.handle_beat("home.prefill.p0", None, 0.0)
    assert found.place(job("a"), 1.0, (), 0.5) is None, "no KV could be made for it"
    found = home(beat("d0"))
    found.handle_beat("home.decode.d0", None, 0.0)
    assert found.place(job("a"), 1.0, (), 0.5) is None


async def test_workers_that_were_not_heard_since_the_silence_began_get_nothing() -> None:
    """Else a whole site that stands still would look like one without a scheduler."""
    found = home(beat("d0"))
    assert found.place(job("a"), 5.0, (), 6.0) is None
    for each in (beat("p0", Role.PREFILL), beat("d0")):
        found.handle_beat(each.key, each, 2.0)
    assert found.place(job("a"), 5.0, (), 6.0)
