"""pd workers change their role while requests run: every request is answered, with the tokens that it always had."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from load.bench.roles import asking, change_role, description_of, live_workers, until_workers
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import RoleChanging, RoleKept
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Description
from prfaas.stack.service_process import ServiceProcess
from prfaas.stack.stack import Stack
from tests.e2e.asking import tokens_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
DEADLINE_S = 180.0
OUTPUT_TOKENS = 24
PROMPTS = [[token % 256 for token in tokens_of(40 + 13 * seed, seed)] for seed in range(8)]


def describe(prefill: int, slots: int, emulated: dict[str, float], scheduler: dict[str, Any]) -> Description:
    """Four workers."""
    engine = {"engine": "emulated", "emulated": {"byte-scale": 1000.0} | emulated}
    return description_of("emulated-1t", prefill, 4 - prefill, {"engine": engine, "decode-worker": {"slots": slots}}, scheduler)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("stack")
    description = describe(prefill=2, slots=16, emulated={"time-scale": 8.0}, scheduler={"roles-every-s": 0})
    async with Stack(description, directory) as stack:
        yield stack


async def ask(stack: Stack, count: int, every_s: float, output_tokens: int = OUTPUT_TOKENS) -> list[Record]:
    arrivals = [Arrival(index * every_s, len(PROMPTS[index % len(PROMPTS)]), output_tokens) for index in range(count)]
    target = Target(url=stack.gateway_url("local"), model=stack.description.model, ttft_deadline_s=30.0)
    return await replay(target, arrivals, lambda index, _arrival: PROMPTS[index % len(PROMPTS)])


def worker(stack: Stack, name: str) -> ServiceProcess:
    return stack.services["local", name]


def texts(records: list[Record]) -> dict[int, set[str]]:
    """Keyed by length of the prompt, which no two prompts share."""
    found: dict[int, set[str]] = {}
    for record in records:
        assert (record.status, record.error) == (200, ""), f"{record.error}: {record.message}"
        assert record.tokens == record.arrival.output_tokens
        found.setdefault(record.arrival.prompt_tokens, set()).add(record.text)
    return found


async def test_workers_move_both_ways_under_load_and_no_request_notices(stack: Stack) -> None:
    expected = texts(await ask(stack, len(PROMPTS), 0.02))
    assert len(set.union(*expected.values())) == len(PROMPTS), "another cache gives another answer"
    pids = {name: worker(stack, name).pid for name in ("w1", "w2")}
    records: list[Record] = []
    async with asking(stack, PROMPTS, records, per_s=20.0, output_tokens=OUTPUT_TOKENS):
        for name, role, to_role, after in (
            ("w2", Role.DECODE, Role.PREFILL, (3, 1)),
            ("w2", Role.PREFILL, Role.DECODE, (2, 2)),
            ("w1", Role.PREFILL, Role.DECODE, (1, 3)),
            ("w1", Role.DECODE, Role.PREFILL, (2, 2)),
        ):
            assert await change_role(stack, name, role, to_role) == RoleChanging()
            await until_workers(stack, *after)
    assert len(records) >= 4 * len(PROMPTS)
    assert texts(records) == expected
    for name, pid in pids.items():
        assert (worker(stack, name).pid, worker(stack, name).exit_code) == (pid, None)
        assert "crashed" not in worker(stack, name).log_path.read_text()


async def log_says(process: ServiceProcess, event: str, since: int = 0) -> None:
    """`since`: the log's size before."""
    async with asyncio.timeout(DEADLINE_S):
        while f'"event":"{event}"'.encode() not in process.log_path.read_bytes()[since:]:
            await asyncio.sleep(0.02)


async def running_one(stack: Stack, names: tuple[str, ...]) -> str:
    """Returns the name of the first decode worker that runs a request."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            for name in names:
                page = await stack.metrics("local", name)
                line = next(line for line in page.splitlines() if line.startswith("vllm:num_requests_running{"))
                if float(line.split()[-1]):
                    return name
            await asyncio.sleep(0.02)


async def test_a_decode_worker_that_cannot_finish_in_time_keeps_its_role_and_its_requests(stack: Stack) -> None:
    running = asyncio.create_task(ask(stack, 4, 0.0, output_tokens=600))
    name = await running_one(stack, ("w2", "w3"))  # all of them may be where the prompts are cached
    assert await change_role(stack, name, Role.DECODE, Role.PREFILL, drain_s=0.1) == RoleChanging()
    await log_says(worker(stack, name), "role_kept")
    assert not running.done()
    assert len(texts(await running)) == 4
    await until_workers(stack, 2, 2)
    assert len(texts(await ask(stack, 4, 0.0))) == 4, "and it works on"


async def test_a_prefill_worker_that_cannot_finish_in_time_keeps_its_role_and_its_requests(stack: Stack) -> None:
    process = worker(stack, "w0")
    since = process.log_path.stat().st_size
    arrivals = [Arrival(0.0, 80_000 + index, 4) for index in range(4)]
    target = Target(url=stack.gateway_url("local"), model=stack.description.model)
    running = asyncio.create_task(replay(target, arrivals, lambda _, arrival: PROMPTS[0][:1] * arrival.prompt_tokens))
    await log_says(process, "job_taken", since)
    assert await change_role(stack, "w0", Role.PREFILL, Role.DECODE, drain_s=0.1) == RoleChanging()
    await log_says(process, "role_kept", since)
    assert not running.done()
    assert len(texts(await running)) == 4
    await until_workers(stack, 2, 2)
    assert len(texts(await ask(stack, 4, 0.0))) == 4, "and it works on"


async def test_a_worker_says_why_it_stays(stack: Stack) -> None:
    kept = await change_role(stack, "w0", Role.PREFILL, Role.PREFILL)
    assert kept == RoleKept(reason="worker 'w0' is a prefill worker already")


async def test_traffic_that_turns_from_long_prompts_to_long_answers_moves_a_worker(tmp_path: Path) -> None:
    """Three that prefill suit prompts of 250 tokens and answers of 2, and not answers of 16."""
    description = describe(
        prefill=3,
        slots=2,
        emulated={"time-scale": 4.0, "token-scale": 8.0},
        scheduler={"roles-every-s": 2.0, "policy": "local_only"},
    )
    async with Stack(description, tmp_path) as stack:
        records: list[Record] = []
        prompts = [(prompt * 7)[:250] for prompt in PROMPTS]
        async with asking(stack, prompts, records, output_tokens=2, per_s=3.6):
            async with asyncio.timeout(DEADLINE_S):
                while len(records) < 40:  # enough for solves, which find nothing to gain
                    await asyncio.sleep(0.1)
            assert await live_workers(stack) == {"prefill": 3, "decode": 1}
        async with asking(stack, prompts, records, output_tokens=16, per_s=3.6):
            async with asyncio.timeout(DEADLINE_S):
                while (await live_workers(stack))["decode"] < 2:
                    await asyncio.sleep(0.1)
        assert {(record.status, record.error) for record in records} == {(200, "")}
        assert 'prfaas_role_changes_total{result="done",to_role="decode"}' in await stack.metrics("local", "scheduler")
        moves = [line for line in worker(stack, "scheduler").log_path.read_text().splitlines() if '"worker_mov' in line]
        assert "with 249 tokens to prefill" in moves[0]
