"""Requests that the console remembers: bounded, and no tenant sees or pushes out another's."""

from hypothesis import given
from hypothesis import strategies as st

from prfaas_gateway.console.recent_requests import KEPT, TENANTS, RecentRequests
from tests.gateway.console.seen import answered, seen

tenants = st.integers(0, 2 * TENANTS).map(lambda number: f"t{number}")


@given(st.lists(st.tuples(tenants, st.booleans()), max_size=400))
def test_whatever_comes_the_memory_is_bounded_and_each_list_is_of_its_tenant(steps: list[tuple[str, bool]]) -> None:
    requests = RecentRequests()
    for number, (tenant, ends) in enumerate(steps):
        request = answered(f"r{number}", tenant=tenant)
        requests.began(request)
        if ends:
            requests.first_token(request, float(number))
            requests.ended(request, float(number))
        requests.validate()
        shown = requests.of(tenant)
        assert all(each.tenant == tenant for each in (*shown.running.values(), *shown.ended))
        assert (shown.find(request.request_id) is request) and len(shown.latest(KEPT)) <= KEPT


def test_a_tenant_that_floods_does_not_push_out_anothers_requests() -> None:
    requests = RecentRequests()
    requests.ended(answered("quiet", tenant="a"), 1.0)
    for number in range(10 * KEPT):
        requests.ended(answered(f"r{number}", tenant="b"), 1.0)
    assert requests.of("a").find("quiet") is not None
    assert requests.of("b").find("quiet") is None
    assert requests.of(None).find("quiet") is None, "the list of all has the last ones only"


def test_one_more_tenant_forgets_the_one_that_was_quiet_for_longest() -> None:
    requests = RecentRequests()
    for number in range(TENANTS + 1):
        requests.ended(answered(tenant=f"t{number}"), 1.0)
    assert not requests.of("t0").ended and requests.of("t1").ended


def test_without_a_console_nothing_is_kept() -> None:
    requests = RecentRequests(0)
    request = answered()
    requests.began(request)
    requests.first_token(request, 1.0)
    requests.ended(request, 1.0)
    assert not requests.of(None).running and not requests.of(None).ended and requests.of(None).slots.empty


def test_requests_under_way_are_shown_before_those_that_ended_and_each_once() -> None:
    requests = RecentRequests()
    for number in range(KEPT):
        requests.ended(answered(f"e{number}"), 1.0)
    for number in range(3):
        requests.began(seen(f"r{number}"))
    latest = [each.request_id for each in requests.of(None).latest(KEPT)]
    assert latest[:3] == ["r0", "r1", "r2"] and latest[-1] == f"e{KEPT - 1}" and len(latest) == len(set(latest)) == KEPT
