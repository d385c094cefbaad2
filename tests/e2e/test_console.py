"""The console of a real stack, whose servers let each service hear what it needs and no more."""

import asyncio

import httpx
import pytest

from load.emulated_stack import FAR, HOME, MODEL, two_sites
from prfaas.console.client import ConsoleClient
from prfaas.console.schema import SOLE, GatewayItem, LinkItem, RequestItem, SchedulerItem, SiteItem, WorkerItem
from prfaas.stack.stack import Stack

SCHEDULER = {"policy": "threshold", "threshold-tokens": 300, "resolve-every-s": 0}
DESCRIPTION = two_sites(remote_workers=1, rate_mbit=50.0, egress_mbit=40.0, scheduler=SCHEDULER)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
PATIENCE_S = 120.0
TOKENS = 1000


async def test_it_shows_the_fleet_and_an_offloaded_request_chunk_by_chunk(stack: Stack) -> None:
    url = stack.gateway_url(HOME)
    client = ConsoleClient(url, "")
    try:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as http:
            body = {"model": MODEL, "prompt": [number % 200 for number in range(TOKENS)], "max_tokens": 4, "temperature": 0}
            answer = await http.post("/v1/completions", json=body)
            assert answer.headers["x-prfaas-outcome"] == "offloaded"
        request_id = answer.json()["id"].partition("-")[2]
        async with asyncio.timeout(PATIENCE_S):
            async for state in client.follow():
                if state.section("links", LinkItem) and len(state.section("workers", WorkerItem)) == 3:
                    break
        detail = await client.detail(request_id)
    finally:
        await client.close()
    # What heartbeats, the probe and the scheduler say.
    assert state.section("scheduler", SchedulerItem)[SOLE].threshold_tokens == 300
    link = state.section("links", LinkItem)[f"{FAR}.{HOME}"]
    assert link.budget_bytes_per_s == 40e6 / 8 and link.sent_bytes_per_s is not None
    assert {name: (site.prefill_workers, site.decode_workers) for name, site in state.section("sites", SiteItem).items()} == {
        HOME: (1, 1), FAR: (1, 0),
    }  # fmt: skip
    assert all(worker.cache_usage is not None for worker in state.section("workers", WorkerItem).values())
    assert state.section("gateway", GatewayItem)[SOLE].whole
    # What is told of the request.
    assert state.section("requests", RequestItem)[request_id].outcome == "offloaded"
    stages = {stage.name: stage for stage in detail.stages}
    assert list(stages) == ["read and tokenize", "placement", "queue", "prefill", "KV", "first token", "decode"]
    assert stages["prefill"].place == FAR and stages["KV"].place == f"{FAR} → {HOME}"
    assert len(stages["prefill"].marks) == 4, "999 tokens in chunks of 256"
    assert len(stages["KV"].marks) > 4
    starts = [stage.start_s for stage in detail.stages if stage.name != "KV"]
    assert starts == sorted(starts)
