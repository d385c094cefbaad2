import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.secrets.tenants_file import Limits
from prfaas_gateway.tenants.bucket import Bucket
from prfaas_gateway.tenants.usage import Limit, LimitReached, Place, Usage

AMOUNTS = st.integers(1, 10_000)
MOMENTS = st.lists(st.floats(0, 1000, allow_nan=False), min_size=1, max_size=60).map(sorted)


@given(capacity=AMOUNTS, per_minute=AMOUNTS, moments=MOMENTS, wanted=st.data())
def test_a_bucket_never_gives_more_than_it_holds_and_refills(
    capacity: int, per_minute: int, moments: list[float], wanted: st.DataObject
) -> None:
    bucket = Bucket(capacity, per_minute / 60, 0.0)
    taken = 0
    for now_s in moments:
        amount = wanted.draw(st.integers(1, capacity))
        if bucket.seconds_until(amount, now_s) == 0:
            bucket.take(amount, now_s)
            taken += amount
        bucket.validate()
        assert taken <= (capacity + now_s * per_minute / 60) * (1 + 1e-6) + 1e-6


@given(capacity=AMOUNTS, per_minute=AMOUNTS, used=st.integers(0, 100_000), amount=AMOUNTS, now_s=st.floats(0, 1e6))
def test_the_time_that_a_bucket_names_is_enough_and_no_less_would_be(
    capacity: int, per_minute: int, used: int, amount: int, now_s: float
) -> None:
    bucket = Bucket(capacity, per_minute / 60, now_s)
    bucket.take(used, now_s)
    wait_s = bucket.seconds_until(amount, now_s)
    if amount > capacity:
        assert wait_s == math.inf
        return
    assert bucket.seconds_until(amount, now_s + wait_s) <= 1e-6 + wait_s * 1e-6
    if wait_s > 0.01:
        assert bucket.seconds_until(amount, now_s + wait_s * 0.99) > 0


@given(old=AMOUNTS, new=AMOUNTS, used=st.integers(0, 20_000), back=st.floats(-10, 10))
def test_a_bucket_that_is_resized_remembers_what_was_used_and_no_clock_that_goes_back_fills_it(
    old: int, new: int, used: int, back: float
) -> None:
    bucket = Bucket(old, old / 60, 100.0)
    bucket.take(used, 100.0)
    bucket.resize(new, new / 60, 100.0 - abs(back))
    bucket.validate()
    assert bucket.level(100.0) == pytest.approx(new - used)


LIMITS = st.builds(
    Limits,
    requests_per_minute=st.none() | st.integers(1, 50),
    tokens_per_minute=st.none() | st.integers(1, 5000),
    requests_at_once=st.none() | st.integers(1, 8),
    link_bytes_per_day=st.none() | st.integers(1, 10**9),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "leave", "ship", "change"]), st.floats(0, 30), st.integers(1, 2000)), max_size=80
)


