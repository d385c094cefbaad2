"""The faults of the fault table, each done to a running stack while requests keep coming, and what each may take."""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from load.chaos.faults import CLOCK_SHIFT_S
from load.chaos.harness import GO_ON, go_on
from load.chaos.random_faults import FRAMES
from load.chaos.steps import Step, is_step, of_request
from load.chaos.world import NotHealthyError, World, resume_process, stop_process
from load.emulated_stack import FAR, HOME
from prfaas.contracts.codes import FailureCode
from prfaas.site.sites import Role
from prfaas.stack.service_process import ServiceProcess
from prfaas.telemetry.fault_points import Announcement, FaultPoint, Order
from prfaas.wan.control import LinkChange
from prfaas.wan.proxy import LinkState

RESPAWN_S = 2.0
"""Time after which a supervisor starts again what has ended."""
POISONED_S = 15.0
WORK_S = 30.0
"""Time within which each site has a prefill, at this rate."""
FULL_DISK = "disk of the local store full 25 s"
"""Row that takes a disk of its own."""
NONE = "none"
WORKERS = (Role.PREFILL_WORKER, Role.DECODE_WORKER)
AT_ONCE_S = {"none, requests of 7 s at once": 7.0, "none, requests of 20 s at once": 20.0}
"""Rows without a fault in which the requests of some seconds come all at once."""

Do = Callable[[World], Awaitable[None]]


async def _first(world: World, role: Role, site: str) -> ServiceProcess:
    """Returns the first process of a role; of the schedulers the one that leads."""
    found = world.processes(role, site)
    if role is Role.SCHEDULER:
        pages = [await world.stack.metrics(site, process.name) for process in found]
        found = [process for process, page in zip(found, pages, strict=True) if "prfaas_scheduler_leads 1.0" in page]
    return found[0]


async def _nothing(world: World) -> None:
    await asyncio.sleep(5.0)


def _at_once(for_s: float) -> Do:
    async def wait(world: World) -> None:
        await asyncio.sleep(for_s)

    return wait


def _killed(role: Role, site: str, *, back: bool = True) -> Do:
    async def kill(world: World) -> None:
        process = await _first(world, role, site)
        if not back:
            world.keep_down(process)
        world.kill(process)
        await asyncio.sleep(RESPAWN_S + 8.0)

    return kill


def _prefill_killed(site: str, *, at_once: bool = False) -> Do:
    """`at_once`: it is started again without a pause, and so beats under its name before anyone can miss it."""

    async def kill(world: World) -> None:
        process = await _at_work(world, site, world.keep_down if at_once else lambda process: None, world.kill)
        if at_once:
            await process.wait()
            await world.start_kept_down()
        await asyncio.sleep(RESPAWN_S + 8.0)

    return kill


def _prefill_stopped(site: str, stopped_s: float) -> Do:
    async def stop(world: World) -> None:
        process = await _at_work(world, site, stop_process)
        await asyncio.sleep(stopped_s)
        resume_process(process)

    return stop


async def _at_work(world: World, site: str, *strike: Callable[[ServiceProcess], None]) -> ServiceProcess:
    """Strikes the first prefill worker of a site that is about to send KV. Returns it. Raises NotHealthyError."""
    struck: asyncio.Future[ServiceProcess] = asyncio.get_running_loop().create_future()

    async def answer(announcement: Announcement) -> Order:
        if not struck.done() and is_step(Step.FIRST_FRAME, announcement, FRAMES):
            process = world.process_of(announcement.pid)
            if process in world.processes(Role.PREFILL_WORKER, site):
                for each in strike:
                    each(process)
                struck.set_result(process)
        return GO_ON

    world.harness.answer = answer
    try:
        return await asyncio.wait_for(struck, WORK_S)
    except TimeoutError:
        raise NotHealthyError(f"no prefill worker of site {site} sent KV within {WORK_S:g} s") from None
    finally:
        world.harness.answer = go_on


def _stopped(role: Role, stopped_s: float) -> Do:
    async def stop(world: World) -> None:
        process = await _first(world, role, HOME)
        stop_process(process)
        await asyncio.sleep(stopped_s)
        resume_process(process)

    return stop


def _broker_stopped(stopped_s: float) -> Do:
    async def stop(world: World) -> None:
        server = world.stack.sites.servers[HOME]
        server.pause()
        await asyncio.sleep(stopped_s)
        server.resume()

    return stop


def _link(state: LinkState, for_s: float) -> Do:
    async def change(world: World) -> None:
        (link,) = world.stack.sites.links.values()
        await link.change(LinkChange(state=state))
        await asyncio.sleep(for_s)
        await link.change(LinkChange(state=LinkState.UP))

    return change


