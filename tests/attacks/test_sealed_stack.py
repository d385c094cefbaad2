"""A prefill site's broker reads, changes, swaps and replays what passes it while jobs and KV are sealed: it learns no prompt, and
every answer is right."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from load.emulated_stack import FAR, HOME, MODEL, right_answer, two_sites
from prfaas.contracts import subjects
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import decode, encode, pack_tokens
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.sealing.job_seal import seal
from prfaas.sealing.keys import PrivateKey
from prfaas.stack.stack import Stack
from tests.stack.plain_client import connect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300), pytest.mark.e2e]
TOKENS, OUTPUT_TOKENS, REQUESTS = 1500, 8, 4
SEEN_BYTES = 16
"""Length of the pieces of a prompt that are looked for in what a broker sees."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("stack")
    # All is offloaded for as long as the site's breaker is closed.
    description = two_sites(remote_workers=1, rate_mbit=200.0, seals=(FAR, HOME))
    async with Stack(description, directory) as stack:
        yield stack


@contextlib.asynccontextmanager
async def tapped(stack: Stack, site: str, account: str, tap: Callable[[Msg], Awaitable[None]]) -> AsyncIterator[Client]:
    """Everything that passes a site's server in one account, as its operator sees it."""
    client = await connect(stack.sites.endpoint(site, account))
    await client.subscribe(">", cb=tap)
    await client.flush()
    yield client
    await client.close()


async def asked(stack: Stack, seed: int, requests: int = REQUESTS) -> list[Record]:
    """Asks one request after another. Every answer is the right one."""
    prompts = TokenPrompts(seed)
    arrivals = [Arrival(1.0 * number, TOKENS, OUTPUT_TOKENS) for number in range(requests)]
    records = await replay(Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=60.0), arrivals, prompts)
    assert [record.error for record in records] == [""] * requests, [record.message for record in records]
    for number, (record, arrival) in enumerate(zip(records, arrivals, strict=True)):
        assert record.text == right_answer(stack.description, prompts.tokens(number, arrival), OUTPUT_TOKENS)
    return records


async def count(stack: Stack, site: str, name: str, series: str) -> float:
    """The sum of the series of a worker's metrics page that begin so."""
    page = await stack.metrics(site, name)
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(series))


async def offloading(stack: Stack) -> None:
    """Returns when the breaker lets requests out again."""
    async with asyncio.timeout(60.0):
        while (await asked(stack, seed=99, requests=1))[0].prefill_site != FAR:
            await asyncio.sleep(0.5)


async def test_brokers_see_sizes_and_no_token_of_a_job_and_no_byte_of_its_kv(stack: Stack) -> None:
    seen: dict[str, list[tuple[str, bytes]]] = {FAR: [], HOME: []}

    def tap(site: str) -> Callable[[Msg], Awaitable[None]]:
        async def note(message: Msg) -> None:
            seen[site].append((message.subject, message.data))

        return note

    async with contextlib.AsyncExitStack() as taps:
        for site in seen:
            for account in ("ctl", "bulk"):
                await taps.enter_async_context(tapped(stack, site, account, tap(site)))
        records = await asked(stack, seed=1)
    assert {record.prefill_site for record in records} == {FAR}
    prompts = TokenPrompts(1)
    asked_for = [pack_tokens(prompts.tokens(number, Arrival(1.0 * number, TOKENS, OUTPUT_TOKENS))) for number in range(REQUESTS)]
    # Inside the pd site requests still go from the gateway to a decode worker in clear.
    generate = subjects.generate(HOME, "d0")
    assert all(any(prompt in data for at, data in seen[HOME] if at == generate) for prompt in asked_for)
    messages = [data for site in seen for at, data in seen[site] if at != generate]
    frames = [data for at, data in seen[FAR] if at.startswith("$O.") and ".C." in at]
    # An empty message there asks what the queue has stored.
    jobs = [decode(data, PrefillJob) for data in {data for at, data in seen[FAR] if at.startswith("jobs.") and data}]
    assert len(jobs) == REQUESTS and all(job.sealed and not job.token_ids for job in jobs)
    assert len(frames) > REQUESTS and all(frame.startswith(b"PKS1") for frame in frames)
    for prompt in asked_for:
        pieces = [prompt[at : at + SEEN_BYTES] for at in range(0, len(prompt) - SEEN_BYTES, SEEN_BYTES)]
        assert not any(piece in data for data in messages for piece in pieces)


