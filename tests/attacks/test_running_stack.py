"""A compromised prefill site attacks while requests run: those that it was not given are answered, and rightly."""

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from nats.aio.msg import Msg

from load.emulated_stack import FAR, HOME, MODEL, right_answer, two_sites
from prfaas.contracts import subjects
from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome, Role
from prfaas.contracts.to_decode import CancelGenerate, Generate, PrefillFailed
from prfaas.contracts.to_gateway import Finished, Started, Tokens
from prfaas.contracts.to_prefill import CancelPrefill
from prfaas.contracts.to_scheduler import AttemptEnded, BlocksChanged, Heartbeat
from prfaas.contracts.wire import decode, encode
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.secrets.secret_files import readable_by_others
from prfaas.stack.stack import Stack
from tests.stack.plain_client import connect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300), pytest.mark.e2e]
SHORT, LONG = 64, 1500
"""Prompt tokens: the first stay at home, the others are offloaded."""
OUTPUT_TOKENS = 8
REQUESTS = 8
EVENTS = subjects.events(HOME, "gateway")
PROGRESS = subjects.prefill_progress(HOME, "d0")


class Attacker(NamedTuple):
    """All of the prefill site, as seen from its own server."""

    control: Client
    bulk: Client
    heard: list[tuple[str, bytes]]
    """Everything that its server would tell it, on either account."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("stack")
    scheduler = {"policy": "threshold", "threshold-tokens": 512}
    async with Stack(two_sites(remote_workers=1, rate_mbit=200.0, scheduler=scheduler), directory) as stack:
        yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def attacker(stack: Stack) -> AsyncIterator[Attacker]:
    heard: list[tuple[str, bytes]] = []

    async def note(message: Msg) -> None:
        heard.append((message.subject, message.data))

    clients = [await connect(stack.sites.endpoint(FAR, account)) for account in ("ctl", "bulk")]
    for client in clients:
        await client.subscribe(">", cb=note)
        await client.flush()
    yield Attacker(clients[0], clients[1], heard)
    for client in clients:
        await client.close()


async def asked(stack: Stack, lengths: list[int], seed: int) -> tuple[list[Record], list[list[int]]]:
    arrivals = [Arrival(0.1 * number, tokens, OUTPUT_TOKENS) for number, tokens in enumerate(lengths)]
    prompts = TokenPrompts(seed)
    target = Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=60.0)
    records = await replay(target, arrivals, prompts)
    return records, [prompts.tokens(number, arrival) for number, arrival in enumerate(arrivals)]


def right(stack: Stack, records: list[Record], prompts: list[list[int]]) -> None:
    assert [record.error for record in records] == [""] * len(records), [record.message for record in records]
    for record, prompt in zip(records, prompts, strict=True):
        assert record.text == right_answer(stack.description, prompt, OUTPUT_TOKENS)


async def counted(stack: Stack, name: str, metric: str, kind: str = "") -> float:
    """A count of ignored messages on the metrics page of a process of the pd site; of all kinds unless one is named."""
    page = await stack.metrics(HOME, name)
    wanted = f'prfaas_bus_{metric}_total{{kind="{kind}' if kind else f"prfaas_bus_{metric}_total"
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(wanted))


@contextlib.asynccontextmanager
async def at_each_request(stack: Stack, strike: Callable[[Generate], Awaitable[None]]) -> AsyncIterator[None]:
    """The attacker is told of each request when its decode worker hears of it, sooner than it could ever know."""

    async def tell(message: Msg) -> None:
        await strike(decode(message.data, Generate))

    spy = await connect(stack.sites.endpoint(HOME, "ctl"))
    await spy.subscribe(subjects.generate(HOME, "d0"), cb=tell)
    await spy.flush()
    yield
    await spy.close()


@contextlib.asynccontextmanager
async def again_and_again(strike: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Strikes twenty times a second, and once more at the end."""
    over = asyncio.Event()

    async def go_on() -> None:
        while not over.is_set():
            await strike()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.05)

    going = asyncio.create_task(go_on())
    yield
    over.set()
    await going


