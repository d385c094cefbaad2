"""What a cached prefix is worth at a site: computing, waiting, shipping."""

import pytest

from prfaas.capacity.builtin import builtin_profile
from prfaas_scheduler.backlog import Backlog
from prfaas_scheduler.candidates import Holder, PrefillSite, Route

POINTS = tuple((float(tokens), builtin_profile("paper-1t-h20").prefill_s(tokens)) for tokens in (1000, 8000, 32_000, 128_000))
KV = ((1000.0, 2e8), (128_000.0, 2.4e9))


def site(workers: int = 3, holder: Holder | None = None, common_tokens: int = 0, decode_tokens: int = 0) -> PrefillSite:
    return PrefillSite("home", workers, POINTS, KV, 0.0, Backlog(), None, 0.0, holder, common_tokens, decode_tokens)


def test_the_rest_of_a_prompt_looks_back_at_its_cached_prefix() -> None:
    whole_s, cached_s, rest_s = (site().work_s(tokens) for tokens in (64_000, 60_000, 4000))
    work_s = site().work_s(64_000, 60_000)
    assert whole_s is not None and cached_s is not None and rest_s is not None and work_s is not None
    assert rest_s <= work_s < whole_s - cached_s + rest_s


def test_the_holder_is_asked_while_that_is_sooner() -> None:
    free = site(holder=Holder("p1", 60_000, 0.0))
    assert free.route(64_000)[:3] == ("p1", 60_000, 0.0)
    assert free.uncached_tokens(64_000) == 4000
    saved_s = free.saved_s(64_000)
    assert saved_s > 5.0
    assert site(holder=Holder("p1", 60_000, saved_s - 0.1)).route(64_000).worker == "p1"
    busy = site(holder=Holder("p1", 60_000, saved_s + 0.1))
    assert busy.route(64_000) == Route(None, 0, 0.0, busy.work_s(64_000))
    assert busy.uncached_tokens(64_000) == 64_000


def test_what_all_workers_have_binds_nobody() -> None:
    assert site(common_tokens=2048).route(4000)[:2] == (None, 2048)


def test_full_layers_are_shipped_from_the_decode_workers_prefix_on() -> None:
    per_token = (2.4e9 - 2e8) / 127_000
    assert site(decode_tokens=30_000).ship_bytes(31_000) == pytest.approx(site().kv_bytes(31_000) - 30_000 * per_token)
    assert site(decode_tokens=900).ship_bytes(901) > 0


def test_jobs_bound_to_one_worker_leave_the_others_free() -> None:
    backlog = Backlog()
    for number in range(4):
        backlog.add(str(number), 5.0, 0.0, 3, 0.0, "p1")
    assert backlog.wait_s(3, 0.0) == 0.0
    assert backlog.worker_wait_s("p1", 3, 0.0) == 20.0
    assert backlog.worker_wait_s("p2", 3, 0.0) < 20.0
    backlog.add("other", 5.0, 0.0, 3, 0.0)
    backlog.add("another", 5.0, 0.0, 3, 0.0)
    assert backlog.wait_s(3, 0.0) > 0.0
    backlog.validate()
    for number in range(4):
        backlog.remove(str(number), 3, 1.0)
        backlog.validate()
    assert backlog.worker_wait_s("p1", 3, 1.0) == backlog.worker_wait_s("p2", 3, 1.0)