async def test_jobs_that_a_broker_changes_or_makes_are_refused(stack: Stack) -> None:
    """It adds to each job: one with a flipped bit, one cut, one in clear, and one that it sealed itself for the site's key."""
    await offloading(stack)
    refused = await count(stack, FAR, "p0", 'prfaas_prefill_jobs_total{model_name="emulated-1t",result="bad_job"}')
    own = PrivateKey.generate()
    (site_key,) = stack.sites.sealing_keys[FAR].ensure()
    struck: set[str] = set()
    forgeries: list[tuple[str, bytes]] = []

    async def strike(message: Msg) -> None:
        # As it goes from the queue to the worker: what is queued twice under one name is dispatched once.
        if message.subject != subjects.dispatched_jobs(FAR, "p0"):
            return
        job = decode(message.data, PrefillJob)
        if not job.sealed or job.transfer.object_name in struck:
            return
        struck.add(job.transfer.object_name)
        flipped = bytearray(job.sealed)
        flipped[len(flipped) // 2] ^= 1
        plain = msgspec.structs.replace(job, sealed=b"", token_ids=pack_tokens([1] * job.transfer.prefill_tokens))
        forged = seal(own, site_key.public, plain, bytes(32))
        for sealed in (
            bytes(flipped),
            job.sealed[:-1],
            b"",
            forged.sealed,
            forged.sealed[:8] + job.sealed[8:16] + forged.sealed[16:],
        ):
            changed = msgspec.structs.replace(job if sealed else plain, sealed=sealed)
            forgeries.append((message.subject, encode(changed)))

    async with tapped(stack, FAR, "ctl", strike) as client:
        await asked(stack, seed=2)
        # Not before: of a job under the name of one that it holds, a worker takes no notice at all.
        for subject, payload in forgeries:
            await client.publish(subject, payload)
        await client.flush()
    assert struck
    async with asyncio.timeout(30.0):
        page = 'prfaas_prefill_jobs_total{model_name="emulated-1t",result="bad_job"}'
        while await count(stack, FAR, "p0", page) < refused + len(forgeries):
            await asyncio.sleep(0.1)


async def test_a_whole_object_replayed_under_the_name_of_a_new_one_is_not_installed(stack: Stack) -> None:
    await offloading(stack)
    corrupt = await count(stack, HOME, "d0", f'prfaas_kv_transfers_total{{destination="{HOME}",result="corrupt"')
    objects: dict[str, list[bytes]] = {}
    replayed: list[str] = []

    async def keep(message: Msg) -> None:
        if message.subject.startswith(f"$O.{subjects.kv_bucket(HOME, FAR)}.C."):
            objects.setdefault(message.subject, []).append(message.data)

    async with tapped(stack, FAR, "bulk", keep) as bulk:
        (record,) = await asked(stack, seed=3, requests=1)
        assert record.prefill_site == FAR
        (old,) = objects.values()
        kept = list(old)

        async def strike(message: Msg) -> None:
            if message.subject.startswith("jobs."):
                job = decode(message.data, PrefillJob)
                if job.transfer.nuid not in replayed:
                    replayed.append(job.transfer.nuid)
                    for frame in kept:
                        await bulk.publish(f"$O.{job.transfer.bucket}.C.{job.transfer.nuid}", frame)
                    await bulk.flush()

        async with tapped(stack, FAR, "ctl", strike):
            await asked(stack, seed=4, requests=2)
    assert replayed
    assert await count(stack, HOME, "d0", f'prfaas_kv_transfers_total{{destination="{HOME}",result="corrupt"') > corrupt
