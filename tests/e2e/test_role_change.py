"""pd workers change their role while requests run: every request is answered, with the tokens that it always had."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from infra.service_process import ServiceProcess
from infra.sites import Description, Service, Site, SiteKind
from infra.sites import Role as Program
from infra.stack import Stack
from load.client import Arrival, Record, Target, replay
from prfaas.bus.control import ControlBus
from prfaas.contracts import subjects
from prfaas.contracts.to_scheduler import Role
from prfaas.contracts.to_worker import ChangeRole, ChangeRoleReply, RoleChanging, RoleKept
from tests.e2e.asking import tokens_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
DEADLINE_S = 60.0
TIME_SCALE = 8.0
OUTPUT_TOKENS = 24
PROMPTS = [[token % 256 for token in tokens_of(40 + 13 * seed, seed)] for seed in range(8)]


def describe(**scheduler: Any) -> Description:
    worker = {
        "movable": True,
        "engine": {"engine": "emulated", "emulated": {"time-scale": TIME_SCALE, "byte-scale": 1000.0}},
        "decode-worker": {"slots": 16},
    }
    services = [
        Service(site="local", role=Program.GATEWAY, name="gateway"),
        Service(site="local", role=Program.SCHEDULER, name="scheduler", config=scheduler),
        *(Service(site="local", role=Program.PREFILL_WORKER, name=f"w{index}", config=worker) for index in (0, 1)),
        *(Service(site="local", role=Program.DECODE_WORKER, name=f"w{index}", config=worker) for index in (2, 3)),
    ]
    return Description(model="emulated-1t", sites=(Site(name="local", kind=SiteKind.PD),), services=tuple(services))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("stack")
    async with Stack(describe(), directory) as stack:
        yield stack


async def counts(stack: Stack) -> dict[str, int]:
    """Live workers by role, as the scheduler knows them."""
    page = await stack.metrics("local", "scheduler")
    found = dict.fromkeys(("prefill", "decode"), 0)
    for line in page.splitlines():
        if line.startswith("prfaas_workers{"):
            found[line.partition('role="')[2].partition('"')[0]] += int(float(line.split()[-1]))
    return found


async def until_counts(stack: Stack, prefill: int, decode: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await counts(stack) != {"prefill": prefill, "decode": decode}:
            await asyncio.sleep(0.05)


async def change(stack: Stack, worker: str, role: Role, to_role: Role, drain_s: float = DEADLINE_S) -> ChangeRoleReply:
    bus = await ControlBus.connect(stack.sites.endpoint("local", "ctl"), "test", 10.0)
    try:
        subject = subjects.change_role("local", role, worker)
        reply: ChangeRoleReply = await bus.request(subject, ChangeRole(role=to_role, drain_s=drain_s), ChangeRoleReply, 10.0)
    finally:
        await bus.drain()
    return reply


async def ask(stack: Stack, count: int, every_s: float, output_tokens: int = OUTPUT_TOKENS) -> list[Record]:
    arrivals = [Arrival(index * every_s, len(PROMPTS[index % len(PROMPTS)]), output_tokens) for index in range(count)]
    target = Target(url=stack.gateway_url("local"), model=stack.description.model, ttft_deadline_s=30.0)
    return await replay(target, arrivals, lambda index, _arrival: PROMPTS[index % len(PROMPTS)])


@asynccontextmanager
async def under_load(stack: Stack, records: list[Record]) -> AsyncIterator[None]:
    """Requests come all the time while the body runs."""
    over = asyncio.Event()

    async def load() -> None:
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                for index in range(len(PROMPTS)):
                    group.create_task(one(index))
                    await asyncio.sleep(0.05)

    async def one(index: int) -> None:
        arrival = Arrival(0.0, len(PROMPTS[index]), OUTPUT_TOKENS)
        target = Target(url=stack.gateway_url("local"), model=stack.description.model, ttft_deadline_s=30.0)
        records.extend(await replay(target, [arrival], lambda _index, _arrival: PROMPTS[index]))

    loading = asyncio.create_task(load())
    try:
        yield
    finally:
        over.set()
        await loading


def worker(stack: Stack, name: str) -> ServiceProcess:
    return stack.services["local", name]


def texts(records: list[Record]) -> dict[int, set[str]]:
    """By length of the prompt, which no two prompts share."""
    found: dict[int, set[str]] = {}
    for record in records:
        assert (record.status, record.error) == (200, ""), f"{record.error}: {record.message}"
        assert record.tokens == OUTPUT_TOKENS
        found.setdefault(record.arrival.prompt_tokens, set()).add(record.text)
    return found


async def test_workers_move_both_ways_under_load_and_no_request_notices(stack: Stack) -> None:
    expected = texts(await ask(stack, len(PROMPTS), 0.02))
    assert len(set.union(*expected.values())) == len(PROMPTS), "another cache gives another answer"
    pids = {name: worker(stack, name).pid for name in ("w1", "w2")}
    records: list[Record] = []
    async with under_load(stack, records):
        for name, role, to_role, after in (
            ("w2", Role.DECODE, Role.PREFILL, (3, 1)),
            ("w2", Role.PREFILL, Role.DECODE, (2, 2)),
            ("w1", Role.PREFILL, Role.DECODE, (1, 3)),
            ("w1", Role.DECODE, Role.PREFILL, (2, 2)),
        ):
            started_s = time.monotonic()
            assert await change(stack, name, role, to_role) == RoleChanging()
            await until_counts(stack, *after)
            print(f"{name}: {role} to {to_role} in {time.monotonic() - started_s:.2f} s, {len(records)} answers so far")
    assert len(records) >= 4 * len(PROMPTS)
    assert texts(records) == expected
    for name, pid in pids.items():
        assert (worker(stack, name).pid, worker(stack, name).exit_code) == (pid, None)
        assert "crashed" not in worker(stack, name).log_path.read_text()
