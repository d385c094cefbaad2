"""A stack whose links and clients are encrypted: offloaded prompts are answered the same."""

from pathlib import Path

import msgspec
import pytest

from load.emulated_stack import FAR, HOME, MODEL, right_answer, two_sites
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.send import replay
from prfaas.stack.stack import Stack

OUTPUT_TOKENS = 8


@pytest.mark.timeout(900)
async def test_kv_crosses_an_encrypted_link(tmp_path: Path) -> None:
    plain = two_sites(remote_workers=1, rate_mbit=200.0, scheduler={"policy": "remote_all"})
    sites = tuple(msgspec.structs.replace(site, link_tls=True, client_tls=True) for site in plain.sites)
    description = msgspec.structs.replace(plain, sites=sites)
    prompts, arrivals = TokenPrompts(3), [Arrival(0.1 * number, 300 + 400 * number, OUTPUT_TOKENS) for number in range(4)]
    async with Stack(description, tmp_path) as stack:
        records = await replay(Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=60.0), arrivals, prompts)
        reachable = {endpoint.url.partition(":")[0] for endpoint in (stack.sites.endpoint(site, "ctl") for site in (HOME, FAR))}
    assert reachable == {"tls"}
    assert [record.error for record in records] == [""] * len(arrivals), [record.message for record in records]
    assert {record.prefill_site for record in records} == {FAR}
    for number, (arrival, record) in enumerate(zip(arrivals, records, strict=True)):
        assert record.text == right_answer(description, prompts.tokens(number, arrival), OUTPUT_TOKENS)
