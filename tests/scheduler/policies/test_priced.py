"""Our policy: the soonest site without queues, the least capacity with them."""

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.policies.base import Choice
from prfaas_scheduler.policies.priced import MIN_REQUESTS, Priced, Prices
from tests.scheduler.policies.places import SLOW, busy, choose, site

FULL = 12.5e9


def test_without_queues_the_soonest_site_wins() -> None:
    assert choose(Priced(10.0), 30_000, site("home", SLOW), site("far", goodput_bytes_per_s=FULL)).candidate.name == "far"
    slow_link = choose(Priced(10.0), 30_000, site("home", SLOW), site("far", goodput_bytes_per_s=1e8))
    assert slow_link.outcome is Outcome.LOCAL_LINK_SCARCE


def test_with_queues_a_short_prompt_leaves_the_fast_workers_to_the_long_ones() -> None:
    def chosen(tokens: int, wait_s: float) -> Choice:
        policy = Priced(10.0)
        policy._prices = {"far": Prices(2.5, 0.0)}
        return choose(policy, tokens, busy(site("home", SLOW), wait_s), busy(site("far", goodput_bytes_per_s=FULL), wait_s))

    assert chosen(2000, 0.0).candidate.name == "far", "its workers are idle"
    assert chosen(2000, 9.0).candidate.name == "home"
    assert chosen(60_000, 9.0).candidate.name == "far"


def test_prices_come_from_the_lengths_that_were_seen() -> None:
    policy = Priced(10.0)
    for number in range(MIN_REQUESTS):
        choose(policy, 1000 + 1000 * number, site("home", SLOW), site("far", goodput_bytes_per_s=FULL))
    by_work = policy._prices["far"]
    assert 1.0 < by_work.work < 4.0 and by_work.per_byte_s == 0.0
    policy = Priced(10.0)
    for number in range(MIN_REQUESTS):
        choose(policy, 1000 + 1000 * number, site("home", SLOW), site("far", goodput_bytes_per_s=2e8))
    by_link = policy._prices["far"]
    assert by_link.work == 0.0 and by_link.per_byte_s > 0.0


def test_what_is_not_known_is_not_used() -> None:
    unknown = choose(Priced(10.0), 30_000, site("home", ()), site("far", goodput_bytes_per_s=FULL))
    assert unknown.outcome is Outcome.LOCAL_POLICY
    assert choose(Priced(10.0), 30_000, site("home", SLOW), site("far")).outcome is Outcome.LOCAL_LINK_SCARCE
    assert choose(Priced(10.0), 30_000, site("home", SLOW)).outcome is Outcome.LOCAL_NO_REMOTE
    assert choose(Priced(10.0), 30_000, None, site("far", goodput_bytes_per_s=FULL)).candidate.name == "far"
