import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from infra.nats_server import NatsServer
from prfaas.bus import jobs
from prfaas.bus.control import ControlBus
from prfaas.bus.errors import MessageTooLargeError, NoRespondersError, NotConnectedError, StreamError
from prfaas.bus.jobs import JobConsumer, JobQueue, TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import pack_tokens
from tests.bus.conftest import Connect

DEADLINE_S = 20.0
SITE, MODEL = "remote", "tiny.model"


def make_job(transfer_id: str = "t1", attempt: int = 1, timeout_s: float = 60.0, tokens: int = 3) -> PrefillJob:
    transfer = KVTransfer(
        transfer_id=transfer_id, attempt=attempt, bucket="kv-local", nuid="n", prefill_tokens=tokens, fingerprint="f"
    )
    return PrefillJob(
        request_id="r",
        model=MODEL,
        transfer=transfer,
        token_ids=pack_tokens(range(tokens)),
        reply_to="prfaas.local.decode.d1.prefill",
        decode_site="local",
        timeout_s=timeout_s,
    )


async def take(consumer: JobConsumer) -> TakenJob:
    taken = await consumer.take(DEADLINE_S)
    assert taken is not None
    return taken


async def stored(bus: ControlBus) -> int:
    return (await bus.jetstream().stream_info(subjects.jobs_stream(SITE))).state.messages


async def test_a_job_is_taken_once_and_gone_after_its_ack(connect: Connect) -> None:
    bus = await connect()
    consumer, queue = await JobConsumer.open(bus, SITE, MODEL), JobQueue(bus)
    await queue.submit(SITE, make_job(), timeout_s=DEADLINE_S)
    taken = await take(consumer)
    assert taken.job == make_job()
    assert taken.deliveries == 1
    assert 0 <= taken.age_s < DEADLINE_S
    assert await consumer.take(0.1) is None
    assert await stored(bus) == 1
    await taken.ack()
    assert await stored(bus) == 0


async def test_the_same_attempt_is_stored_once_another_attempt_anew(connect: Connect) -> None:
    bus = await connect()
    consumer, queue = await JobConsumer.open(bus, SITE, MODEL), JobQueue(bus)
    for attempt in (1, 1, 2):
        await queue.submit(SITE, make_job(attempt=attempt), timeout_s=DEADLINE_S)
    assert await stored(bus) == 2
    attempts = []
    for _ in range(2):
        taken = await take(consumer)
        attempts.append(taken.job.transfer.attempt)
        await taken.ack()
    assert attempts == [1, 2]


async def test_two_consumers_share_the_queue(connect: Connect) -> None:
    bus, other = await connect("one"), await connect("two")
    consumers = [await JobConsumer.open(each, SITE, MODEL) for each in (bus, other)]
    for number in range(10):
        await JobQueue(bus).submit(SITE, make_job(str(number)), timeout_s=DEADLINE_S)
    taken = [await take(consumers[number % 2]) for number in range(10)]
    assert {each.job.transfer.transfer_id for each in taken} == {str(number) for number in range(10)}
    for each in taken:
        await each.ack()


async def test_a_waiting_take_gets_the_job_at_once(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL)
    taking = asyncio.create_task(take(consumer))
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    await (await taking).ack()


async def test_without_a_queue_or_room_in_it_submit_says_so(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = await connect()
    with pytest.raises(NoRespondersError, match=r"jobs\.remote\.prefill\.tiny_model"):
        await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    monkeypatch.setattr(jobs, "MAX_JOBS", 1)
    await JobConsumer.open(bus, SITE, MODEL)
    await JobQueue(bus).submit(SITE, make_job("t1"), timeout_s=DEADLINE_S)
    with pytest.raises(StreamError, match="maximum messages exceeded"):
        await JobQueue(bus).submit(SITE, make_job("t2"), timeout_s=DEADLINE_S)
    with pytest.raises(MessageTooLargeError):
        await JobQueue(bus).submit(SITE, make_job("t3", tokens=600_000), timeout_s=DEADLINE_S)


async def test_a_job_in_progress_is_kept_and_a_lost_one_is_delivered_again(connect: Connect) -> None:
    bus, other = await connect("one"), await connect("two")
    first, second = [await JobConsumer.open(each, SITE, MODEL, ack_wait_s=0.5) for each in (bus, other)]
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    taken = await take(first)
    assert await second.take(1.5) is None  # three times the wait for its acknowledgement
    taken._heartbeat.cancel()  # as if its process had died
    again = await take(second)
    assert (again.job, again.deliveries) == (taken.job, 2)
    await again.ack()
    assert await stored(bus) == 0


async def test_nak_and_term(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL)
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    await (await take(consumer)).nak(0.05)
    taken = await take(consumer)
    assert taken.deliveries == 2
    await taken.term("of no use")
    assert await stored(bus) == 0


async def test_after_the_last_delivery_the_decode_worker_hears_of_it(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, ack_wait_s=0.3)
    heard: asyncio.Queue[PrefillFailed] = asyncio.Queue()
    await bus.subscribe(make_job().reply_to, PrefillFailed, heard.put_nowait)
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    for delivery in range(1, jobs.MAX_DELIVERIES + 1):
        taken = await take(consumer)
        assert taken.deliveries == delivery
        taken._heartbeat.cancel()
    failing = asyncio.create_task(consumer.take(DEADLINE_S))  # the server notices with the next pull
    failed = await asyncio.wait_for(heard.get(), DEADLINE_S)
    assert (failed.transfer_id, failed.attempt, failed.code) == ("t1", 1, "max_deliveries")
    failing.cancel()
    async with asyncio.timeout(DEADLINE_S):
        while await stored(bus):
            continue


async def test_a_job_that_nobody_takes_expires(connect: Connect) -> None:
    bus = await connect()
    await JobConsumer.open(bus, SITE, MODEL)
    await JobQueue(bus).submit(SITE, make_job(timeout_s=0.5), timeout_s=DEADLINE_S)
    async with asyncio.timeout(DEADLINE_S):
        while await stored(bus):
            continue


async def test_a_message_that_is_no_job_is_removed(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL)
    await bus.jetstream().publish(subjects.jobs(SITE, MODEL), b"garbage")
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    taken = await take(consumer)
    assert taken.job == make_job()
    await taken.ack()
    assert await stored(bus) == 0


async def test_the_trace_context_goes_with_the_job(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL)
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S, parent=span)
    taken = await take(consumer)
    assert trace.get_current_span(taken.context).get_span_context().trace_id == 0xABC
    await taken.ack()


@pytest.mark.parametrize("lose_store", [False, True])
async def test_a_killed_server_loses_no_job_and_a_lost_store_is_made_again(
    server: NatsServer, connect: Connect, lose_store: bool
) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL)
    await JobQueue(bus).submit(SITE, make_job("before"), timeout_s=DEADLINE_S)
    server.kill()
    if lose_store:
        server.drop_store()
    await server.restart()
    expected = "after" if lose_store else "before"
    taking = asyncio.create_task(take(consumer))
    while lose_store:
        try:
            await JobQueue(bus).submit(SITE, make_job("after"), timeout_s=DEADLINE_S)
            break
        except NoRespondersError:  # until the consumer has made the queue again
            await asyncio.wait([taking], timeout=0.05)
    taken = await taking
    assert taken.job.transfer.transfer_id == expected
    await taken.ack()


async def test_a_closed_connection_ends_the_taking(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL)
    await bus.drain()
    with pytest.raises(NotConnectedError, match="connection is closed"):
        await consumer.take(DEADLINE_S)