async def _rolling_restart(world: World) -> None:
    """Every service, one after another, then both servers: each by SIGTERM, each ready before the next."""
    for process in world.stack.services.values():
        await _restart(world, process)
    for server in world.stack.sites.servers.values():
        await server.restart()
        await world.stack.sites.wait_joined()
        await asyncio.sleep(2.0)


async def _restart(world: World, process: ServiceProcess) -> None:
    world.keep_down(process)
    await process.stop(30.0)
    await world.start_kept_down()


async def _disk_full(world: World) -> None:
    world.disk.fill()
    await asyncio.sleep(25.0)
    world.disk.empty()


def _clocks(site: str, roles: Collection[Role], shift_s: float) -> Do:
    """The clocks of a site's processes of these roles are shifted, each from its next step on."""

    async def shift(world: World) -> None:
        processes = [process for role in roles for process in world.processes(role, site)]
        world.harness.clock_shifts.update({process.pid: shift_s for process in processes})
        await asyncio.sleep(40.0)
        world.harness.clock_shifts.update({process.pid: 0.0 for process in processes})

    return shift


def _poison(order: Order, *, kills: bool) -> Do:
    """The next request is poison: it does the same to every prefill worker that computes it. Its own end counts as lost."""

    async def poison(world: World) -> None:
        poisonous = ""

        async def answer(announcement: Announcement) -> Order:
            nonlocal poisonous
            if announcement.point is FaultPoint.PLACED:
                poisonous = poisonous or announcement.request_id
            if not (is_step(Step.FIRST_FRAME, announcement, FRAMES) and of_request(announcement, poisonous)):
                return GO_ON
            if kills:
                world.kill(world.process_of(announcement.pid))
            return order

        world.harness.answer = answer
        await asyncio.sleep(POISONED_S)
        world.harness.answer = go_on

    return poison


ROWS: dict[str, Do] = {
    NONE: _nothing,
    **{name: _at_once(for_s) for name, for_s in AT_ONCE_S.items()},
    "poison: kills prefill workers": _poison(GO_ON, kills=True),
    "poison: an error in prefill workers": _poison(Order(fail=True), kills=False),
    "decode worker killed, back": _killed(Role.DECODE_WORKER, HOME),
    "decode worker killed, not back": _killed(Role.DECODE_WORKER, HOME, back=False),
    "decode worker stopped 10 s": _stopped(Role.DECODE_WORKER, 10.0),
    "scheduler killed, back": _killed(Role.SCHEDULER, HOME),
    "scheduler stopped 10 s": _stopped(Role.SCHEDULER, 10.0),
    "local broker stopped 7 s": _broker_stopped(7.0),
    "local broker stopped 20 s": _broker_stopped(20.0),
    "gateway killed, back": _killed(Role.GATEWAY, HOME),
    "rolling restart of everything": _rolling_restart,
    "clocks of the pd site's workers 20 s ahead": _clocks(HOME, WORKERS, CLOCK_SHIFT_S),
    "clock of the pd site's server 20 s ahead of all": _clocks(HOME, (*WORKERS, Role.GATEWAY, Role.SCHEDULER), -CLOCK_SHIFT_S),
    "clocks of the far prefill workers 20 s ahead": _clocks(FAR, WORKERS, CLOCK_SHIFT_S),
    FULL_DISK: _disk_full,
    "prefill worker killed, back": _prefill_killed(HOME),
    "prefill worker stopped 10 s": _prefill_stopped(HOME, 10.0),
    "far prefill worker killed, back": _prefill_killed(FAR),
    "far prefill worker killed, back at once": _prefill_killed(FAR, at_once=True),
    "far prefill worker stopped 10 s": _prefill_stopped(FAR, 10.0),
    "link cut 20 s": _link(LinkState.CUT, 20.0),
    "link half-open 20 s": _link(LinkState.HALF_OPEN, 20.0),
}

ALLOWED: dict[str, Collection[str]] = {
    "poison: kills prefill workers": (FailureCode.PREFILL_CRASH,),
    "poison: an error in prefill workers": (FailureCode.ENGINE, FailureCode.BROKER, FailureCode.ABORTED),
    "gateway killed, back": ("connection", "cut_off"),
}
"""Codes of the requests that a fault itself takes."""

OUTAGES: dict[str, str] = {
    "local broker stopped 7 s": "none, requests of 7 s at once",
    "local broker stopped 20 s": "none, requests of 20 s at once",
}
"""Rows in which nothing can be served for a while, as the pd site's only server stands still; and those with the same work."""
