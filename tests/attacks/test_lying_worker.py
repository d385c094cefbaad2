"""A prefill worker that makes wrong KV with right checksums harms the requests that it was given, and an audit finds it out."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from load.emulated_stack import FAR, HOME, MODEL, right_answer, two_sites
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Description
from prfaas.stack.stack import Stack
from tests.attacks.lying_worker import LIES

pytestmark = [pytest.mark.timeout(300), pytest.mark.e2e]
SHORT, LONG = 64, 1500
"""Prompt tokens: the first stay at home, the others are offloaded."""
OUTPUT_TOKENS = 8
SHARE = 0.5
REQUESTS = 40
"""Most offloaded requests until a liar is found: at this share one in 10^12 is not, if each audit finds time."""
DEADLINE_S = 60.0


def description(**decode_worker: object) -> Description:
    found = two_sites(remote_workers=1, rate_mbit=200.0, seals=(FAR,), scheduler={"policy": "threshold", "threshold-tokens": 512})
    services = tuple(
        msgspec.structs.replace(service, config=service.config | decode_worker) if service.name == "d0" else service
        for service in found.services
    )
    return msgspec.structs.replace(found, services=services)


@contextlib.asynccontextmanager
async def lying(stack: Stack, lie: str) -> AsyncIterator[None]:
    """A liar has taken the prefill worker's place, with its keys and its name."""
    honest = stack.services[FAR, "p0"]
    await honest.stop(DEADLINE_S)
    config = stack.directory / FAR / "p0.toml"
    log_path = stack.directory / FAR / "liar.log"
    with log_path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.attacks.lying_worker", lie, "--config", str(config), "--http-port", "0"),
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=Path(__file__).parents[2],
        )
    try:
        async with asyncio.timeout(DEADLINE_S):
            while '"ready"' not in log_path.read_text():
                assert process.returncode is None, log_path.read_text()
                await asyncio.sleep(0.1)
        await stack.wait_introduced()
        yield
    finally:
        process.terminate()
        await process.wait()


async def ask(stack: Stack, tokens: int, seed: int) -> tuple[Record, bool]:
    """Asks once. Returns how it went, and whether the answer is right."""
    prompts, arrival = TokenPrompts(seed), Arrival(0.0, tokens, OUTPUT_TOKENS)
    (record,) = await replay(Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=DEADLINE_S), [arrival], prompts)
    assert record.error == "", record.message
    return record, record.text == right_answer(stack.description, prompts.tokens(0, arrival), OUTPUT_TOKENS)


async def count(stack: Stack, name: str, metric: str) -> float:
    page = await stack.metrics(HOME, name)
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"prfaas_{metric}"))


@pytest.mark.parametrize("lie", LIES)
async def test_a_liar_is_found_out_and_gets_no_more_prompts(tmp_path: Path, lie: str) -> None:
    async with Stack(description(**{"audit-share": SHARE}), tmp_path) as stack, lying(stack, lie):
        wrong = 0
        for number in range(REQUESTS):
            record, is_right = await ask(stack, LONG, seed=number)
            assert is_right or record.prefill_site == FAR, "only what the liar was given"
            wrong += not is_right
            local, local_is_right = await ask(stack, SHORT, seed=100 + number)
            assert local_is_right and local.prefill_site == HOME
            if await count(stack, "scheduler", "distrusted_sites"):
                break
        assert wrong and await count(stack, "scheduler", "distrusted_sites") == 1
        for number in range(3):
            record, is_right = await ask(stack, LONG, seed=number)
            assert is_right and record.prefill_site == HOME, "also for a prompt whose wrong KV the decode worker had"
        assert await count(stack, "d0", 'kv_audit_disagreed_total{site="remote"}') >= 1
        logged = [json.loads(line) for line in stack.services[HOME, "d0"].log_path.read_text().splitlines() if line[:1] == "{"]
        told = [entry for entry in logged if entry.get("event") == "kv_audit_disagreed"]
        assert told and (told[0]["prefill_site"], told[0]["worker"]) == (FAR, "p0")


async def test_an_honest_site_agrees_and_keeps_its_prompts(tmp_path: Path) -> None:
    async with Stack(description(**{"audit-share": 1.0, "audits-at-once": 4}), tmp_path) as stack:
        for number in range(4):
            record, is_right = await ask(stack, LONG, seed=number)
            assert is_right and record.prefill_site == FAR
        async with asyncio.timeout(DEADLINE_S):
            while await count(stack, "d0", "kv_audit_done_total") + await count(stack, "d0", "kv_audit_skipped_total") < 4:
                await asyncio.sleep(0.1)
        assert await count(stack, "d0", "kv_audit_agreed_total") == await count(stack, "d0", "kv_audit_done_total") >= 1
        assert await count(stack, "d0", "kv_audit_disagreed_total") == 0
        assert await count(stack, "scheduler", "distrusted_sites") == 0
