"""The faults, each done to a running stack while the process that reached a step stands still."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple

from load.chaos.harness import GO_ON
from load.chaos.messages import damaged
from load.chaos.steps import RECEIVERS, Step
from load.chaos.world import START_S, World, resume_process, stop_process
from load.emulated_stack import HOME
from prfaas.stack.nats_server import NatsServer
from prfaas.stack.service_process import ServiceProcess
from prfaas.telemetry.fault_points import Order
from prfaas.wan.control import LinkChange
from prfaas.wan.proxy import LinkState

STOP_S = 6.0
"""Longer than a scheduler's patience with a silent worker, and than a queue's with a job."""
OUTAGE_S = 3.0
SLOW_S = 8.0
STALL_S = 5.0
THROTTLE_S = 3.0
FULL_DISK_S = 4.0
BROKER_DOWN_S = 1.0
TWIN_S = 6.0
"""Life of a twin, its start of a few seconds included."""
CLOCK_SHIFT_S = 20.0
CLOCK_S = 3.0
SLOW_SHARE = 0.01
_STOPPED_S, _RUNNING_S = 0.09, 0.01


class Fault(StrEnum):
    KILL = "kill"
    """SIGKILL; a supervisor starts it again after a second."""
    STOP = "stop"
    """SIGSTOP for 6 s."""
    POISON = "poison"
    """An error that nothing foresees, each time that this request reaches the step."""
    CUT = "cut"
    """The link's connections are reset and new ones refused, for 3 s."""
    HALF_OPEN = "half_open"
    """The link swallows every byte, for 3 s."""
    SLOW_LINK = "slow_link"
    """The link has 1 % of its rate, for 8 s."""
    STALL = "stall"
    """Nothing crosses the link for 5 s, and nothing is lost."""
    BROKER_RESTART = "broker_restart"
    """The pd site's nats-server is killed and back after a second. What lay in its memory is lost: jobs, KV, who is there."""
    BROKER_LOST_STORE = "broker_lost_store"
    """The same, and its whole store is lost, as if all of it had been in memory."""
    DISK_FULL = "disk_full"
    """The disk of the pd site's nats-server has no byte left, for 4 s."""
    DAMAGED = "damaged"
    """The last message before the step comes again with a flipped bit (frames) or cut short (others)."""
    DUPLICATE = "duplicate"
    """The last message before the step is delivered again."""
    CLOCK = "clock"
    """The process's clock jumps 20 s ahead, for 3 s at least."""
    TWIN = "twin"
    """A second process of the same name starts, and leaves after 6 s."""
    SLOW_CONSUMER = "slow_consumer"
    """The processes that receive what the step sends get a tenth of their time, for 3 s."""


class Hit(NamedTuple):
    """Targets of a fault: the process at the step, and the request that has reached it."""

    process: ServiceProcess
    step: Step
    request_id: str


async def _kill(world: World, hit: Hit) -> Order:
    killed_pid = hit.process.pid
    world.kill(hit.process)
    world.later(0.0, lambda: world.until_back(killed_pid))
    return GO_ON


async def _stop(world: World, hit: Hit) -> Order:
    stop_process(hit.process)

    async def resume() -> None:
        resume_process(hit.process)

    world.later(STOP_S, resume)
    return GO_ON


async def _poison(world: World, hit: Hit) -> Order:
    return Order(fail=True)


def _link(change: LinkChange, back: LinkChange | None, after_s: float) -> "Inject":
    async def inject(world: World, hit: Hit) -> Order:
        (link,) = world.stack.sites.links.values()
        await link.change(change)
        if back is not None:
            world.later(after_s, lambda: link.change(back))
        return GO_ON

    return inject


async def _slow_link(world: World, hit: Hit) -> Order:
    (shape,) = world.stack.description.links
    assert shape.rate_mbit is not None
    (link,) = world.stack.sites.links.values()
    await link.change(LinkChange(rate_mbit=shape.rate_mbit * SLOW_SHARE))
    world.later(SLOW_S, lambda: link.change(LinkChange(rate_mbit=shape.rate_mbit)))
    return GO_ON


def _server(world: World) -> NatsServer:
    return world.stack.sites.servers[HOME]


async def _broker_restart(world: World, hit: Hit) -> Order:
    _server(world).kill()
    world.later(BROKER_DOWN_S, _server(world).start)
    return GO_ON


async def _broker_lost_store(world: World, hit: Hit) -> Order:
    _server(world).kill()
    world.disk.clear() if world.disk.mounted else _server(world).drop_store()
    world.later(BROKER_DOWN_S, _server(world).start)
    return GO_ON


async def _disk_full(world: World, hit: Hit) -> Order:
    world.disk.fill()

    async def empty() -> None:
        world.disk.empty()

    world.later(FULL_DISK_S, empty)
    return GO_ON


async def _damaged(world: World, hit: Hit) -> Order:
    message = await world.messages.last(hit.step, hit.request_id)
    world.messages.send(hit.step, damaged(hit.step, message))
    return GO_ON


async def _duplicate(world: World, hit: Hit) -> Order:
    world.messages.send(hit.step, await world.messages.last(hit.step, hit.request_id))
    return GO_ON


async def _clock(world: World, hit: Hit) -> Order:
    async def set_back() -> None:
        world.harness.clock_shifts[hit.process.pid] = 0.0  # at its next step, which a later request takes it to

    world.later(CLOCK_S, set_back)
    return Order(clock_shift_s=CLOCK_SHIFT_S)


async def _twin(world: World, hit: Hit) -> Order:
    twin = await hit.process.twin(hit.process.log_path.parent / "twins").spawn()
    world.later(TWIN_S, lambda: twin.stop(30.0))
    await twin.wait_ready(START_S)
    return GO_ON


async def _slow_consumer(world: World, hit: Hit) -> Order:
    slowed = [process for process in world.processes(RECEIVERS[hit.step]) if process is not hit.process]

    async def throttle() -> None:
        until_at = time.monotonic() + THROTTLE_S
        while time.monotonic() < until_at:
            for process in slowed:
                stop_process(process)
            await asyncio.sleep(_STOPPED_S)
            for process in slowed:
                resume_process(process)
            await asyncio.sleep(_RUNNING_S)

    world.later(0.0, throttle)
    return GO_ON


Inject = Callable[[World, Hit], Awaitable[Order]]

INJECTIONS: dict[Fault, Inject] = {
    Fault.KILL: _kill,
    Fault.STOP: _stop,
    Fault.POISON: _poison,
    Fault.CUT: _link(LinkChange(state=LinkState.CUT), LinkChange(state=LinkState.UP), OUTAGE_S),
    Fault.HALF_OPEN: _link(LinkChange(state=LinkState.HALF_OPEN), LinkChange(state=LinkState.UP), OUTAGE_S),
    Fault.SLOW_LINK: _slow_link,
    Fault.STALL: _link(LinkChange(stall_s=STALL_S), None, 0.0),
    Fault.BROKER_RESTART: _broker_restart,
    Fault.BROKER_LOST_STORE: _broker_lost_store,
    Fault.DISK_FULL: _disk_full,
    Fault.DAMAGED: _damaged,
    Fault.DUPLICATE: _duplicate,
    Fault.CLOCK: _clock,
    Fault.TWIN: _twin,
    Fault.SLOW_CONSUMER: _slow_consumer,
}
