"""Three sites: two pd sites that share a prefill site, and one pd site with two prefill sites."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from openai import AsyncOpenAI

from load.emulated_stack import MODEL, many_sites, right_answer
from prfaas.stack.stack import Stack

OUTPUT_TOKENS = 4
DEADLINE_S = 120.0
PROMPT_TOKENS = 1500


class Asked(NamedTuple):
    site: str
    prefill_site: str
    outcome: str


async def ask(stack: Stack, site: str, seed: int) -> Asked:
    """Asks the site's gateway and compares the answer."""
    url, headers = f"{stack.gateway_url(site)}/v1", {"x-prfaas-ttft-deadline-s": str(DEADLINE_S)}
    prompt = [(index * seed) % 251 for index in range(PROMPT_TOKENS)]
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=DEADLINE_S, default_headers=headers) as client:
        raw = await client.completions.with_raw_response.create(
            model=MODEL, prompt=prompt, max_tokens=OUTPUT_TOKENS, temperature=0
        )
    assert raw.parse().choices[0].text == right_answer(stack.description, prompt, OUTPUT_TOKENS)
    return Asked(site, raw.headers["x-prfaas-prefill-site"], raw.headers["x-prfaas-outcome"])


async def ask_all(stack: Stack, sites: Iterable[str], first_seed: int) -> list[Asked]:
    """Asks for all sites at once. Returns the answers in the order in which they came."""
    asking = [asyncio.create_task(ask(stack, site, first_seed + number)) for number, site in enumerate(sites)]
    return [await done for done in asyncio.as_completed(asking, timeout=DEADLINE_S)]


async def ask_in_lanes(stack: Stack, sites: Sequence[str], total: int, first_seed: int) -> list[Asked]:
    """Keeps three requests of each site under way until `total` are answered. Returns the answers in their order."""
    seeds = itertools.count(first_seed)
    answers: list[Asked] = []

    async def lane(site: str) -> None:
        while len(answers) < total:
            answers.append(await ask(stack, site, next(seeds)))

    async with asyncio.TaskGroup() as tasks:
        for site in [*sites] * 3:
            tasks.create_task(lane(site))
    return answers


async def ask_until_prefilled_at(stack: Stack, site: str, prefill_site: str, first_seed: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        seed = first_seed
        while prefill_site not in {asked.prefill_site for asked in await ask_all(stack, [site] * 4, seed)}:
            seed += 4


async def take_down(stack: Stack, site: str) -> None:
    """Kills all processes of the site, as a power cut does."""
    for process in [process for (at, _), process in stack.services.items() if at == site]:
        process.kill()
        await process.wait()
    stack.sites.servers[site].kill()


async def bring_back(stack: Stack, site: str) -> None:
    await stack.sites.servers[site].start()
    for (at, _), process in stack.services.items():
        if at == site:
            await process.configure({"http-port": process.http_port}).spawn()
    for (at, _), process in stack.services.items():
        if at == site:
            await process.wait_ready(DEADLINE_S)
    await stack.sites.wait_joined()
    await stack.wait_introduced()


@pytest.mark.timeout(600)
async def test_two_pd_sites_share_a_prefill_site_and_one_leaves_and_comes_back(tmp_path: Path) -> None:
    description = many_sites(["east", "west"], {"far": ("east", "west")}, policy="remote_all")
    async with Stack(description, tmp_path) as stack:
        # Both under load: each gets its share.
        answers = await ask_in_lanes(stack, ["east", "west"], 24, first_seed=3)
        assert {(asked.prefill_site, asked.outcome) for asked in answers} == {("far", "offloaded")}
        shares = Counter(asked.site for asked in answers)
        assert min(shares["east"], shares["west"]) >= 6, shares
        # One leaves with requests under way while the other asks: the other does not notice.
        asking = asyncio.create_task(ask_in_lanes(stack, ["east"], 9, first_seed=41))
        doomed = [asyncio.create_task(ask(stack, "west", seed)) for seed in range(101, 105)]
        await asyncio.wait([asking, *doomed], return_when=asyncio.FIRST_COMPLETED)
        await take_down(stack, "west")
        await asyncio.gather(*doomed, return_exceptions=True)
        answers = await asking
        assert {(asked.prefill_site, asked.outcome) for asked in answers} == {("far", "offloaded")}
        # It comes back, and is served as before.
        asking = asyncio.create_task(ask_in_lanes(stack, ["east"], 9, first_seed=61))
        await bring_back(stack, "west")
        assert {asked.outcome for asked in await asking} == {"offloaded"}
        await ask_until_prefilled_at(stack, "west", "far", first_seed=81)


@pytest.mark.timeout(600)
async def test_a_pd_site_uses_two_prefill_sites_and_does_without_one(tmp_path: Path) -> None:
    description = many_sites(["home"], {"north": ("home",), "south": ("home",)}, policy="priced")
    async with Stack(description, tmp_path) as stack:
        await ask_until_prefilled_at(stack, "home", "north", first_seed=3)
        await ask_until_prefilled_at(stack, "home", "south", first_seed=103)
        shares = Counter(asked.prefill_site for asked in await ask_all(stack, ["home"] * 12, first_seed=203))
        assert min(shares["north"], shares["south"]) >= 2, shares
        # One leaves: what it had is prefilled elsewhere, and every answer is right.
        asking = asyncio.create_task(ask_all(stack, ["home"] * 4, first_seed=503))
        await take_down(stack, "north")
        await asking
        await ask_until_prefilled_at(stack, "home", "south", first_seed=603)
        # It comes back and gets requests again.
        await bring_back(stack, "north")
        await ask_until_prefilled_at(stack, "home", "north", first_seed=703)
