"""Tenants in the simulation: whose requests are whose, and who pays for a flood."""

import pytest

from load.simulate.tenants import FLOOD, MIXES, ONE_TENANT, QUIET, measure, mixed, table


def test_a_mix_deals_requests_by_load() -> None:
    flood = mixed(FLOOD, 1.3, 10_000, 1)
    assert [flood.count(name) / 10_000 for name in QUIET] == pytest.approx([0.1 / 1.3] * 3, abs=0.01)
    alike = mixed("8 alike", 1.3, 10_000, 1)
    assert len(set(alike)) == 8 and alike == mixed("8 alike", 1.3, 10_000, 1) != mixed("8 alike", 1.3, 10_000, 2)


def test_in_overload_those_who_ask_for_little_are_served_before_one_that_floods() -> None:
    outcomes = {(each.told, each.who): each for each in measure(1.3, 1, 400.0)}
    assert {told for told, _ in outcomes} == {ONE_TENANT, *MIXES}
    unknown, known = (outcomes[told, "quiet"].kept_share for told in (ONE_TENANT, FLOOD))
    assert known > 0.93 > 0.9 > unknown, "what they lose where the queue does not know whose requests they are"
    assert known > outcomes[FLOOD, FLOOD].kept_share + 0.08
    # Tenants that ask alike lose nothing by being told apart.
    whole = outcomes[ONE_TENANT, "all"].kept_share
    assert all(outcomes[mix, "all"].kept_share > whole - 0.02 for mix in ("2 alike", "8 alike"))
    assert table(list(outcomes.values()), "kept_share", "title").row_count == len(outcomes)
