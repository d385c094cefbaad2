import asyncio
import itertools
import time
from pathlib import Path

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from load.chaos.disk import SmallDisk
from prfaas.bus import job_streams
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import BusTimeoutError, MessageTooLargeError, NoRespondersError, NotConnectedError, StreamFullError
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.jobs import JobQueue
from prfaas.contracts import subjects
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.wire import encode
from prfaas.site.server_ports import ServerPorts
from prfaas.stack.nats_server import NatsServer, plain_config
from tests.bus.conftest import Connect
from tests.bus.jobs_at_hand import DEADLINE_S, HOME, MODEL, SERVES, SITE, make_job, none_stored, stored, take
from tests.bus.submitting import dispatch_to
from tests.machine import missing, no_right_to_make_devices


async def test_a_job_is_taken_once_and_gone_after_its_ack(connect: Connect) -> None:
    bus = await connect()
    consumer, queue = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES), JobQueue(bus)
    await queue.submit(SITE, make_job(), timeout_s=DEADLINE_S)
    taken = await take(consumer)
    assert msgspec.structs.replace(taken.job, waited_s=0.0) == make_job()
    assert taken.deliveries == 1
    assert 0 <= taken.age_s < DEADLINE_S
    assert await consumer.take(0.1) is None
    assert await stored(bus) == 1
    await taken.ack()
    await none_stored(bus)


async def test_the_same_attempt_is_stored_once_another_attempt_anew(connect: Connect) -> None:
    bus = await connect()
    consumer, queue = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES), JobQueue(bus)
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
    consumers = [
        await JobConsumer.open(each, SITE, MODEL, worker, incarnation="i0", serves=SERVES)
        for each, worker in ((bus, "one"), (other, "two"))
    ]
    for number in range(10):
        await JobQueue(bus).submit(SITE, make_job(str(number)), timeout_s=DEADLINE_S)
    taken = [await take(consumers[number % 2]) for number in range(10)]
    assert {each.job.transfer.transfer_id for each in taken} == {str(number) for number in range(10)}
    for each in taken:
        await each.ack()


