"""Every key and certificate of a running stack replaced under load: no request is lost."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from load.emulated_stack import FAR, HOME, MODEL, right_answer, two_sites
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.site_keys import ensure_key
from prfaas.stack.rotation import Rotation
from prfaas.stack.stack import Stack

pytestmark = [pytest.mark.timeout(400), pytest.mark.e2e]
OUTPUT_TOKENS = 8
LENGTHS = (64, 1500)
"""Prompt tokens: the first stay at home, the others are offloaded."""
BATCH = 10


async def asked(stack: Stack, seed: int) -> list[Record]:
    """Sends a batch of requests, two a second, and checks every answer."""
    prompts = TokenPrompts(seed)
    arrivals = [Arrival(0.5 * number, LENGTHS[number % 2], OUTPUT_TOKENS) for number in range(BATCH)]
    records = await replay(Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=60.0), arrivals, prompts)
    assert [record.error for record in records] == [""] * BATCH, [record.message for record in records]
    for number, (record, arrival) in enumerate(zip(records, arrivals, strict=True)):
        assert record.text == right_answer(stack.description, prompts.tokens(number, arrival), OUTPUT_TOKENS)
    return records


async def test_no_request_is_lost_while_all_keys_and_certificates_are_replaced(tmp_path: Path) -> None:
    description = two_sites(
        remote_workers=2, rate_mbit=200.0, seals=(FAR, HOME), scheduler={"policy": "threshold", "threshold-tokens": 512}
    )
    sites = tuple(msgspec.structs.replace(site, link_tls=True, client_tls=True) for site in description.sites)
    async with Stack(msgspec.structs.replace(description, sites=sites), tmp_path) as stack:
        files = [file for keys in stack.sites.keys.values() for file in keys.seed_files()]
        users = {ensure_key(file).public for file in files}
        sealed_with = {keys.ensure()[0].key_id for keys in stack.sites.sealing_keys.values()}
        pids = {name: process.pid for name, process in stack.services.items()}
        await asked(stack, seed=0)

        async def rotate() -> None:
            rotation = Rotation(stack.sites)
            await rotation.certificates()
            await rotation.user_keys()
            await rotation.sealing_keys(sealed_jobs_s=5.0)

        rotating = asyncio.create_task(rotate())
        seed, sites_seen = 1, set()
        while not rotating.done():
            sites_seen |= {record.prefill_site for record in await asked(stack, seed)}
            seed += 1
        await rotating
        after = await asked(stack, seed)
        assert sites_seen == {HOME, FAR} and {record.prefill_site for record in after} == {HOME, FAR}
        assert not users & {ensure_key(file).public for file in files}
        assert not sealed_with & {key.key_id for keys in stack.sites.sealing_keys.values() for key in keys.ensure()}
        for name, process in stack.services.items():
            assert process.exit_code is None and process.pid == pids[name], f"{name} was restarted"