@given(limits=LIMITS, others=LIMITS, gateways=st.integers(1, 4), steps=STEPS)
def test_whatever_comes_no_limit_is_exceeded_and_every_refusal_is_honest(
    limits: Limits, others: Limits, gateways: int, steps: list[tuple[str, float, int]]
) -> None:
    usage, now_s, entered = Usage(limits, gateways, 0.0), 0.0, 0
    running: list[Place] = []
    unchanged = True
    for step, after_s, amount in steps:
        now_s += after_s
        match step:
            case "enter":
                found = usage.enter(now_s)
                if isinstance(found, Place):
                    running.append(found)
                    entered += 1
                    usage.reserve(found, amount, now_s)
                else:
                    assert found.retry_after_s is not None and found.retry_after_s > 0
                    if found.limit is not Limit.REQUESTS_AT_ONCE:
                        again = usage.enter(now_s + found.retry_after_s * (1 + 1e-6) + 1e-6)
                        if isinstance(again, LimitReached):
                            assert again.limit is Limit.REQUESTS_AT_ONCE or again.retry_after_s == 0, again
                        else:
                            now_s += found.retry_after_s * (1 + 1e-6) + 1e-6
                            running.append(again)
                            entered += 1
            case "leave" if running:
                usage.leave(running.pop(0), amount, now_s)
            case "ship":
                usage.ship(amount, now_s)
            case "change":
                usage.change(others, now_s)
                unchanged = False
        usage.validate()
        assert usage.running == len(running)
        if unchanged and limits.requests_at_once is not None:
            assert len(running) <= max(1, limits.requests_at_once // gateways)
        if unchanged and limits.requests_per_minute is not None:
            share = limits.requests_per_minute / gateways
            assert entered <= (max(1.0, share) + share * now_s / 60) * (1 + 1e-6)


def check_refusal(found: object, limit: Limit, allowed: float, retry_after_s: float) -> None:
    assert isinstance(found, LimitReached)
    assert (found.limit, found.allowed) == (limit, allowed)
    assert found.retry_after_s == pytest.approx(retry_after_s)


def entered(usage: Usage, now_s: float) -> Place:
    place = usage.enter(now_s)
    assert isinstance(place, Place)
    return place


def test_reserved_tokens_that_were_not_used_come_back() -> None:
    usage = Usage(Limits(tokens_per_minute=100), 1, 0.0)
    place = entered(usage, 0.0)
    assert usage.reserve(place, 90, 0.0) is None
    assert usage.reserve(entered(usage, 0.0), 11, 0.0) is not None
    usage.leave(place, 20, 0.0)
    again = entered(usage, 0.0)
    check_refusal(usage.reserve(again, 90, 0.0), Limit.TOKENS_PER_MINUTE, 100, 6.0)
    assert usage.reserve(again, 80, 0.0) is None
    quota = usage.quota(Limit.TOKENS_PER_MINUTE, 0.0)
    assert quota is not None and (quota.limit, quota.remaining) == (100, 0)


def test_without_any_token_left_none_is_let_in_until_there_are_as_many_as_requests_take() -> None:
    usage = Usage(Limits(tokens_per_minute=60), 1, 0.0)
    for tokens in (20, 40):
        assert usage.reserve(entered(usage, 0.0), tokens, 0.0) is None
    check_refusal(usage.enter(0.0), Limit.TOKENS_PER_MINUTE, 60, 30.0)
    entered(usage, 1.0)


def test_more_tokens_than_the_limit_are_never_a_matter_of_time() -> None:
    usage = Usage(Limits(tokens_per_minute=100), 1, 0.0)
    assert usage.reserve(entered(usage, 0.0), 101, 0.0) == LimitReached(Limit.TOKENS_PER_MINUTE, 100, None)


def test_a_full_house_says_when_its_oldest_request_will_probably_end() -> None:
    usage = Usage(Limits(requests_at_once=1), 1, 0.0)
    usage.leave(entered(usage, 0.0), 0, 8.0)
    place = entered(usage, 10.0)
    check_refusal(usage.enter(13.0), Limit.REQUESTS_AT_ONCE, 1, 5.0)
    assert usage.enter(30.0) == LimitReached(Limit.REQUESTS_AT_ONCE, 1, 1.0)
    usage.leave(place, 0, 31.0)
    entered(usage, 31.0)


def test_bytes_that_have_crossed_keep_later_requests_out_until_they_are_paid() -> None:
    usage = Usage(Limits(link_bytes_per_day=86_400), 1, 0.0)
    place = entered(usage, 0.0)
    usage.ship(86_400 + 99, 0.0)
    refused = usage.enter(0.0)
    assert isinstance(refused, LimitReached) and refused.limit is Limit.LINK_BYTES_PER_DAY
    assert refused.retry_after_s == pytest.approx(100.0)
    usage.leave(place, 0, 1.0)
    assert isinstance(usage.enter(99.0), LimitReached)
    entered(usage, 100.1)


def test_each_gateway_grants_its_part() -> None:
    usage = Usage(Limits(requests_per_minute=10, requests_at_once=7), 3, 0.0)
    places = [usage.enter(0.0) for _ in range(4)]
    assert [type(place) for place in places] == [Place, Place, LimitReached, LimitReached]
    small = Usage(Limits(requests_per_minute=1, requests_at_once=1), 3, 0.0)
    small.leave(entered(small, 0.0), 0, 0.0)
    refused = small.enter(0.0)
    assert isinstance(refused, LimitReached) and refused.retry_after_s == pytest.approx(180.0)


def test_a_request_for_several_answers_is_as_many_at_once() -> None:
    usage = Usage(Limits(requests_at_once=4), 1, 0.0)
    wide, other = entered(usage, 0.0), entered(usage, 1.0)
    assert usage.widen(wide, 5, 1.0) == LimitReached(Limit.REQUESTS_AT_ONCE, 4, None), "waiting helps nothing"
    assert usage.running == 2
    check_refusal(usage.widen(wide, 4, 1.0), Limit.REQUESTS_AT_ONCE, 4, 1.0)
    assert usage.widen(wide, 3, 1.0) is None
    assert usage.running == 4
    check_refusal(usage.enter(1.0), Limit.REQUESTS_AT_ONCE, 4, 1.0)
    usage.leave(other, 0, 2.0)
    assert usage.widen(wide, 4, 2.0) is None
    usage.leave(wide, 0, 2.0)
    assert usage.running == 0
