"""Messages of others on the buses: dropped and counted, never the end of a process, a watcher or a connection."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from nats.aio.msg import Msg
from prometheus_client import CollectorRegistry, generate_latest

from prfaas.bus.bulk import BulkLane, Message
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import RemoteError
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.jobs import JobQueue
from prfaas.bus.presence import ensure_bucket, watch
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.terms import Role
from prfaas.contracts.to_decode import PrefillProgress
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.to_probe import EgressAsked, TrainReport, TransferMeasured
from prfaas.contracts.to_scheduler import BlocksChanged, Heartbeat, LinkEstimate, PlaceRequest
from prfaas.contracts.wire import BadMessageError, decode, decode_json, encode
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.faults import FAULTS
from tests.bus.conftest import Connect

DEADLINE_S = 60.0
SITE, MODEL = "local", "m"
BUCKET = subjects.workers_bucket(SITE)
DEEP = b"\x91" * 100_000 + b"\xc0"
KINDS: list[Any] = [
    PlaceRequest, Heartbeat, LinkEstimate, BlocksChanged, PrefillJob, PrefillProgress, EgressAsked, TransferMeasured, TrainReport,
]  # fmt: skip


def tagged(name: str, value: bytes = DEEP) -> bytes:
    """The right type, and deep nesting in a field that it does not have."""
    return b"\x82" + msgspec.msgpack.encode("type") + msgspec.msgpack.encode(name) + b"\xa2zz" + value


def beat(**changes: Any) -> Heartbeat:
    good: dict[str, Any] = {
        "site": SITE,
        "worker": "w",
        "role": Role.PREFILL,
        "model": MODEL,
        "fingerprint": "f",
        "max_context_tokens": 1,
    }
    return Heartbeat(**good | changes)


def odd_beat(**changes: Any) -> dict[str, Any]:
    """Fields of a heartbeat that the type itself would not take."""
    return {"type": "Heartbeat", **msgspec.to_builtins(beat()), **changes}


def job(transfer_id: str = "good") -> PrefillJob:
    transfer = KVTransfer(transfer_id=transfer_id, attempt=1, bucket="kv-local", nuid="n", prefill_tokens=1, fingerprint="f")
    return PrefillJob(
        request_id="r",
        model=MODEL,
        transfer=transfer,
        token_ids=b"1234",
        reply_to=subjects.prefill_progress(SITE, "d1"),
        decode_site=SITE,
        timeout_s=60.0,
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        DEEP,
        b"\x81" * 100_000,
        tagged("Heartbeat"),
        b"\xa2\xff\xfe",
        b"\xdd\xff\xff\xff\xff",
        b"\xc7\x0c\xff" + b"\xff" * 12,
        encode({"type": "Heartbeat"}),
        encode(odd_beat(queued_s=float("nan"))),
        encode(odd_beat(busy_s=float("inf"))),
        encode(odd_beat(slots=-1)),
        encode(odd_beat(worker="a b\r\nPUB x 0")),
        encode(odd_beat(site="")),
        encode(odd_beat(prefill_points=((0.0, 1.0),))),
        encode(odd_beat(prefill_points=((2.0, 1.0), (2.0, 1.0)))),
        encode(odd_beat(step_points=tuple((float(size), 1.0) for size in range(1, 1000)))),
    ],
)
def test_what_no_worker_sends_is_one_typed_error(data: bytes) -> None:
    with pytest.raises(BadMessageError):
        decode(data, Heartbeat)


def test_the_longest_names_of_two_sites_fit_into_a_transfer() -> None:
    bucket = subjects.kv_bucket("a" * 64, "b" * 64)
    transfer = msgspec.structs.replace(job().transfer, bucket=bucket)
    assert decode(encode(transfer), KVTransfer) == transfer


@given(st.binary(max_size=80) | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
).map(msgspec.msgpack.encode), st.sampled_from(KINDS))  # fmt: skip
def test_any_bytes_decode_or_are_one_typed_error(data: bytes, kind: Any) -> None:
    for read in (decode, decode_json):
        try:
            read(data, kind)
        except BadMessageError as error:
            assert f"a message of {len(data)} bytes" in str(error)


@given(st.data())
def test_any_fields_of_a_message_decode_or_are_one_typed_error(data: st.DataObject) -> None:
    kind: Any = data.draw(st.sampled_from([each for each in KINDS if isinstance(each, type)]))
    value: st.SearchStrategy[Any] = st.sampled_from(
        [0, -1, 1 << 62, 1.5, float("nan"), float("inf"), "", "a.b", "x" * 1000, b"1", None, [], [[0, 0]], {}]
    )
    fields = {name: data.draw(value) for name in data.draw(st.sets(st.sampled_from(kind.__struct_fields__)))}
    packed = msgspec.msgpack.encode({"type": kind.__name__, **fields})
    try:
        message: Any = decode(packed, kind)
    except BadMessageError:
        return
    for name in kind.__struct_fields__:
        number = getattr(message, name)
        assert not isinstance(number, float) or 0 <= number < 1e19


async def test_a_bad_request_is_answered_at_once_and_a_bad_message_costs_itself(connect: Connect) -> None:
    bus, asker = await connect(), await connect("asker")
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def place(request: PlaceRequest) -> LinkEstimate:
        raise ZeroDivisionError("first line\nsecond: line\r\n")

    await bus.serve("place", PlaceRequest, place)
    await bus.subscribe("beats", Heartbeat, lambda message: heard.put_nowait(message.worker))
    undecodable = FAULTS.undecodable["control"]
    for payload, code in ((DEEP, "bad_message"), (tagged("PlaceRequest"), "bad_message"), (b"", "bad_message")):
        answer = await asker.request_raw("place", payload, DEADLINE_S)
        assert answer.headers and answer.headers["Nats-Service-Error-Code"] == code
        await asker.publish_raw("beats", payload)
    request = PlaceRequest(request_id="r", model="m", prompt_tokens=1, max_tokens=1, ttft_deadline_s=1.0)
    with pytest.raises(RemoteError, match="ZeroDivisionError: first line second: line"):
        await asker.request("place", request, LinkEstimate, DEADLINE_S)
    await asker.publish("beats", beat(worker="after"))
    async with asyncio.timeout(DEADLINE_S):
        assert await heard.get() == "after"
    # Two of "place" and three of "beats": an empty request asks whether anybody answers, and is no fault.
    assert FAULTS.undecodable["control"] == undecodable + 5


async def test_entries_that_do_not_decode_end_no_watcher_not_at_its_start_either(connect: Connect) -> None:
    bus = await connect()
    deep = b"\x91" * 50_000 + b"\xc0"  # a bucket refuses larger entries
    await ensure_bucket(bus, BUCKET, 60.0)

    async def put(worker: str, value: bytes, **headers: str) -> None:
        await bus.request_raw(subjects.entry(BUCKET, f"{SITE}.prefill.{worker}"), value, DEADLINE_S, headers or None)

    async def put_bad(suffix: str) -> None:
        for number, value in enumerate(
            (deep, tagged("Heartbeat", deep), b"\xff", b"", encode(odd_beat(slots=-1)), encode(beat(worker="other")))
        ):
            await put(f"bad{number}{suffix}", value)

    await put_bad("before")
    undecodable = FAULTS.undecodable["entry"]
    seen: asyncio.Queue[tuple[str, Heartbeat | None]] = asyncio.Queue()

    def changed(key: str, entry: Heartbeat | None) -> None:
        seen.put_nowait((key, entry))
        if key.endswith("raises"):
            raise ZeroDivisionError("in a callback")

    watching = asyncio.create_task(watch(bus, BUCKET, Heartbeat, changed, ttl_s=60.0))
    async with asyncio.timeout(DEADLINE_S):
        while FAULTS.undecodable["entry"] < undecodable + 6:
            await asyncio.sleep(0.02)
        await put_bad("after")
        await put("raises", encode(beat(worker="raises")))
        await put("raises", b"", **{"KV-Operation": "DEL"})
        await put("good", encode(beat(worker="good")))
        found = [await seen.get() for _ in range(3)]
    assert [(key, entry is None) for key, entry in found] == [
        (f"{SITE}.prefill.raises", False),
        (f"{SITE}.prefill.raises", True),
        (f"{SITE}.prefill.good", False),
    ]
    assert FAULTS.undecodable["entry"] == undecodable + 12
    assert not watching.done()
    watching.cancel()
    await asyncio.wait([watching])


async def test_one_site_cannot_fill_a_watcher(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prfaas.bus.presence.MAX_ENTRIES_OF_SITE", 3)
    monkeypatch.setattr("prfaas.bus.presence.MAX_SITES", 2)
    bus = await connect()
    seen: set[str] = set()
    watching = asyncio.create_task(watch(bus, BUCKET, Heartbeat, lambda key, entry: seen.add(key), ttl_s=60.0))
    undecodable = FAULTS.undecodable["entry"]
    entries = [beat(site=site, worker=f"w{n}") for site in ("one", "two", "three") for n in range(5)]
    async with asyncio.timeout(DEADLINE_S):
        while len(seen) < 6 or FAULTS.undecodable["entry"] < undecodable + 9:
            for entry in entries:
                await bus.publish(subjects.entry(BUCKET, entry.key), entry)
            await asyncio.sleep(0.05)
    assert {key.partition(".")[0] for key in seen} == {"one", "two"}
    assert len(seen) == 6
    watching.cancel()
    await asyncio.wait([watching])


async def test_a_job_that_does_not_decode_leaves_the_queue_and_is_counted(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "w", incarnation="i0", serves=[SITE])
    undecodable = FAULTS.undecodable["job"]
    bad = (DEEP, tagged("PrefillJob"), b"", encode("PrefillJob"), msgspec.msgpack.encode({"type": "PrefillJob"}))
    for payload in bad:
        await bus.jetstream().publish(subjects.jobs(SITE, SITE, MODEL), payload)
        await bus.jetstream().publish(subjects.dispatched_jobs(SITE, "w"), payload)
    await JobQueue(bus).submit(SITE, job(), timeout_s=DEADLINE_S)
    taken = await consumer.take(DEADLINE_S)
    while taken is None:
        taken = await consumer.take(DEADLINE_S)
    assert taken.job.transfer.transfer_id == "good"
    await taken.ack()
    async with asyncio.timeout(DEADLINE_S):
        while (await bus.jetstream().stream_info(subjects.jobs_stream(SITE, SITE))).state.messages:
            await asyncio.sleep(0.05)
    assert FAULTS.undecodable["job"] >= undecodable + 2 * len(bad)


async def test_a_job_that_is_given_up_and_does_not_decode_is_removed(connect: Connect) -> None:
    bus = await connect()
    consumer = await JobConsumer.open(bus, SITE, MODEL, "w", incarnation="i0", serves=[SITE])
    stored = await bus.jetstream().publish(subjects.jobs(SITE, SITE, "another"), DEEP)
    advisory = Msg(_client=bus.client, subject="advisory", data=b'{"stream_seq": %d}' % stored.seq)
    await consumer._give_up(subjects.jobs_stream(SITE, SITE), advisory)
    assert not (await bus.jetstream().stream_info(subjects.jobs_stream(SITE, SITE))).state.messages
    for data in (b"", b"{}", b'{"stream_seq": -1}', b"[" * 100_000):
        with pytest.raises(BadMessageError):
            await consumer._give_up(subjects.jobs_stream(SITE, SITE), Msg(_client=bus.client, subject="advisory", data=data))


@pytest.fixture
async def lane(server: NatsServer) -> AsyncIterator[BulkLane]:
    lane = await BulkLane.connect(NatsEndpoint(url=server.client_url), name="lane", timeout_s=DEADLINE_S)
    yield lane
    await lane.close()


async def test_a_handler_that_raises_ends_its_own_subscription_and_not_the_connection(lane: BulkLane) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    failed: list[Exception] = []

    def bad(message: Message) -> None:
        heard.put_nowait("bad")
        raise RecursionError("too deep")

    def good(message: Message) -> None:
        heard.put_nowait("good")
        message.release()

    def told(error: Exception) -> None:
        failed.append(error)
        raise ZeroDivisionError("the owner fails as well")

    lane.subscribe("x", bad, told)
    lane.subscribe("x", good)
    inbox = lane.open_inbox(bad, lane.endpoint.site, failed.append)
    large = b"x" * (100 << 10)
    taken_bytes = lane.pool.taken_bytes
    for payload in (b"", large):
        lane.publish("x", [payload], len(payload))
        lane.publish(f"{inbox}.1", [payload], len(payload))
    lane.publish("x", [b""], 0)
    async with asyncio.timeout(DEADLINE_S):
        found = [await heard.get() for _ in range(5)]
    assert sorted(found) == ["bad", "bad", "good", "good", "good"]
    assert [type(error) for error in failed] == [RecursionError, RecursionError]
    assert lane.reconnects == 0 and lane.is_connected
    assert lane.pool.taken_bytes == taken_bytes, "every buffer went back"


def test_the_counts_are_on_the_metrics_page() -> None:
    registry = CollectorRegistry()
    registry.register(FAULTS)
    FAULTS.undecodable["control"] += 1
    assert b'prfaas_bus_undecodable_total{kind="control"}' in generate_latest(registry)


async def test_a_reply_that_is_no_subject_costs_nothing(connect: Connect) -> None:
    bus = await connect()
    await bus.serve("ask", PlaceRequest, lambda request: asyncio.sleep(0))
    await bus.publish_raw("ask", DEEP, reply="a..b")
    answer = await (await connect("asker")).request_raw("ask", DEEP, DEADLINE_S)
    assert answer.headers and answer.headers["Nats-Service-Error-Code"] == "bad_message"
