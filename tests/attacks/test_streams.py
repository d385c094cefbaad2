"""Streams and buckets: who can manage them, what fills them, and where a server's acknowledgement can be sent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from prfaas.bus import job_streams
from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.bus.bulk.bucket import stream_name
from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, StreamError
from prfaas.bus.jetstream import publish_acknowledged
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.presence import ensure_bucket
from prfaas.contracts import subjects
from prfaas.stack.running_sites import RunningSites
from tests.attacks.three_sites import FAR, HOME, OTHER
from tests.attacks.who_can import settled
from tests.stack.plain_client import connect

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEADLINE_S = 60.0
WORKERS = f"KV_{subjects.workers_bucket(HOME)}"
OWN_KV, FAR_KV = subjects.kv_bucket(HOME, HOME), subjects.kv_bucket(HOME, FAR)
OWN_JOBS = subjects.jobs_stream(HOME, HOME)
KV_BYTES = 1 << 20


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def streams(sites: RunningSites) -> AsyncIterator[RunningSites]:
    """The streams and buckets that services make when they start."""
    home, far = [await ControlBus.connect(sites.endpoint(site, "ctl"), "test") for site in (HOME, FAR)]
    lane = await BulkLane.connect(sites.endpoint(HOME, "bulk"), name="test", timeout_s=DEADLINE_S)
    await ensure_bucket(home, subjects.workers_bucket(HOME), ttl_s=60.0)
    await JobConsumer.open(home, HOME, "m", "p0", incarnation="i0", serves=[HOME])
    await JobConsumer.open(far, FAR, "m", "p0", incarnation="i0", serves=[HOME, OTHER])
    for bucket in (OWN_KV, FAR_KV):
        await ensure_kv_bucket(lane, bucket, max_bytes=KV_BYTES, ttl_s=60)
    await settled(sites, "ctl")
    await settled(sites, "bulk")
    yield sites
    await home.drain()
    await far.drain()
    await lane.close()


async def stored(sites: RunningSites, site: str, account: str, stream: str) -> int:
    client = await connect(sites.endpoint(site, account))
    state = (await client.jetstream().stream_info(stream)).state
    await client.close()
    return state.messages


@pytest.mark.parametrize(
    ("attacker", "victim", "account", "stream"),
    [
        (FAR, HOME, "ctl", OWN_JOBS),
        (FAR, HOME, "ctl", WORKERS),
        (FAR, HOME, "bulk", stream_name(OWN_KV)),
        (FAR, HOME, "bulk", stream_name(FAR_KV)),
        (HOME, FAR, "ctl", subjects.jobs_stream(FAR, HOME)),
        (HOME, FAR, "ctl", subjects.jobs_stream(FAR, OTHER)),
        (OTHER, FAR, "ctl", subjects.jobs_stream(FAR, HOME)),
        (OTHER, HOME, "ctl", OWN_JOBS),
    ],
)
async def test_no_site_manages_the_streams_of_another(
    streams: RunningSites, attacker: str, victim: str, account: str, stream: str
) -> None:
    before = await stored(streams, victim, account, stream)
    client = await connect(streams.endpoint(attacker, account))
    for verb in ("INFO", "MSG.GET", "SNAPSHOT", "UPDATE", "PURGE", "DELETE"):
        with pytest.raises((nats.errors.NoRespondersError, TimeoutError)):
            await client.request(f"$JS.{victim}.API.STREAM.{verb}.{stream}", timeout=0.3)
        with contextlib.suppress(nats.errors.Error):  # its own server answers, which has no such stream
            await client.request(f"$JS.API.STREAM.{verb}.{stream}", timeout=0.3)
    await client.close()
    assert await stored(streams, victim, account, stream) == before


@pytest.mark.parametrize("service", ["gateway", "scheduler", "probe", "p0", "d0"])
async def test_a_service_manages_its_own_streams_only(streams: RunningSites, service: str) -> None:
    (described,) = [each for each in streams.description.services if (each.site, each.name) == (HOME, service)]
    for account, names in (("ctl", (OWN_JOBS, WORKERS)), ("bulk", (stream_name(OWN_KV), stream_name(FAR_KV)))):
        endpoint = streams.service_endpoint(described, account)
        if endpoint is None:
            continue
        refusals: list[str] = []
        client = await connect(endpoint, refusals)
        for name in names:
            for verb in ("DELETE", "PURGE", "SNAPSHOT"):
                if (service, verb, account) != ("d0", "PURGE", "bulk"):  # how it removes a transfer's object
                    await client.publish(f"$JS.API.STREAM.{verb}.{name}")
        await client.publish("$JS.API.STREAM.CREATE.SPY", json.dumps({"name": "SPY", "subjects": ["prfaas.>"]}).encode())
        await client.flush()
        expected = len(names) * 3 + 1 - (2 if (service, account) == ("d0", "bulk") else 0)
        async with asyncio.timeout(DEADLINE_S):
            while len(refusals) < expected:
                await asyncio.sleep(0.01)
        await client.close()
    operator = await connect(streams.endpoint(HOME, "ctl"))
    with pytest.raises(nats.js.errors.NotFoundError):
        await operator.jetstream().stream_info("SPY")
    await operator.close()


@pytest.mark.parametrize(
    "target",
    [
        "jobs.local.local.worker.nobody",
        subjects.cancel_generate(HOME, "d0"),
        f"$JS.API.STREAM.PURGE.{WORKERS}",
        f"$JS.API.STREAM.DELETE.{OWN_JOBS}",
        subjects.entry(subjects.workers_bucket(HOME), f"{HOME}.decode.d0"),
    ],
)
async def test_an_acknowledgement_goes_to_who_asked_and_nowhere_else(streams: RunningSites, target: str) -> None:
    """The server itself would be the messenger: a put that is allowed, whose acknowledgement is to go where nothing is."""
    seen: list[str] = []

    async def note(message: Msg) -> None:
        seen.append(message.subject)

    watcher = await connect(streams.endpoint(HOME, "ctl"))
    await watcher.subscribe(target, cb=note)
    await watcher.flush()
    before = await stored(streams, HOME, "ctl", OWN_JOBS)
    attacker = await connect(streams.endpoint(FAR, "ctl"))
    put = subjects.entry(subjects.workers_bucket(HOME), f"{FAR}.prefill.p0")
    for _ in range(5):
        await attacker.publish(put, b"x", reply=target)
    await attacker.flush()
    await settled(streams, "ctl")
    answer = await attacker.request(put, b"x", timeout=DEADLINE_S)  # later than all of them
    assert json.loads(answer.data)["stream"] == WORKERS
    await watcher.flush()
    assert seen == []
    assert await stored(streams, HOME, "ctl", OWN_JOBS) == before
    await attacker.close()
    await watcher.close()


async def test_a_site_that_floods_a_bucket_of_kv_fills_its_own(streams: RunningSites) -> None:
    attacker = await connect(streams.endpoint(FAR, "bulk"))
    junk, inbox = bytes(100_000), f"{subjects.replies(FAR, HOME, 'attacker')}.c.t"
    answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def note(message: Msg) -> None:
        answers.put_nowait(message.data)

    await attacker.subscribe(inbox, cb=note)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await attacker.publish(f"$O.{FAR_KV}.C.junk", junk, reply=inbox)
            await attacker.publish(f"$O.{OWN_KV}.C.junk", junk, reply=inbox)
            if b"maximum bytes" in await answers.get():
                break
    client = await connect(streams.endpoint(HOME, "bulk"))
    ack = await client.jetstream().publish(f"$O.{OWN_KV}.C.mine", junk, timeout=DEADLINE_S)
    assert ack.seq == 1, "nothing else was ever in it"
    for bucket in (FAR_KV, OWN_KV):
        await client.jetstream().purge_stream(stream_name(bucket))
    await client.close()
    await attacker.close()


async def test_a_pd_site_that_floods_a_queue_of_jobs_fills_its_own(
    streams: RunningSites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_streams, "MAX_JOBS", 8)
    far = await ControlBus.connect(streams.endpoint(FAR, "ctl"), "test2")
    await JobConsumer.open(far, FAR, "m", "p1", incarnation="i0", serves=[HOME, OTHER])  # brings the streams to this bound
    attacker = await ControlBus.connect(streams.endpoint(OTHER, "ctl"), "attacker")
    with pytest.raises(StreamError, match="maximum messages"):
        for number in range(100):
            await publish_acknowledged(attacker, subjects.jobs(FAR, OTHER, f"m{number}"), b"x", DEADLINE_S)
    home = await ControlBus.connect(streams.endpoint(HOME, "ctl"), "test2")
    await publish_acknowledged(home, subjects.jobs(FAR, HOME, "m"), b"x", DEADLINE_S)
    with pytest.raises(BusError):
        await publish_acknowledged(attacker, subjects.jobs(FAR, HOME, "m"), b"x", 0.5)
    for bus in (far, attacker, home):
        await bus.drain()


async def test_no_worker_takes_what_is_dispatched_to_another(streams: RunningSites) -> None:
    """Neither from the other's consumer, nor by a consumer of its own, whatever that says of its filter."""
    home = await ControlBus.connect(streams.endpoint(HOME, "ctl"), "test3")
    await JobConsumer.open(home, HOME, "m", "p1", incarnation="i0", serves=[HOME])
    (service,) = [each for each in streams.description.services if (each.site, each.name) == (HOME, "p0")]
    refusals: list[str] = []
    endpoint = streams.service_endpoint(service, "ctl")
    assert endpoint is not None
    thief = await connect(endpoint, refusals)
    stream, victims = subjects.dispatched_stream(HOME), subjects.dispatched_jobs(HOME, "p1")
    config = {"name": "worker_p0", "durable_name": "worker_p0", "ack_policy": "explicit", "filter_subject": victims}
    asked = json.dumps({"stream_name": stream, "config": config}).encode()
    inbox = f"{subjects.replies(HOME, HOME, 'p0')}.c.t"
    for subject in (
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.worker_p1",
        f"$JS.API.CONSUMER.CREATE.{stream}.worker_p0.{victims}",
        f"$JS.API.CONSUMER.CREATE.{stream}.worker_p0",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.worker_p0",
        f"$JS.API.CONSUMER.DELETE.{stream}.worker_p1",
        f"$JS.ACK.{stream}.worker_p1.1.1.1.1.0",
    ):
        before = len(refusals)
        await thief.publish(subject, asked, reply=inbox)
        await thief.flush()
        async with asyncio.timeout(DEADLINE_S):  # the client tells of a refusal in a task of its own
            while len(refusals) == before:
                await asyncio.sleep(0.01)
        assert len(refusals) == before + 1, f"{subject} was refused more than once"
    # The one request that makes its own consumer: the server compares its filter with the subject.
    answer = await asyncio.wait_for(
        _answer(thief, f"$JS.API.CONSUMER.CREATE.{stream}.worker_p0.{subjects.dispatched_jobs(HOME, 'p0')}", asked, inbox),
        DEADLINE_S,
    )
    assert "error" in answer
    await thief.close()
    await home.drain()


