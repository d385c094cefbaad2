"""Jobs that a dispatcher gave to one worker: each once, and to that worker only."""

import asyncio
import itertools

import pytest

from prfaas.bus.errors import NoRespondersError
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.jobs import JobQueue, dispatch
from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.to_decode import PrefillDispatched
from tests.bus.conftest import Connect
from tests.bus.jobs_at_hand import DEADLINE_S, HOME, MODEL, SERVES, SITE, all_waited_for, make_job, none_stored, take
from tests.bus.submitting import dispatch_to, hold

# ---- dispatched jobs


class Crash(Exception):
    """The end of a dispatcher in the midst of its work."""


async def test_a_job_is_dispatched_once_however_often_it_is_tried(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash comes between the two steps: the job is stored for its worker, and not yet removed from the queue."""
    bus = await connect()
    one, two = [await JobConsumer.open(bus, SITE, MODEL, worker, incarnation="i0", serves=SERVES) for worker in ("one", "two")]
    one.first_come = two.first_come = False
    heard: asyncio.Queue[PrefillDispatched] = asyncio.Queue()
    await bus.subscribe(subjects.progress_from(make_job().reply_to, SITE, "dispatcher"), PrefillDispatched, heard.put_nowait)
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    held = await hold(bus, SITE, HOME, MODEL, DEADLINE_S)

    async def crash() -> None:
        held.forget()
        raise Crash

    monkeypatch.setattr(held, "ack", crash)
    with pytest.raises(Crash):
        await dispatch(bus, SITE, held, "one", "i0", by="dispatcher")
    again = await hold(bus, SITE, HOME, MODEL, DEADLINE_S)
    assert again.deliveries == 2
    assert not await dispatch(bus, SITE, again, "two", "i0", by="dispatcher")
    taken = await take(one)
    assert taken.deliveries == 1 and taken.job.transfer == make_job().transfer
    assert await two.take(0.1) is None
    await taken.ack()
    await none_stored(bus)
    told = await asyncio.wait_for(heard.get(), DEADLINE_S)
    assert (told.worker, told.nuid) == ("one", "n") and heard.empty()


async def test_a_job_keeps_its_age_when_it_is_dispatched(connect: Connect) -> None:
    bus = await connect()
    one = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    one.first_come = False
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    held = await hold(bus, SITE, HOME, MODEL, DEADLINE_S)
    held._stored_unix_s -= 30.0
    assert await dispatch(bus, SITE, held, "one", "i0", by="dispatcher")
    taken = await take(one)
    assert taken.age_s >= 30.0
    await taken.ack()


async def test_while_a_dispatcher_answers_a_worker_takes_only_what_it_is_given(connect: Connect) -> None:
    bus = await connect()
    one = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    one.first_come = False
    await JobQueue(bus).submit(SITE, make_job("s1"), timeout_s=DEADLINE_S)
    taking = asyncio.create_task(take(one))
    await dispatch_to(bus, SITE, "one", make_job("o1"))
    assert ids([await taking]) == ["o1"]
    assert await one.take(0.1) is None
    waiting = asyncio.create_task(take(one))
    while not one._own.pulling():
        await asyncio.sleep(0)
    one.first_come = True  # the dispatcher is gone
    assert ids([await waiting]) == ["s1"]


async def test_what_a_dispatcher_gives_back_comes_at_once(connect: Connect) -> None:
    bus = await connect()
    one = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES, queued_ack_wait_s=DEADLINE_S)
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    held = await hold(bus, SITE, HOME, MODEL, DEADLINE_S)
    taking = asyncio.create_task(take(one))
    await held.give_back()
    async with asyncio.timeout(DEADLINE_S / 2):
        assert (await taking).deliveries == 1, "it was never dispatched before"


async def two_workers(connect: Connect) -> tuple[JobQueue, JobConsumer, JobConsumer]:
    buses = [await connect("one"), await connect("two")]
    one, two = [
        await JobConsumer.open(bus, SITE, MODEL, worker, incarnation="i0", serves=SERVES)
        for bus, worker in zip(buses, ("one", "two"), strict=True)
    ]
    return JobQueue(buses[0]), one, two


def ids(jobs: list[TakenJob]) -> list[str]:
    return [taken.job.transfer.transfer_id for taken in jobs]


async def test_a_job_for_one_worker_waits_for_it_and_comes_before_shared_ones(connect: Connect) -> None:
    queue, one, two = await two_workers(connect)
    for name in ("s1", "s2"):
        await queue.submit(SITE, make_job(name), timeout_s=DEADLINE_S)
    for name in ("o1", "o2"):
        await dispatch_to(one._bus, SITE, "one", make_job(name))
    taken = [await take(one), await take(one), await take(two), await take(two)]
    assert ids(taken) == ["o1", "o2", "s1", "s2"]
    assert await two.take(0.1) is None
    for each in taken:
        await each.ack()
    await none_stored(one._bus)


async def test_a_waiting_worker_gets_its_own_job_at_once(connect: Connect) -> None:
    queue, one, two = await two_workers(connect)
    taking = []
    for worker in (one, two):  # one after the other, for the server gives a shared job to whoever has waited longest
        taking.append(asyncio.create_task(take(worker)))
        await all_waited_for(worker)
    await dispatch_to(one._bus, SITE, "two", make_job("o1"))
    done, _ = await asyncio.wait(taking, return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_S)
    assert done == {taking[1]}
    await queue.submit(SITE, make_job("s1"), timeout_s=DEADLINE_S)
    assert ids([await taking[0], await taking[1]]) == ["s1", "o1"]
    for taken in taking:
        await taken.result().ack()


async def test_of_two_jobs_that_come_at_once_the_second_is_kept_in_progress(connect: Connect) -> None:
    """An idle worker waits for both kinds."""
    bus, other = await connect("one"), await connect("two")
    waits = {"ack_wait_s": 0.5, "queued_ack_wait_s": 0.5}
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES, **waits)
    queue = JobQueue(other)
    rival = await JobConsumer.open(other, SITE, MODEL, "two", incarnation="i0", serves=SERVES, **waits)
    # Three times the wait for an acknowledgement. A machine that stalls for longer than it may spoil a try, not all.
    for number in itertools.count():
        taking = asyncio.create_task(take(consumer))
        await all_waited_for(consumer)
        await asyncio.gather(
            queue.submit(SITE, make_job(f"s{number}"), timeout_s=DEADLINE_S),
            dispatch_to(other, SITE, "one", make_job(f"o{number}")),
        )
        first = await taking
        if (stolen := await rival.take(1.5)) is None:
            break
        await stolen.ack()
        await (await take(consumer)).ack()
    second = await take(consumer)
    assert sorted(ids([first, second])) == [f"o{number}", f"s{number}"]
    assert second.age_s >= 1.5
    await first.ack()
    await second.ack()


async def test_a_worker_that_leaves_takes_what_is_its_own_and_nothing_else(connect: Connect) -> None:
    queue, one, two = await two_workers(connect)
    assert await one.take(0.2) is None
    await queue.submit(SITE, make_job("s1"), timeout_s=DEADLINE_S)
    for name in ("o1", "o2"):
        await dispatch_to(one._bus, SITE, "one", make_job(name))
    last = [await one.take_last(DEADLINE_S), await one.take_last(DEADLINE_S)]
    assert ids([each for each in last if each]) == ["o1", "o2"]
    assert await one.take_last(DEADLINE_S) is None
    assert ids([await take(two)]) == ["s1"]
    await two._bus.request_raw(subjects.worker_alive(SITE, "one"), b"", DEADLINE_S)  # it still answers


async def test_a_job_for_a_worker_that_is_gone_leaves_the_queue_with_its_time(connect: Connect) -> None:
    await two_workers(connect)
    bus = await connect("watching")
    await dispatch_to(bus, SITE, "nobody", make_job(timeout_s=0.5))
    async with asyncio.timeout(DEADLINE_S):
        assert not await JobQueue(bus).is_there(SITE, "nobody")
        assert await JobQueue(bus).is_there(SITE, "one")
        await none_stored(bus)


async def test_a_process_that_left_is_there_no_more_though_another_one_has_its_name(connect: Connect) -> None:
    one, two, asking = [await connect(name) for name in ("first", "second", "asking")]
    await JobConsumer.open(one, SITE, MODEL, "one", incarnation="i1", serves=SERVES)
    await JobConsumer.open(two, SITE, MODEL, "one", incarnation="i2", serves=SERVES)
    await one.drain()
    assert await JobQueue(asking).is_there(SITE, "one")
    await asking.request_raw(subjects.prefill_alive(SITE, "one", "i2"), b"", DEADLINE_S)
    with pytest.raises(NoRespondersError):
        await asking.request_raw(subjects.prefill_alive(SITE, "one", "i1"), b"", DEADLINE_S)
