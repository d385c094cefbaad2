"""Second opinions over a real server, with the local prefill worker as a script."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.job_consumer import JobConsumer
from prfaas.contracts import subjects
from prfaas.contracts.to_decode import PrefillFailed, PrefillStarted
from prfaas.contracts.to_scheduler import KVDisagreed
from prfaas.contracts.wire import unpack_tokens
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.link.link import Link
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.metrics.audit import AuditMetrics
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from prfaas_decode_worker.audits import Audited, Audits
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.prefill_jobs import Prefill, PrefillJobs

HOME, FAR, MODEL = "home", "far", "emulated-1t"
DEADLINE_S = 60.0
SHARE = 0.25


def prompt(seed: int = 0) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(256), k=200))


class Site:
    """A decode worker's audits, and what they say."""

    def __init__(self, bus: ControlBus, lane: BulkLane, consumer: JobConsumer, **settings: float) -> None:
        emulated = EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0)
        self.engine = EmulatedEngine(MODEL, emulated, chunk_tokens=64)
        self.lane, self.consumer = lane, consumer
        self.tasks, self.registry = Tasks(), CollectorRegistry()
        self.drawn = 0.0
        self.distrusted: list[KVDisagreed] = []
        keys = {"audit_share": SHARE, **settings}
        config = DecodeWorkerConfig(site=HOME, name="d0", control=lane.endpoint, bulk=lane.endpoint, **keys)  # type: ignore[arg-type]
        self.jobs = PrefillJobs(config, bus, self.engine.describe())
        metrics = AuditMetrics(self.registry)
        layout = self.engine.layout
        self.audits = Audits(config, self.jobs, lane, layout, self.tasks, metrics, self.distrusted.append, lambda: self.drawn)

    def prefill(self, request_id: str = "r", site: str = FAR) -> Prefill:
        return self.jobs.prefill(
            request_id, request_id, 1, site, prompt(), from_token=0, tenant="", timeout_s=9.0, lossy=False, cache_scope=""
        )

    def served(self, request_id: str = "r", tokens: tuple[int, ...] | None = None) -> Audited:
        """A prefill of the other site that was drawn; `tokens` are those that it computed."""
        audited = self.audits.draw_for(self.prefill(request_id))
        assert audited is not None
        self.engine.prefill(tokens or prompt(), audited.comparison.take, lambda: False)
        return audited

    async def prefill_again(self) -> None:
        """Does what the local prefill worker does with the next job."""
        taken = await self.consumer.take(DEADLINE_S)
        assert taken is not None
        sender = KVSender(self.lane, taken.job.transfer, self.engine.layout, Link(), SendOptions(timeout_s=DEADLINE_S)).open()
        token_ids = unpack_tokens(taken.job.token_ids)
        await asyncio.to_thread(self.engine.prefill, token_ids, sender.put, lambda: False)
        sender.finish()
        await sender.close()
        await taken.ack()

    def counted(self, what: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"prfaas_kv_audit_{what}_total", {"site": FAR, **labels}) or 0.0

    async def until(self, what: str, **labels: str) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not self.counted(what, **labels):
                assert not self.tasks.failed.done()
                await asyncio.sleep(0.01)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[tuple[ControlBus, BulkLane, JobConsumer]]:
    async with NatsServer(tmp_path / "nats") as server:
        endpoint = NatsEndpoint(url=server.client_url)
        bus = await ControlBus.connect(endpoint, "test")
        lane = await BulkLane.connect(endpoint, name="test", timeout_s=DEADLINE_S)
        await ensure_kv_bucket(lane, subjects.kv_bucket(HOME, HOME), max_bytes=1 << 28, ttl_s=60)
        yield bus, lane, await JobConsumer.open(bus, HOME, MODEL, "p0", incarnation="i0", serves=[HOME])
        await lane.close()
        await bus.drain()


Parts = tuple[ControlBus, BulkLane, JobConsumer]


async def test_the_same_kv_agrees_and_other_kv_makes_the_site_distrusted(parts: Parts) -> None:
    site = Site(*parts)
    site.audits.begin(site.served(), "p7")
    await site.prefill_again()
    await site.until("agreed")
    assert (site.counted("done"), site.counted("disagreed"), site.distrusted) == (1, 0, [])
    site.audits.begin(site.served("s", prompt(seed=1)), "p7")
    await site.prefill_again()
    await site.until("disagreed")
    assert (site.counted("done"), site.counted("agreed")) == (2, 1)
    assert site.distrusted == [KVDisagreed(site=FAR, worker="p7", request_id="s")]


async def test_a_share_of_the_other_sites_prompts_is_drawn_and_none_of_the_own(parts: Parts) -> None:
    site = Site(*parts, audits_at_once=2)
    site.drawn = SHARE
    assert site.audits.draw_for(site.prefill()) is None
    site.drawn = 0.0
    assert site.audits.draw_for(site.prefill(site=HOME)) is None
    assert site.audits.draw_for(site.prefill()) is not None
    assert site.counted("skipped", reason="no_room") == 0


async def test_what_has_no_room_is_not_audited_and_counted(parts: Parts) -> None:
    site = Site(*parts)
    first = site.served()
    assert site.audits.draw_for(site.prefill("s")) is None
    assert site.counted("skipped", reason="no_room") == 1
    site.audits.drop(first)
    assert site.counted("skipped", reason="not_served") == 1
    site.audits.drop(site.served("t"))
    small = Site(*parts, audits_at_once=1000, audit_mib=1)
    fits = (1 << 20) // small.served().comparison.size_bytes
    for number in range(1, fits):
        small.served(str(number))
    assert small.audits.draw_for(small.prefill("one too many")) is None


async def test_a_second_prefill_that_is_refused_or_not_done_in_time_is_dropped(parts: Parts) -> None:
    site = Site(*parts)
    site.audits.begin(site.served(), "p0")
    taken = await site.consumer.take(DEADLINE_S)
    assert taken is not None
    transfer = taken.job.transfer
    names = {"transfer_id": transfer.transfer_id, "attempt": 1, "worker": "p0"}
    assert not site.audits.hear(PrefillStarted(**names, nuid="forged", queue_s=0.0))  # type: ignore[arg-type]
    assert site.audits.hear(PrefillFailed(**names, nuid=transfer.nuid, code="engine", message="no"))  # type: ignore[arg-type]
    await site.until("skipped", reason="engine")
    await taken.ack()
    hasty = Site(*parts, audit_timeout_s=0.5)
    hasty.audits.begin(hasty.served("s"), "p0")
    await hasty.until("skipped", reason="timeout")
    for each in (site, hasty):
        assert each.counted("done") == 0 and each.distrusted == []
        each.served("t")  # there is room again
