"""Two decode workers of one name: a mistake of the operator's, which costs no request."""

import asyncio
from pathlib import Path

import httpx
import pytest

from load.emulated_stack import HOME, MODEL, every_service_twice, two_sites
from prfaas.stack.free_port import free_port
from prfaas.stack.stack import Stack

DEADLINE_S = 120.0


@pytest.mark.timeout(300)
async def test_one_that_leaves_refuses_what_the_other_one_takes_and_no_request_is_lost(tmp_path: Path) -> None:
    policy = {"policy": "threshold", "threshold-tokens": 200}
    description = every_service_twice(
        two_sites(remote_workers=1, rate_mbit=200.0, time_scale=16.0, scheduler=policy), free_port()
    )
    async with Stack(description, tmp_path) as stack, httpx.AsyncClient(timeout=DEADLINE_S) as client:
        url = f"{stack.gateway_url(HOME)}/v1/completions"
        twin = await stack.services[HOME, "d0"].twin(tmp_path / "twins").spawn()

        async def ask(number: int, output_tokens: int = 4) -> int:
            prompt = [(index * number + number) % 250 for index in range(60)]
            body = {"model": MODEL, "prompt": prompt, "max_tokens": output_tokens}
            return (await client.post(url, json=body, headers={"x-prfaas-ttft-deadline-s": "30"})).status_code

        try:
            await twin.wait_ready(DEADLINE_S)
            held = [asyncio.create_task(ask(number, 400)) for number in range(3, 15)]  # what makes its leaving take a while
            await asyncio.sleep(2.0)
            twin.terminate()
            statuses = [await ask(100 + 2 * number) for number in range(60)]
            for each in held:
                each.cancel()
            await asyncio.gather(*held, return_exceptions=True)
        finally:
            await twin.stop(30.0)
    assert statuses == [200] * len(statuses)