async def test_a_waiting_take_gets_the_job_at_once(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    taking = asyncio.create_task(take(consumer))
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    await (await taking).ack()


async def test_without_a_queue_or_room_in_it_submit_says_so(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = await connect()
    with pytest.raises(NoRespondersError, match=r"jobs\.remote\.local\.prefill\.tiny_model"):
        await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    monkeypatch.setattr(job_streams, "MAX_JOBS", 1)
    await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    await JobQueue(bus).submit(SITE, make_job("t1"), timeout_s=DEADLINE_S)
    with pytest.raises(StreamFullError, match="maximum messages exceeded"):
        await JobQueue(bus).submit(SITE, make_job("t2"), timeout_s=DEADLINE_S)
    with pytest.raises(MessageTooLargeError):
        await JobQueue(bus).submit(SITE, make_job("t3", tokens=600_000), timeout_s=DEADLINE_S)


async def test_a_job_for_the_own_site_waits_for_a_queue_that_is_made_again(connect: Connect) -> None:
    """Its server may be back without its store, which prefill workers make good within a second."""
    bus = await connect()
    own = make_job().decode_site
    submitting = asyncio.create_task(JobQueue(bus).submit(own, make_job(), timeout_s=DEADLINE_S))
    await asyncio.sleep(0.3)
    assert not submitting.done()
    await JobConsumer.open(bus, own, MODEL, "one", incarnation="i0", serves=[own])
    await submitting


async def test_a_job_in_progress_is_kept_and_a_lost_one_is_delivered_again(connect: Connect) -> None:
    bus, other = await connect("one"), await connect("two")
    first, second = [
        await JobConsumer.open(each, SITE, MODEL, worker, incarnation="i0", serves=SERVES, ack_wait_s=0.5)
        for each, worker in ((bus, "one"), (other, "two"))
    ]
    # Kept for three times the wait for its acknowledgement. A machine that stalls for longer than it may spoil a try, not all.
    for number in itertools.count():
        await JobQueue(bus).submit(SITE, make_job(str(number)), timeout_s=DEADLINE_S)
        taken = await take(first)
        if (stolen := await second.take(1.5)) is None:
            break
        await stolen.ack()
    taken.forget()  # as if its process had died
    again = await take(first)
    assert again.job == taken.job and again.deliveries > 1, "no other worker gets what this one may have begun"
    await again.ack()
    await none_stored(bus)


async def test_a_job_that_is_handed_over_again_to_the_process_that_holds_it_is_the_same_one(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES, ack_wait_s=0.3)
    await dispatch_to(bus, SITE, "one", make_job())
    taken = await take(consumer)
    taken._heartbeat.cancel()  # as if the process had stood still: the server hears nothing of it
    redelivered = 0
    async with asyncio.timeout(DEADLINE_S):
        while not redelivered:
            assert await consumer.take(0.2) is None
            info = await bus.jetstream().consumer_info(subjects.dispatched_stream(SITE), "worker_one")
            redelivered = info.num_redelivered or 0
    assert await consumer.take(0.2) is None and consumer.taken == 1
    await taken.ack()
    await none_stored(bus)
    await dispatch_to(bus, SITE, "one", make_job("t2"))
    assert (await take(consumer)).job.transfer.transfer_id == "t2"


async def test_after_the_last_delivery_the_decode_worker_hears_of_it(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES, ack_wait_s=0.3)
    heard: asyncio.Queue[PrefillFailed] = asyncio.Queue()
    await bus.subscribe(subjects.progress_from(make_job().reply_to, SITE, "*"), PrefillFailed, heard.put_nowait)
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    for delivery in range(1, job_streams.MAX_DELIVERIES + 1):
        taken = await take(consumer)
        assert taken.deliveries == delivery
        taken.forget()
    failing = asyncio.create_task(consumer.take(DEADLINE_S))  # the server notices with the next pull
    failed = await asyncio.wait_for(heard.get(), DEADLINE_S)
    assert (failed.transfer_id, failed.attempt, failed.code) == ("t1", 1, "max_deliveries")
    failing.cancel()
    await none_stored(bus)


async def test_a_job_that_nobody_takes_expires(connect: Connect) -> None:
    bus = await connect()
    await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    await JobQueue(bus).submit(SITE, make_job(timeout_s=0.5), timeout_s=DEADLINE_S)
    await none_stored(bus)


async def test_a_message_that_is_no_job_is_removed(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    await bus.jetstream().publish(subjects.jobs(SITE, HOME, MODEL), b"garbage")
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S)
    taken = await take(consumer)
    assert taken.job.transfer == make_job().transfer
    await taken.ack()
    await none_stored(bus)


async def test_the_trace_context_goes_with_the_job(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    await JobQueue(bus).submit(SITE, make_job(), timeout_s=DEADLINE_S, parent=span)
    taken = await take(consumer)
    assert trace.get_current_span(taken.context).get_span_context().trace_id == 0xABC
    await taken.ack()


async def test_a_queue_is_made_again_after_its_server_was_killed(server: NatsServer, connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    await JobQueue(bus).submit(SITE, make_job("before"), timeout_s=DEADLINE_S)
    server.kill()
    await server.restart()
    taking = asyncio.create_task(take(consumer))
    while True:
        try:
            await JobQueue(bus).submit(SITE, make_job("after"), timeout_s=DEADLINE_S)
            break
        except NoRespondersError:  # until the consumer has made the queue again
            await asyncio.wait([taking], timeout=0.05)
    taken = await taking
    assert taken.job.transfer.transfer_id == "after"
    await taken.ack()


async def test_a_closed_connection_ends_the_taking(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    await bus.drain()
    with pytest.raises(NotConnectedError, match="connection is closed"):
        await consumer.take(DEADLINE_S)


async def test_no_pd_site_can_use_up_the_name_of_anothers_job(connect: Connect) -> None:
    bus = await connect()
    one = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=["east", HOME])
    honest = make_job()
    forged = msgspec.structs.replace(
        honest,
        decode_site="east",
        reply_to=subjects.prefill_progress("east", "d1"),
        transfer=msgspec.structs.replace(honest.transfer, bucket=subjects.kv_bucket("east", SITE)),
    )
    for job in (forged, honest):
        await JobQueue(bus).submit(SITE, job, timeout_s=DEADLINE_S)
    assert {(await take(one)).job.decode_site for _ in range(2)} == {"east", HOME}


async def test_a_queue_tells_its_last_job_without_storing_another_and_less_once_it_has_lost_it(
    server: NatsServer, connect: Connect
) -> None:
    bus, worker = await connect("asking"), await connect("worker")
    queue = JobQueue(bus)
    with pytest.raises(NoRespondersError):
        await queue.last_stored(SITE, HOME, MODEL, DEADLINE_S)
    consumer = await JobConsumer.open(worker, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    assert await queue.last_stored(SITE, HOME, MODEL, DEADLINE_S) == 0
    numbers = [await queue.submit(SITE, make_job(name), timeout_s=DEADLINE_S) for name in ("a", "b", "a")]
    assert numbers == [1, 2, 1], "a job is stored once"
    await (await take(consumer)).ack()
    assert await queue.last_stored(SITE, HOME, MODEL, DEADLINE_S) == 2
    server.kill()
    await server.restart()
    taking = asyncio.create_task(consumer.take(DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                assert await queue.last_stored(SITE, HOME, MODEL, 1.0) == 0
                break
            except (NoRespondersError, NotConnectedError):  # until the consumer has made the queue again
                await asyncio.sleep(0.02)
            except BusTimeoutError:
                continue  # the question went into the connection that was just dying
    taking.cancel()


async def test_a_full_disk_does_not_matter_to_jobs(tmp_path: Path) -> None:
    directory = tmp_path / "nats"
    disk = SmallDisk(directory / "store")
    if not disk.mount():
        missing("a small disk cannot be mounted", "root can", no_right_to_make_devices())
    try:
        async with NatsServer(directory, roomy_config) as server:
            bus = await ControlBus.connect(NatsEndpoint(url=server.client_url), "test")
            consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
            disk.fill()
            for name in ("a", "b"):
                await JobQueue(bus).submit(SITE, make_job(name), timeout_s=DEADLINE_S)
                await (await take(consumer)).ack()
            await bus.drain()
    finally:
        disk.unmount()


def roomy_config(ports: ServerPorts, store: Path) -> str:
    """A server that goes by its settings, and not by the room on its disk."""
    limits = "jetstream { max_file_store: 1GB, max_memory_store: 1GB,"
    return plain_config(ports, store).replace("jetstream {", limits)


@pytest.mark.parametrize(
    ("changes", "of_transfer"),
    [
        ({"decode_site": "east"}, {}),
        ({"reply_to": "prfaas.east.decode.d1.prefill"}, {}),
        ({"reply_to": "prfaas.local.decode.d1.cancel"}, {}),
        ({"reply_to": "prfaas.local.decode.d1 x.prefill"}, {}),
        ({"reply_to": "prfaas.local.decode.d.1.prefill"}, {}),
        ({}, {"bucket": subjects.kv_bucket("east", SITE)}),
        ({}, {"bucket": subjects.kv_bucket(HOME, HOME)}),
        ({}, {"nuid": "n 0\r\nPUB prfaas.local.x 0\r\n\r\nPUB y"}),
        ({}, {"nuid": "a.b"}),
        ({}, {"nuid": ""}),
    ],
)
async def test_a_job_that_points_beyond_its_own_site_is_removed(
    connect: Connect, changes: dict[str, str], of_transfer: dict[str, str]
) -> None:
    """A worker would carry out what the sender of the job may not: write, or speak, in another site."""
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=SERVES)
    honest = make_job("honest")
    forged = msgspec.structs.replace(
        make_job("forged"), transfer=msgspec.structs.replace(make_job("forged").transfer, **of_transfer), **changes
    )
    subject = subjects.jobs(SITE, HOME, MODEL)
    for job in (forged, honest):
        await bus.jetstream().publish(subject, encode(job))
    taken = await take(consumer)
    assert taken.job.transfer == honest.transfer
    await taken.ack()
    await none_stored(bus)


async def test_pd_sites_get_their_turn(connect: Connect) -> None:
    """A site that has filled its queue waits as long for each job as one that has not."""
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "one", incarnation="i0", serves=["east", HOME])
    for site, names in (("east", "abcd"), (HOME, "xy")):
        for name in names:
            job = make_job(name)
            transfer = msgspec.structs.replace(job.transfer, bucket=subjects.kv_bucket(site, SITE))
            reply_to = subjects.prefill_progress(site, "d1")
            job = msgspec.structs.replace(job, transfer=transfer, decode_site=site, reply_to=reply_to)
            await JobQueue(bus).submit(SITE, job, timeout_s=DEADLINE_S)
    taken = []
    for _ in range(6):
        each = await take(consumer)
        taken.append(each.job.transfer.transfer_id)
        await each.ack()
    assert sorted(taken[:4]) == ["a", "b", "x", "y"]
    assert taken[4:] == ["c", "d"]


@pytest.mark.parametrize("lead_s", [-2000.0, 2000.0])
async def test_a_workers_own_clock_decides_nothing(connect: Connect, monkeypatch: pytest.MonkeyPatch, lead_s: float) -> None:
    bus = await connect()
    real_time = time.time
    monkeypatch.setattr(time, "time", lambda: real_time() + lead_s)
    consumer = await JobConsumer.open(bus, SITE, MODEL, "p1", incarnation="i0", serves=SERVES)
    assert abs(consumer.clock.skew_s - lead_s) < DEADLINE_S
    await JobQueue(bus).submit(SITE, make_job(timeout_s=1500.0), timeout_s=DEADLINE_S)
    taken = await take(consumer)
    assert 0.0 <= taken.age_s < 1000.0, "its age is that of the server's clock"
    await taken.ack()
