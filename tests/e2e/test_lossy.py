"""KV in 8 bits across a slow link: only where both workers' configuration allows it, and always said."""

from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from load.emulated_stack import HOME, right_answer, two_sites
from prfaas.site.sites import Description, Role
from prfaas.stack.stack import Stack
from tests.e2e.asking import complete

PROMPT = [byte % 256 for byte in range(3, 6003, 2)]
OUTPUT_TOKENS = 8


def describe(roles: set[Role]) -> Description:
    """`roles`: whose workers have `engine.lossy-kv`."""
    description = two_sites(remote_workers=1, rate_mbit=20.0, byte_scale=100.0, time_scale=1000.0)
    services = tuple(
        msgspec.structs.replace(service, config=service.config | {"engine": service.config["engine"] | {"lossy-kv": True}})
        if service.role in roles
        else service
        for service in description.services
    )
    return msgspec.structs.replace(description, services=services)


async def lossy_transfers(stack: Stack) -> float:
    async with httpx.AsyncClient(timeout=60.0) as client:
        page = (await client.get(f"http://127.0.0.1:{stack.process(HOME, Role.DECODE_WORKER).http_port}/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    samples = families["prfaas_kv_lossy_transfers"].samples
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))


@pytest.mark.timeout(900)
async def test_both_workers_allow_it(tmp_path: Path) -> None:
    description = describe({Role.PREFILL_WORKER, Role.DECODE_WORKER})
    async with Stack(description, tmp_path) as stack:
        told = await complete(stack, PROMPT, OUTPUT_TOKENS)
        assert told.outcome == "offloaded"
        assert 0 < told.transfer["lossy_frames"] < told.transfer["frames"]
        assert await lossy_transfers(stack) == 1
    assert "".join(told.tokens) != right_answer(description, PROMPT, OUTPUT_TOKENS), "an emulated answer tells every bit"


@pytest.mark.timeout(900)
async def test_only_the_sender_allows_it(tmp_path: Path) -> None:
    description = describe({Role.PREFILL_WORKER})
    async with Stack(description, tmp_path) as stack:
        told = await complete(stack, PROMPT, OUTPUT_TOKENS)
        assert told.outcome == "offloaded"
        assert (told.transfer["lossy_frames"], await lossy_transfers(stack)) == (0, 0)
    assert "".join(told.tokens) == right_answer(description, PROMPT, OUTPUT_TOKENS)
