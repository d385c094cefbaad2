"""A link goes down under load and comes back: no client gets an error or another answer, and offloading resumes."""

from pathlib import Path

import pytest

from load.bench.link_cut import outage
from load.emulated_stack import two_sites
from prfaas.stack.stack import Stack
from prfaas.wan.proxy import LinkState


@pytest.mark.timeout(900)
async def test_no_request_fails_while_a_link_is_down_and_offloading_resumes(tmp_path: Path) -> None:
    description = two_sites(remote_workers=2, rate_mbit=200.0, scheduler={"policy": "priced"})
    async with Stack(description, tmp_path) as stack:
        for seed, fault in enumerate((LinkState.CUT, LinkState.HALF_OPEN)):
            told = await outage(stack, "priced", fault, outage_s=3.0, seed=seed)
            assert (told.failed, told.wrong) == (0, 0), told
            assert told.outcomes["offloaded"] and told.placed_s is not None, told
            assert told.requests > told.outcomes["offloaded"], "some were under way, or came meanwhile"