async def _answer(client: Client, subject: str, payload: bytes, inbox: str) -> dict[str, object]:
    answers = await client.subscribe(inbox)
    await client.publish(subject, payload, reply=inbox)
    return dict(json.loads((await answers.next_msg(DEADLINE_S)).data))


async def test_one_entry_never_takes_the_bucket_of_all(streams: RunningSites) -> None:
    """Neither by its size nor by a header that makes it the only one."""
    attacker = await connect(streams.endpoint(FAR, "ctl"))
    home = await connect(streams.endpoint(HOME, "ctl"))
    await home.request(subjects.entry(subjects.workers_bucket(HOME), f"{HOME}.decode.d0"), b"kept", timeout=DEADLINE_S)
    put = subjects.entry(subjects.workers_bucket(HOME), f"{FAR}.prefill.p0")
    too_large = json.loads((await attacker.request(put, bytes(100_000), timeout=DEADLINE_S)).data)
    assert "maximum" in too_large["error"]["description"]
    rollup = json.loads((await attacker.request(put, b"x", timeout=DEADLINE_S, headers={"Nats-Rollup": "all"})).data)
    assert "rollup" in rollup["error"]["description"]
    assert (await (await home.jetstream().key_value(subjects.workers_bucket(HOME))).get(f"{HOME}.decode.d0")).value == b"kept"
    await attacker.close()
    await home.close()