async def test_no_prompt_and_no_kv_of_a_local_request_reaches_the_prefill_site(stack: Stack, attacker: Attacker) -> None:
    seen: list[Generate] = []

    async def note(generate: Generate) -> None:
        seen.append(generate)

    async with at_each_request(stack, note):
        records, prompts = await asked(stack, [SHORT, LONG] * (REQUESTS // 2), seed=1)
    right(stack, records, prompts)
    assert {record.prefill_site for record in records} == {HOME, FAR}
    all_heard = b"".join(subject.encode() + data for subject, data in attacker.heard)
    told = {generate.request_id: generate.placement.prefill_site for generate in seen}
    assert set(told.values()) == {HOME, FAR}
    for request_id, prefill_site in told.items():
        assert (request_id.encode() in all_heard) is (prefill_site == FAR)


async def test_forged_answers_reach_no_client(stack: Stack, attacker: Attacker) -> None:
    async def strike(generate: Generate) -> None:
        request_id = generate.request_id
        forged = (
            Started(
                request_id=request_id, sequence=0, prefill_site=HOME, outcome=Outcome.LOCAL_SHORT, reason="", cached_tokens=0
            ),
            Tokens(request_id=request_id, sequence=1, text="FORGED ANSWER", token_ids=(1,)),
            Finished(
                request_id=request_id, sequence=2, finish_reason="stop", text="", completion_tokens=1, transfer=TransferReport()
            ),
        )
        for event in forged:
            for subject in (EVENTS, subjects.events_from(EVENTS, "d0"), subjects.events_from(EVENTS, "p0")):
                await attacker.control.publish(subject, encode(event))
        cancel = CancelGenerate(request_id=request_id, reason="forged")
        await attacker.control.publish(subjects.cancel_generate(HOME, "d0"), encode(cancel))

    arrived = await counted(stack, "gateway", "foreign") + await counted(stack, "gateway", "late")
    async with at_each_request(stack, strike):
        records, prompts = await asked(stack, [SHORT] * REQUESTS, seed=2)
    right(stack, records, prompts)
    assert await counted(stack, "gateway", "foreign") + await counted(stack, "gateway", "late") == arrived, "servers refused them"


async def test_progress_of_a_prefill_that_it_was_not_given_is_ignored(stack: Stack, attacker: Attacker) -> None:
    """It may speak as its own worker, and knows the transfer; it lacks the job."""

    async def strike(generate: Generate) -> None:
        transfer_id = generate.placement.transfer_id
        for attempt in (1, 2):
            failed = PrefillFailed(
                transfer_id=transfer_id, attempt=attempt, nuid="0" * 22, worker="p0", code="engine", message="forged"
            )
            for site in (FAR, HOME):
                await attacker.control.publish(subjects.progress_from(PROGRESS, site, "p0"), encode(failed))
            cancel = CancelPrefill(transfer_id=transfer_id, attempt=attempt)
            await attacker.control.publish(subjects.cancel_prefill(HOME, HOME), encode(cancel))
            ended = AttemptEnded(request_id=generate.request_id, site=HOME, verified=False, code="forged")
            await attacker.control.publish(subjects.attempts(HOME), encode(ended))

    before = await counted(stack, "d0", "foreign", "PrefillFailed")
    async with at_each_request(stack, strike):
        records, prompts = await asked(stack, [SHORT] * REQUESTS, seed=3)
    right(stack, records, prompts)
    # What comes too soon or too late, or is of no attempt, is counted as late.
    assert await counted(stack, "d0", "foreign", "PrefillFailed") > before
    assert await counted(stack, "d0", "late", "PrefillFailed") >= REQUESTS
    assert {record.outcome for record in records} == {"local_short"}, "no attempt failed"


async def test_announcements_for_others_and_unreadable_ones_change_nothing(stack: Stack, attacker: Attacker) -> None:
    beat = Heartbeat(
        site=HOME, worker="d0", role=Role.DECODE, model=MODEL, fingerprint="", max_context_tokens=1, slots=0, draining=True
    )
    bucket = subjects.workers_bucket(HOME)
    own_key = f"{FAR}.prefill.p0"
    changed = BlocksChanged(site=HOME, worker="p0", role=Role.PREFILL, incarnation="x", sequence=9)

    async def strike() -> None:
        for subject in (subjects.entry(bucket, beat.key), subjects.entry(bucket, own_key), f"$KV.{bucket}.{beat.key}"):
            await attacker.control.publish(subject, encode(beat))
        await attacker.control.publish(subjects.entry(bucket, own_key), b"\x81" * 20_000)
        await attacker.control.publish(subjects.blocks(HOME, FAR, "prefill", "p0"), encode(changed))
        await attacker.control.publish(PROGRESS + f".{FAR}.p0", b"\xc1garbage")

    walls = [
        ("scheduler", "undecodable", "entry"),
        ("gateway", "undecodable", "entry"),
        ("scheduler", "foreign", "BlocksChanged"),
        ("d0", "undecodable", ""),
    ]
    before = [await counted(stack, *wall) for wall in walls]
    async with again_and_again(strike):
        records, prompts = await asked(stack, [SHORT] * REQUESTS, seed=4)
    right(stack, records, prompts)
    after = [await counted(stack, *wall) for wall in walls]
    assert all(later > sooner for sooner, later in zip(before, after, strict=True)), dict(zip(walls, after, strict=True))
    for process in stack.services.values():
        assert process.exit_code is None, process.log_end()


async def test_full_queues_and_buckets_of_the_prefill_site_leave_the_pd_site_its_own(stack: Stack, attacker: Attacker) -> None:
    job = subjects.jobs(HOME, HOME, MODEL)
    bucket = subjects.kv_bucket(HOME, FAR)

    put = subjects.entry(subjects.workers_bucket(HOME), f"{FAR}.prefill.p0")

    async def strike() -> None:
        for number in range(20):
            await attacker.control.publish(job, b"junk")
            await attacker.control.publish(put, b"junk", reply=f"jobs.{HOME}.{HOME}.worker.w{number}")
            await attacker.bulk.publish(f"$O.{bucket}.C.junk{number}", bytes(10_000))
            await attacker.bulk.publish(f"$O.{subjects.kv_bucket(HOME, HOME)}.C.junk", bytes(10_000))

    async with again_and_again(strike):
        records, prompts = await asked(stack, [SHORT] * REQUESTS, seed=5)
    right(stack, records, prompts)
    operator = await connect(stack.sites.endpoint(HOME, "ctl"))
    state = (await operator.jetstream().stream_info(subjects.jobs_stream(HOME, HOME))).state
    await operator.close()
    assert state.messages == 0


async def test_the_pd_site_manages_nothing_in_the_prefill_site(stack: Stack) -> None:
    attacker = await connect(stack.sites.endpoint(HOME, "ctl"))
    stream = subjects.jobs_stream(FAR, HOME)
    for verb in ("PURGE", "DELETE", "INFO"):
        with pytest.raises((nats.errors.NoRespondersError, TimeoutError)):
            await attacker.request(f"$JS.{FAR}.API.STREAM.{verb}.{stream}", timeout=0.5)
    await attacker.publish(subjects.change_role(FAR, "prefill", "p0"), b"")
    await attacker.flush()
    await attacker.close()
    records, prompts = await asked(stack, [LONG] * 2, seed=6)
    right(stack, records, prompts)
    assert {record.prefill_site for record in records} == {FAR}


async def test_no_service_asks_for_what_it_is_not_allowed(stack: Stack) -> None:
    """Permissions are no narrower than what the services do: all of it has been done by now."""
    logs = [process.log_path for process in stack.services.values()]
    logs += [server.log_path for server in stack.sites.servers.values()]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert [line for line in lines if "permissions violation" in line.lower()] == []


async def test_nothing_that_the_stack_wrote_is_for_others(stack: Stack) -> None:
    assert list(readable_by_others(stack.directory)) == []
    secret = [path for kind in ("toml", "log", "conf", "nk") for path in stack.directory.rglob(f"*.{kind}")]
    assert len(secret) > len(stack.services) * 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}
