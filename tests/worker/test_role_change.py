"""The message that asks for another role: who says no and why, and what a drain that ends in time or not leads to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import ChangeRoleReply, RoleChanging, RoleKept
from prfaas.contracts.to_worker import ChangeRole
from prfaas.process.runner import Program, ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.tracing import Tracing
from prfaas.worker.identity import Identity
from prfaas.worker.role_change import RoleChange, RoleConfigError

DEADLINE_S = 60.0
IDENTITY = Identity("home", "w0", Role.PREFILL)


@dataclass
class Work:
    """Work that ends when the test says so."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    resumed: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[str] = field(default_factory=list)

    async def finish(self) -> None:
        self.calls.append("finish")
        await self.over.wait()

    async def resume(self) -> None:
        self.calls.append("resume")
        self.resumed.set()

    async def withdraw(self) -> None:
        self.calls.append("withdraw")


@dataclass
class Worker:
    bus: ControlBus
    tasks: Tasks
    program: Program
    work: Work
    role_change: RoleChange

    async def ask(self, role: Role = Role.DECODE, drain_s: float = DEADLINE_S) -> ChangeRoleReply:
        subject = subjects.change_role("home", Role.PREFILL, "w0")
        reply: ChangeRoleReply = await self.bus.request(
            subject, ChangeRole(role=role, drain_s=drain_s), ChangeRoleReply, DEADLINE_S
        )
        return reply


@contextlib.asynccontextmanager
async def prefill_worker(directory: Path, *words: str, movable: bool = True) -> AsyncIterator[Worker]:
    url = "nats://127.0.0.1:1"
    program = Program(["--site", "home", "--control.url", url, "--bulk.url", url, *words])
    tasks, work = Tasks(), Work()
    context = ServiceContext(tasks, CollectorRegistry(), Tracing(), program)
    async with NatsServer(directory / "nats") as server, asyncio.timeout(60.0):
        bus = await ControlBus.connect(NatsEndpoint(url=server.client_url), "test")
        worker = Worker(bus, tasks, program, work, RoleChange(IDENTITY, context, work, movable=movable))
        await worker.role_change.start(bus)
        try:
            yield worker
        finally:
            assert not await tasks.cancel_all(DEADLINE_S)
            await bus.drain()


async def test_it_drains_withdraws_and_asks_for_the_other_program(tmp_path: Path) -> None:
    async with prefill_worker(tmp_path) as worker:
        possible_at_once = worker.role_change.possible
        assert await worker.ask() == RoleChanging()
        assert (possible_at_once, worker.role_change.possible) == (False, True), "its configuration was checked first"
        assert await worker.ask() == RoleKept(reason="prefill worker 'w0' is draining already")
        assert not worker.program.asked.is_set()
        worker.work.over.set()
        await worker.program.asked.wait()
    assert worker.work.calls == ["finish", "withdraw"]
    assert worker.program.command(worker.program.next_role)[1:4] == ["-m", "prfaas_decode_worker", "--site"]


async def test_what_takes_too_long_goes_on_in_the_old_role_and_it_can_be_asked_again(tmp_path: Path) -> None:
    async with prefill_worker(tmp_path) as worker:
        assert await worker.ask(drain_s=0.01) == RoleChanging()
        await worker.work.resumed.wait()
        assert worker.work.calls == ["finish", "resume"]
        assert not worker.program.asked.is_set()
        worker.work.over.set()
        assert await worker.ask() == RoleChanging()
        await worker.program.asked.wait()


async def test_a_process_that_stops_does_not_change(tmp_path: Path) -> None:
    async with prefill_worker(tmp_path) as worker:
        assert await worker.ask() == RoleChanging()
        worker.role_change.give_up()
        worker.work.over.set()
        assert await worker.ask() == RoleKept(reason="prefill worker 'w0' is draining already")
    assert worker.work.calls == ["finish"] and not worker.program.asked.is_set()
    assert not worker.tasks.failed.done()


async def test_who_is_not_movable_or_is_it_already_says_so(tmp_path: Path) -> None:
    async with prefill_worker(tmp_path / "a", movable=False) as worker:
        assert await worker.ask() == RoleKept(reason="prefill worker 'w0' is not movable")
        assert not worker.role_change.possible
    async with prefill_worker(tmp_path / "b") as worker:
        assert await worker.ask(Role.PREFILL) == RoleKept(reason="worker 'w0' is a prefill worker already")


async def test_a_configuration_that_does_not_suit_the_other_role_is_found_at_the_start(tmp_path: Path) -> None:
    async with prefill_worker(tmp_path, "--serves", "home") as worker:
        _, error = await worker.tasks.failed
    assert isinstance(error, RoleConfigError)
    assert str(error).startswith(
        "this worker is movable, but it could not be a decode worker: prfaas-decode-worker: command line:"
    )
    assert "unknown key `serves`" in str(error)
