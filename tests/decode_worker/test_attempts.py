"""Attempts at a real server: only verified KV is kept, the next transfer brings the rest, a dead worker is not waited for."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from nats.aio.msg import Msg
from opentelemetry.trace import INVALID_SPAN
from prometheus_client import CollectorRegistry

from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.bus.bulk.bucket import api, stream_name
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.jobs import dispatch
from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_decode import PrefillDispatched, PrefillDone, PrefillFailed, PrefillStarted
from prfaas.contracts.wire import unpack_tokens
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.emulated_sequence import EmulatedSequence
from prfaas.kvcache.layout import KVPiece
from prfaas.link.link import Link
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.tracing import Tracing
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from prfaas.worker.site_connections import SiteConnections
from prfaas_decode_worker.attempt import Attempts
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.events import AttemptFailed, AttemptVerified, BeginAttempt, EndAttempt, Event, WorkerAnswered
from prfaas_decode_worker.prefill_watch_core import Holder
from prfaas_decode_worker.prefixes import KeptPrefixes
from tests.bus.submitting import hold

SITE, MODEL, WORKER = "home", "emulated-1t", "p1"
DEADLINE_S = 60.0
BLOCK_TOKENS = 64


def prompt(tokens: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(256), k=tokens))


class Home:
    """A decode worker's attempts, and the prefill side as a script."""

    def __init__(self, server: NatsServer, bus: ControlBus, lane: BulkLane, consumer: JobConsumer) -> None:
        self.server = server
        self.bus, self.lane, self.consumer = bus, lane, consumer
        emulated = EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0)
        self.engine = EmulatedEngine(MODEL, emulated, chunk_tokens=BLOCK_TOKENS)
        self.told: asyncio.Queue[Event] = asyncio.Queue()
        self.kept = KeptPrefixes(self.engine, 1 << 30, lambda changes: None, site=SITE)
        self.tasks, self.registry = Tasks(), CollectorRegistry()
        endpoint = lane.endpoint
        config = DecodeWorkerConfig(site=SITE, name="d1", control=endpoint, bulk=endpoint)
        context = ServiceContext(self.tasks, self.registry, Tracing())
        self.attempts = Attempts(config, context, SiteConnections(bus, lane), self.kept, self.told.put_nowait, lambda news: None)

    def begin(self, request_id: str, token_ids: tuple[int, ...], attempt: int = 1, worker: str | None = None) -> None:
        order = BeginAttempt(
            request_id=request_id,
            transfer_id=f"{request_id}-p2",
            attempt=attempt,
            prefill_site=SITE,
            prefill_worker=worker,
            token_ids=token_ids,
            total_tokens=len(token_ids) + 10,
            tenant="",
            timeout_s=DEADLINE_S,
        )
        self.attempts.begin(order, INVALID_SPAN)

    def counted(self, name: str, result: str) -> float | None:
        return self.registry.get_sample_value(name, {"source": SITE, "destination": SITE, "result": result})

    async def take(self) -> TakenJob:
        taken = await self.consumer.take(DEADLINE_S)
        assert taken is not None
        return taken

    async def prefill(self, *, finish: bool = True) -> KVTransfer:
        """Ships what the next job asks for, and finishes or gives up."""
        taken = await self.take()
        transfer = taken.job.transfer
        # As a worker of the version before, which puts all KV into the object.
        self.attempts.hear(
            SITE,
            PrefillStarted(
                transfer_id=transfer.transfer_id, attempt=transfer.attempt, nuid=transfer.nuid, worker=WORKER, queue_s=0
            ),
        )
        sender = KVSender(self.lane, transfer, self.engine.layout, Link(), SendOptions(timeout_s=DEADLINE_S)).open()
        token_ids, from_token = unpack_tokens(taken.job.token_ids), transfer.from_token
        pieces: list[KVPiece] = []

        def put(piece: KVPiece) -> None:
            pieces.append(piece)
            sender.put(piece)

        await asyncio.to_thread(self.engine.prefill, token_ids, put, lambda: False, from_token=from_token)
        if finish:
            sender.finish(cached_tokens=from_token)
            await sender.close()
        else:
            async with asyncio.timeout(DEADLINE_S):
                while sender.stored_frames < 1 + len(pieces):  # each is small enough for one
                    await asyncio.sleep(0.01)
            await sender.abort("the machine is on fire")
        await taken.ack()
        return transfer

    async def hear(self) -> Event:
        return await asyncio.wait_for(self.told.get(), DEADLINE_S)

    async def serve(self, request_id: str, token_ids: tuple[int, ...], attempt: int = 1) -> tuple[KVTransfer, AttemptVerified]:
        self.begin(request_id, token_ids, attempt)
        transfer, event = await self.prefill(), await self.hear()
        assert isinstance(event, AttemptVerified)
        return transfer, event

    async def kept_tokens(self, token_ids: tuple[int, ...]) -> int:
        return await self.kept.install(self.engine.reserve(len(token_ids), len(token_ids) + 1), token_ids, SITE)

    async def until_kept(self, token_ids: tuple[int, ...], tokens: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await self.kept_tokens(token_ids) != tokens or self.kept.pinned:
                await asyncio.sleep(0.01)

    async def until_no_object_is_left(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while (await api(self.lane, f"STREAM.INFO.{stream_name(subjects.kv_bucket(SITE, SITE))}"))["state"]["messages"]:
                await asyncio.sleep(0.01)


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Home]:
    async with NatsServer(tmp_path / "nats") as server:
        endpoint = NatsEndpoint(url=server.client_url)
        bus = await ControlBus.connect(endpoint, "test")
        lane = await BulkLane.connect(endpoint, name="test", timeout_s=60)
        await ensure_kv_bucket(lane, subjects.kv_bucket(SITE, SITE), max_bytes=1 << 28, ttl_s=60)
        home = Home(server, bus, lane, await JobConsumer.open(bus, SITE, MODEL, WORKER, incarnation="i0", serves=[SITE]))
        yield home
        assert not home.tasks.failed.done()
        await home.tasks.cancel_all(DEADLINE_S)
        await lane.close()
        await bus.drain()


async def test_the_next_transfer_brings_what_is_not_kept(home: Home) -> None:
    first, second = prompt(200), prompt(200)[:150] + prompt(80, seed=1)
    transfer, event = await home.serve("r1", first)
    report = event.report
    assert (transfer.from_token, report.reused_tokens, report.saved_bytes, report.cached_tokens) == (0, 0, 0, 0)
    await home.until_kept(prompt(210), 192)
    transfer, event = await home.serve("r2", second)
    layout = home.engine.layout
    report = event.report
    assert (transfer.from_token, report.reused_tokens, report.cached_tokens) == (128, 128, 128)
    assert report.bytes == layout.total_bytes(230, 128) and report.saved_bytes == layout.total_bytes(230) - report.bytes > 0
    assert home.attempts.sequences["r2"].next_state(0, 1) == installed(home, second).next_state(0, 1)
    await home.until_kept((*second, 1), 192)
    await home.until_no_object_is_left()


def installed(home: Home, token_ids: tuple[int, ...]) -> EmulatedSequence:
    """Sequence with the KV of a prefill of the whole prompt."""
    sequence = home.engine.reserve(len(token_ids), len(token_ids) + 10)
    home.engine.prefill(token_ids, lambda piece: home.engine.install(sequence, piece), lambda: False)
    return sequence


async def test_what_was_not_verified_is_not_kept(home: Home) -> None:
    """All of it had arrived and was installed, but the manifest did not come."""
    home.begin("r1", prompt(200))
    await home.prefill(finish=False)
    event = await home.hear()
    assert isinstance(event, AttemptFailed) and event.code == "aborted"
    assert home.counted("prfaas_kv_transfers_total", "aborted") == 1
    assert home.counted("prfaas_kv_transfer_bytes_total", "aborted") == home.engine.layout.total_bytes(200)
    assert (home.counted("prfaas_kv_transfer_frames_total", "aborted") or 0) > 1
    home.attempts.end(EndAttempt("r1", 1, SITE))
    assert await home.kept_tokens(prompt(210)) == 0
    await home.serve("r1", prompt(200), attempt=2)
    await home.until_kept(prompt(210), 192)


async def test_why_a_prefill_gave_up_is_told_even_when_the_end_of_its_frames_comes_first(home: Home) -> None:
    home.begin("r1", prompt(300))
    transfer = await home.prefill(finish=False)
    failed = PrefillFailed(
        transfer_id="r1-p2", attempt=1, nuid=transfer.nuid, worker=WORKER, code=FailureCode.ENGINE, message="no memory"
    )
    home.attempts.hear(SITE, failed)
    event = await home.hear()
    assert isinstance(event, AttemptFailed) and event.code == FailureCode.ENGINE and "no memory" in event.message


async def test_a_second_attempt_uses_what_is_kept_too(home: Home) -> None:
    await home.serve("r1", prompt(200))
    await home.until_kept(prompt(210), 192)
    home.begin("r2", prompt(210))
    await home.prefill(finish=False)
    assert isinstance(await home.hear(), AttemptFailed)
    home.attempts.end(EndAttempt("r2", 1, SITE))
    transfer, _ = await home.serve("r2", prompt(210), attempt=2)
    assert (transfer.attempt, transfer.from_token) == (2, 192)
    assert home.attempts.sequences["r2"].next_state(0, 1) == installed(home, prompt(210)).next_state(0, 1)


async def test_an_attempt_that_is_given_up_leaves_nothing_in_use_and_nothing_stored(home: Home) -> None:
    await home.serve("r1", prompt(200))
    await home.until_kept(prompt(210), 192)
    home.begin("r2", prompt(210))
    taken = await home.take()
    home.attempts.end(EndAttempt("r2", 1, SITE))
    assert home.counted("prfaas_kv_transfers_total", "cancelled") == 1
    assert home.counted("prfaas_kv_transfer_bytes_total", "cancelled") == 0, "none of it had come"
    await taken.ack()
    await home.until_kept(prompt(210), 192)
    await home.until_no_object_is_left()
    assert home.told.empty()


async def test_a_job_named_for_a_worker_that_is_gone_is_anyones(home: Home) -> None:
    home.begin("r1", prompt(100), worker="p2")
    await home.prefill()
    assert isinstance(await home.hear(), AttemptVerified)


class Rival:
    """Another prefill worker of the site, as far as it answers whether it is there."""

    def __init__(self, home: Home, bus: ControlBus) -> None:
        self.home = home
        self.bus = bus
        self.asked = asyncio.Event()

    @classmethod
    async def open(cls, home: Home, server: NatsServer, incarnation: str) -> "Rival":
        rival = cls(home, await ControlBus.connect(NatsEndpoint(url=server.client_url), incarnation))
        for asked in (subjects.worker_alive(SITE, "p2"), subjects.prefill_alive(SITE, "p2", incarnation)):
            await rival.bus.subscribe_raw(asked, rival.answer)
        return rival

    async def answer(self, question: Msg) -> None:
        await self.bus.publish_raw(question.reply, b"")
        self.asked.set()

    async def until_asked(self) -> None:
        self.asked.clear()
        await asyncio.wait_for(self.asked.wait(), DEADLINE_S)


@pytest.mark.parametrize("told", ["dispatched", "started", "done"])
async def test_a_worker_that_goes_with_a_job_is_noticed_though_another_process_has_its_name(home: Home, told: str) -> None:
    first = await Rival.open(home, home.server, "i1")
    home.begin("r1", prompt(100), worker="p2")
    held = await hold(home.bus, SITE, SITE, MODEL, DEADLINE_S)
    assert held.job.worker == "p2" and await dispatch(home.bus, SITE, held, "p2", "i1", by="dispatcher")
    names: dict[str, Any] = {"transfer_id": "r1-p2", "attempt": 1, "nuid": held.job.transfer.nuid, "worker": "p2"}
    home.attempts.hear(SITE, PrefillDispatched(**names, incarnation="i1"))
    if told != "dispatched":
        home.attempts.hear(SITE, PrefillStarted(**names, incarnation="i1", queue_s=0.0))
    if told == "done":
        home.attempts.hear(SITE, PrefillDone(**names, prefill_s=0.0, ended_unix_s=0.0))
    await first.until_asked()
    second = await Rival.open(home, home.server, "i2")
    await first.bus.drain()
    event = await home.hear()
    if told == "done":  # whose time it says
        event = await home.hear()
    assert isinstance(event, AttemptFailed) and event.code == "worker_lost"
    assert event.died == (Holder(SITE, "p2", "i1") if told == "started" else None)
    assert "prefill worker 'p2' of site home has no connection any more" in event.message
    home.attempts.end(EndAttempt("r1", 1, SITE))
    await home.serve("r1", prompt(100), attempt=2)
    home.attempts.end(EndAttempt("r1", 2, SITE))
    await second.bus.drain()
    await home.until_no_object_is_left()


@pytest.mark.parametrize("started", [False, True])
async def test_the_next_process_of_a_name_says_that_the_one_before_was_lost(home: Home, started: bool) -> None:
    """One that was never handed the job has not died of it."""
    home.begin("r1", prompt(100))
    held = await hold(home.bus, SITE, SITE, MODEL, DEADLINE_S)
    names: dict[str, Any] = {"transfer_id": "r1-p2", "attempt": 1, "nuid": held.job.transfer.nuid, "worker": "p2"}
    home.attempts.hear(SITE, PrefillDispatched(**names, incarnation="i1"))
    if started:
        home.attempts.hear(SITE, PrefillStarted(**names, incarnation="i1", queue_s=0.0))
    home.attempts.hear(SITE, PrefillFailed(**names, code=FailureCode.WORKER_LOST, message="delivery 2"))
    event = await home.hear()
    assert isinstance(event, AttemptFailed) and event.code == "worker_lost"
    assert event.died == (Holder(SITE, "p2", "i1") if started else None)
    home.attempts.end(EndAttempt("r1", 1, SITE))
    await held.ack()
    await home.until_no_object_is_left()


async def test_another_process_of_the_name_may_take_the_job_and_is_watched_then(home: Home) -> None:
    first, second = [await Rival.open(home, home.server, incarnation) for incarnation in ("i1", "i2")]
    home.begin("r1", prompt(100))
    held = await hold(home.bus, SITE, SITE, MODEL, DEADLINE_S)
    names: dict[str, Any] = {"transfer_id": "r1-p2", "attempt": 1, "nuid": held.job.transfer.nuid, "worker": "p2"}
    home.attempts.hear(SITE, PrefillDispatched(**names, incarnation="i1"))
    await first.until_asked()
    home.attempts.hear(SITE, PrefillStarted(**names, incarnation="i2", queue_s=0.0))
    await first.bus.drain()
    await second.until_asked()
    await second.until_asked()
    assert home.told.empty()
    await second.bus.drain()
    event = await home.hear()
    assert isinstance(event, AttemptFailed) and event.died == Holder(SITE, "p2", "i2")
    third = await Rival.open(home, home.server, "i2")  # its connection was lost, not its life
    assert await home.hear() == WorkerAnswered(ANY, Holder(SITE, "p2", "i2"))
    await third.bus.drain()


@pytest.mark.parametrize("breaks", ["reserve", "install", "read"])
async def test_an_engine_that_raises_anything_fails_one_attempt(home: Home, monkeypatch: pytest.MonkeyPatch, breaks: str) -> None:
    def broken(*args: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(EmulatedEngine, breaks, broken)
        home.begin("r1", prompt(200))
        if breaks != "reserve":
            await home.prefill()
        event = await home.hear()
    if breaks == "read":  # only to keep the prompt, which the request does not need
        assert isinstance(event, AttemptVerified)
    else:
        assert isinstance(event, AttemptFailed)
        assert (event.code, event.message) == ("engine", "MemoryError: no room")
    home.attempts.end(EndAttempt("r1", 1, SITE))
    assert isinstance((await home.serve("r2", prompt(200)))[1], AttemptVerified)
    assert not home.tasks.failed.done()
