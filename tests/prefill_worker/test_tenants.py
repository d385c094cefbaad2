"""Tenants share the link of a real prefill worker, whose jobs come from a real queue, to receivers behind an emulated link."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.bulk import ensure_kv_bucket
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import pack_tokens
from prfaas.engine.emulated import EmulatedConfig
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.kvcache.layout import KVPiece
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.site.sites import Description, Link, Site, SiteKind
from prfaas.stack.running_sites import RunningSites
from prfaas.telemetry.tracing import Tracing
from prfaas.transfer.receiver import KVReceiver
from prfaas.worker.site_connections import SiteConnections
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_prefill_worker.service import PrefillWorkerService
from tests.bus.submitting import submit_once_joined

HOME, FAR = "home", "far"
ENGINE = EngineConfig(
    engine="emulated",
    model="emulated-dense",
    chunk_tokens=256,
    emulated=EmulatedConfig(profile="minimax-m2.5-h200", time_scale=1e6, byte_scale=128.0),
)
LAYOUT = build_engine(ENGINE).describe().layout
FLOOD = 4
FLOOD_TOKENS, ONE_TOKENS = 4096, 1024
"""Tokens of each transfer. The flood is four times what passes beside the one at most, so it does not end before."""
DEADLINE_S = 60.0


class Place(NamedTuple):
    home: SiteConnections
    worker: PrefillWorkerService
    fingerprint: str


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    # So slow that a busy machine still computes faster than the link carries: turns show only on a link that is full.
    description = Description(
        model="none",
        sites=(Site(name=HOME, kind=SiteKind.PD), Site(name=FAR, kind=SiteKind.PRFAAS, dials=(HOME,))),
        links=(Link(between=(FAR, HOME), rate_mbit=20, rtt_ms=10),),
    )
    async with RunningSites(description, tmp_path) as sites:
        home = await SiteConnections.open(sites.endpoint(HOME, "ctl"), sites.endpoint(HOME, "bulk"), "home")
        await ensure_kv_bucket(home.lane, subjects.kv_bucket(HOME, FAR), max_bytes=1 << 30, ttl_s=60)
        config = PrefillWorkerConfig(
            site=FAR,
            control=sites.endpoint(FAR, "ctl"),
            bulk=sites.endpoint(FAR, "bulk"),
            serves=(HOME,),
            engine=ENGINE,
            tails=FLOOD + 1,
            prefix_cache_mib=0,
        )
        tasks = Tasks()
        worker = PrefillWorkerService(config, ServiceContext(tasks, CollectorRegistry(), Tracing()))
        await worker.start()
        yield Place(home, worker, build_engine(ENGINE).describe().fingerprint)
        await worker.drain(DEADLINE_S)
        await tasks.cancel_all(DEADLINE_S)
        await worker.stop()
        await home.close()
        assert not tasks.failed.done(), tasks.failed.result()


async def ask(place: Place, name: str, tokens: int, tenant: str, came: list[tuple[str, int]]) -> KVReceiver:
    """Opens a receiver, which notes in `came` what is installed, then submits the job."""
    transfer = KVTransfer(
        transfer_id=name,
        attempt=1,
        bucket=subjects.kv_bucket(HOME, FAR),
        nuid=name,
        prefill_tokens=tokens,
        fingerprint=place.fingerprint,
    )

    def install(name: str, piece: KVPiece) -> None:
        came.append((name, piece.size_bytes))

    receiver = await KVReceiver(place.home.lane, transfer, LAYOUT, partial(install, name), timeout_s=DEADLINE_S).open()
    job = PrefillJob(
        request_id=name,
        model=ENGINE.model,
        transfer=transfer,
        token_ids=pack_tokens([len(name) + ord(name[-1])] * tokens),
        reply_to=subjects.prefill_progress(HOME, "d0"),
        decode_site=HOME,
        tenant=tenant,
        timeout_s=DEADLINE_S,
    )
    await submit_once_joined(place.home.bus, FAR, job, timeout_s=DEADLINE_S)
    return receiver


async def flooded_share(place: Place, tenant: str) -> float:
    """Bytes of the flood that came between the first and the last of one more transfer, of `tenant`, per byte of the latter."""
    came: list[tuple[str, int]] = []
    receivers = [await ask(place, f"{tenant}flood{number}", FLOOD_TOKENS, "flood", came) for number in range(FLOOD)]
    async with asyncio.timeout(DEADLINE_S):
        while not came:
            await asyncio.sleep(0.005)
    receivers.append(await ask(place, f"{tenant}one", ONE_TOKENS, tenant, came))
    for receiver in receivers:
        await receiver.verified(DEADLINE_S)
        await receiver.close()
    one = [index for index, (name, _) in enumerate(came) if name.endswith("one")]
    meanwhile = came[one[0] : one[-1] + 1]
    its_bytes = sum(size for name, size in meanwhile if name.endswith("one"))
    return sum(size for _, size in meanwhile) / its_bytes - 1


@pytest.mark.slow
async def test_a_tenants_flood_leaves_half_of_the_link_to_another_tenants_only_transfer(place: Place) -> None:
    """It gets every other turn, where in the flood's own tenant it would be one transfer of five: at most its own bytes
    meanwhile, and not four times. What is in flight as it begins and what a busy machine delays lie between these two."""
    assert await flooded_share(place, "other") < 1.25
    assert await flooded_share(place, "flood") > 1.5
