import asyncio

import pytest

from prfaas.contracts.to_gateway import Tokens
from prfaas.telemetry.faults import FAULTS
from prfaas_gateway.decode_workers import DecodeWorker
from prfaas_gateway.in_flight import EventOverflowError, InFlight, WorkerLostError

WORKER = "d1"


def event(request_id: str, sequence: int) -> Tokens:
    return Tokens(request_id=request_id, sequence=sequence, text="a", token_ids=(1,))


async def test_each_request_gets_its_own_events_in_order() -> None:
    table = InFlight(queue_limit=8)
    with table.open("a") as a, table.open("b") as b:
        a.asked = b.asked = WORKER
        for name, sequence in (("a", 0), ("b", 0), ("a", 1)):
            assert table.dispatch(WORKER, event(name, sequence))
        assert [await a.get(1), await a.get(1)] == [event("a", 0), event("a", 1)]
        assert await b.get(1) == event("b", 0)
    assert len(table) == 0


async def test_a_waiting_request_is_woken() -> None:
    table = InFlight(queue_limit=8)
    with table.open("a") as queue:
        queue.asked = WORKER
        waiting = asyncio.create_task(queue.get(5))
        await asyncio.sleep(0)
        table.dispatch(WORKER, event("a", 0))
        assert await waiting == event("a", 0)


async def test_nothing_in_time_is_a_timeout() -> None:
    with InFlight(queue_limit=8).open("a") as queue:
        for timeout_s in (0.0, -1.0, 0.01):
            with pytest.raises(TimeoutError):
                await queue.get(timeout_s)


async def test_an_overflow_fails_the_request_instead_of_losing_an_event() -> None:
    table = InFlight(queue_limit=2)
    with table.open("a") as queue, table.open("b") as other:
        queue.asked = other.asked = WORKER
        for sequence in range(4):
            table.dispatch(WORKER, event("a", sequence))
        table.dispatch(WORKER, event("b", 0))
        for _ in range(2):
            with pytest.raises(EventOverflowError, match="more than 2"):
                await queue.get(1)
        assert await other.get(1) == event("b", 0)


def test_events_of_ended_requests_are_reported_as_strays() -> None:
    table = InFlight(queue_limit=8)
    late = FAULTS.late.copy()
    with table.open("a"):
        pass
    assert not table.dispatch(WORKER, event("a", 0))
    assert FAULTS.late - late == {type(event("a", 0)).__name__: 1}


async def test_events_of_a_worker_that_was_not_asked_are_strays() -> None:
    table = InFlight(queue_limit=8)
    with table.open("a") as queue:
        assert not table.dispatch(WORKER, event("a", 0)), "before any worker was asked"
        queue.asked = WORKER
        foreign = FAULTS.foreign.copy()
        assert not table.dispatch("other", event("a", 0))
        assert FAULTS.foreign - foreign == {type(event("a", 0)).__name__: 1}
        assert table.dispatch(WORKER, event("a", 0))


async def test_a_lost_worker_ends_its_requests_after_what_it_had_sent() -> None:
    table = InFlight(queue_limit=8)
    with table.open("a") as queue, table.open("b") as other, table.open("c") as unplaced:
        queue.asked = "gone"
        queue.worker, other.worker = DecodeWorker("gone", "i"), DecodeWorker("gone", "j")
        table.dispatch("gone", event("a", 0))
        assert table.lose(DecodeWorker("gone", "i")) == 1
        assert await queue.get(1) == event("a", 0)
        for _ in range(2):
            with pytest.raises(WorkerLostError, match="'gone' is gone"):
                await queue.get(1)
        for living in (other, unplaced):
            with pytest.raises(TimeoutError):
                await living.get(0)


async def test_an_event_that_comes_too_early_waits_for_what_was_lost_to_be_sent_again() -> None:
    table = InFlight(queue_limit=8)
    with table.open("a") as queue:
        queue.asked = WORKER
        for sequence in (0, 2, 3):
            assert table.dispatch(WORKER, event("a", sequence))
        assert table.gaps() == {"a"}
        assert await queue.get(1) == event("a", 0)
        for sequence in (1, 2, 3, 4):
            table.dispatch(WORKER, event("a", sequence))
        assert table.gaps() == set()
        assert [(await queue.get(1)).sequence for _ in range(4)] == [1, 2, 3, 4]
