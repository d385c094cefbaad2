"""Places that tenants take in turn."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_gateway.turns import Ticket, Turns, TurnsCore


def test_tenants_take_turns_and_each_is_served_in_its_order() -> None:
    core = TurnsCore(1)
    first = core.join("a")
    waiting = [core.join(tenant) for tenant in "aaabbc"]
    assert first.granted
    assert [core.ahead(ticket) for ticket in waiting] == [0, 3, 5, 1, 4, 2]
    order = []
    ticket: Ticket | None = first
    while ticket is not None:
        ticket = core.leave(ticket)
        order += [waiting.index(ticket)] if ticket else []
    assert order == [0, 3, 5, 1, 4, 2]
    assert core.idle


@given(st.integers(1, 3), st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 9)), max_size=40))
def test_no_place_is_lost_and_ahead_is_what_happens(places: int, steps: list[tuple[str, bool, int]]) -> None:
    core = TurnsCore(places)
    tickets: list[Ticket] = []
    for tenant, joins, which in steps:
        if joins or not tickets:
            tickets.append(core.join(tenant))
        else:
            ticket = tickets.pop(which % len(tickets))
            waiting = [each for each in tickets if not each.granted]
            expected = next((each for each in waiting if core.ahead(each) == 0), None) if ticket.granted else None
            assert core.leave(ticket) is expected
        core.validate()
        assert sum(ticket.granted for ticket in tickets) == min(places, len(tickets))
        ahead = sorted(core.ahead(ticket) for ticket in tickets if not ticket.granted)
        assert ahead == list(range(len(core))), "every waiting ticket has its own place in the line"
    for ticket in tickets:
        core.leave(ticket)
    assert core.idle


async def test_a_cancelled_wait_leaves_the_line() -> None:
    turns = Turns(1)

    async def take() -> None:
        with turns.joined("a") as turn:
            await turn.granted.wait()

    with turns.joined("b"):
        waiting = asyncio.create_task(take())
        await asyncio.sleep(0)
        assert len(turns.core) == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(turns.core) == 0
    assert turns.core.idle
