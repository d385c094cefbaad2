"""The worth of a cached prefix at a site: computing, waiting, shipping."""

import pytest

from prfaas.capacity.builtin import builtin_profile
from prfaas_scheduler.backlog import Backlog
from prfaas_scheduler.block_directory import Level
from prfaas_scheduler.candidates import Candidate, Holder, PrefillSite, Route
from prfaas_scheduler.prompt import Prompt

POINTS = tuple((float(tokens), builtin_profile("paper-1t-h20").prefill_s(tokens)) for tokens in (1000, 8000, 32_000, 128_000))
KV = ((1000.0, 2e8), (128_000.0, 2.4e9))


def site() -> PrefillSite:
    return PrefillSite(
        name="home", workers=3, prefill_points=POINTS, kv_points=KV, queue_s=0.0, backlog=Backlog(), link=None, now_s=0.0
    )


def candidate(prefill_tokens: int, *, holder: Holder | None = None, common_tokens: int = 0, decode_tokens: int = 0) -> Candidate:
    prompt = Prompt(prefill_tokens + 1, decode_tokens=decode_tokens)
    return Candidate(site=site(), prompt=prompt, holder=holder, common_tokens=common_tokens)


def test_the_rest_of_a_prompt_looks_back_at_its_cached_prefix() -> None:
    whole_s, cached_s, rest_s = (site().work_s(tokens) for tokens in (64_000, 60_000, 4000))
    work_s = site().work_s(64_000, 60_000)
    assert whole_s is not None and cached_s is not None and rest_s is not None and work_s is not None
    assert rest_s <= work_s < whole_s - cached_s + rest_s


def test_the_holder_is_asked_while_that_is_sooner() -> None:
    free = candidate(64_000, holder=Holder("p1", 60_000, 0.0))
    assert free.route[:3] == ("p1", 60_000, 0.0)
    assert free.uncached_tokens == 4000
    assert free.saved_s > 5.0
    assert candidate(64_000, holder=Holder("p1", 60_000, free.saved_s - 0.1)).route.worker == "p1"
    busy = candidate(64_000, holder=Holder("p1", 60_000, free.saved_s + 0.1))
    assert busy.route == Route(None, 0, 0.0, site().work_s(64_000))
    assert busy.uncached_tokens == 64_000
    assert busy.saved_s == 0.0


def test_a_prefix_that_all_workers_cache_binds_the_prompt_to_none() -> None:
    assert candidate(4000, common_tokens=2048).route[:2] == (None, 2048)


def test_the_route_is_computed_once() -> None:
    one = candidate(4000, common_tokens=2048)
    assert one.route is one.route


def test_a_prompt_counts_what_is_to_be_prefilled_and_what_a_level_has_of_it() -> None:
    prompt = Prompt(1025, 512, (Level(2, 0b11),))
    assert (prompt.prefill_tokens, prompt.cached_tokens(prompt.levels[0])) == (1024, 1024)


def test_full_layers_are_shipped_from_the_decode_workers_prefix_on() -> None:
    per_token = (2.4e9 - 2e8) / 127_000
    shipped = candidate(31_000, decode_tokens=30_000).ship_bytes
    assert shipped == pytest.approx(site().kv_bytes(31_000) - 30_000 * per_token)
    assert candidate(901, decode_tokens=900).ship_bytes > 0
