"""Harm that a poisonous request does to others: every third one is poisonous, while the others stream.

`python -m load.bench.poison [--json FILE]`. Over a real stack with emulated engines, and over one with the real gemma-3-270m, for
what only a real tokenizer does. Poison comes from HTTP clients and, with the site's own keys, over its buses. The summary counts
processes that ended, answers with wrong tokens, and the longest pause between two pieces of any good stream.
"""

import argparse
import asyncio
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from load.bench.poison_bus import BusPoisons
from load.bench.poison_http import HttpPoisons
from load.emulated_stack import HOME, MODEL, right_answer, two_sites
from prfaas.bus.bulk.lane import BulkLane
from prfaas.engine.weights import prepare
from prfaas.process import interruption
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Description, Role
from prfaas.stack.launch import START_ERRORS, describe, fresh_directory, say
from prfaas.stack.stack import Stack

REAL_MODEL = "gemma-3-270m"
RATE_REQ_S = 6.0
"""Requests of both kinds: two of three are good."""
REAL_RATE_REQ_S = 2.4
OUTPUT_TOKENS = 32
PROMPTS = 6
"""Good prompts, which come again and again: the right answer to each is known before."""
DRAIN_S = 60.0
BURST_EVERY_S = 0.5


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one stack under poison."""

    good: int
    poisonous: int
    bus_messages: int
    exits: int
    """Processes that ended by themselves."""
    wrong_tokens: int
    """Good requests whose answer had other tokens than the right one."""
    failed: int
    """Good requests that were answered with an error, or not at all."""
    longest_stall_s: float
    """Longest pause between two pieces of a good stream."""
    undecodable: float
    """Messages that the processes say they dropped."""
    poison_results: dict[str, str]
    """Last result of each kind of poison: a status, or how its connection ended."""
    errors: dict[str, int]


Right = Callable[[Sequence[int]], Awaitable[str]]


def emulated_sites() -> Description:
    return two_sites(
        remote_workers=1, rate_mbit=200.0, scheduler={"policy": "threshold", "threshold-tokens": 200}, time_scale=16.0
    )


async def under_poison(stack: Stack, model: str, prompts: Sequence[list[int]], rights: Sequence[str], **load: float) -> Arm:
    """Sends `rate_req_s` requests a second for `duration_s`, every third one poisonous, and poison over the buses beside."""
    rate_req_s, duration_s = load["rate_req_s"], load["duration_s"]
    count = int(rate_req_s * duration_s)
    due = [index / rate_req_s for index in range(count)]
    good = [Arrival(at, len(prompts[index % len(prompts)]), OUTPUT_TOKENS) for index, at in enumerate(due) if index % 3 != 2]
    order = [index % len(prompts) for index in range(count) if index % 3 != 2]
    url = stack.gateway_url(HOME)
    kinds = list(HttpPoisons(url, model).all().items())
    random.Random(3).shuffle(kinds)
    results: dict[str, str] = {}

    async def poison(at: float, number: int) -> None:
        name, send = kinds[number % len(kinds)]
        await asyncio.sleep(at)
        results[name] = await send()

    target = Target(url=url, model=model, ttft_deadline_s=30.0, timeout_s=DRAIN_S)
    control, bulk = [
        await BulkLane.connect(stack.sites.endpoint(HOME, account), name="poison", timeout_s=10.0) for account in ("ctl", "bulk")
    ]
    bus = BusPoisons(stack.description, HOME, control, bulk)
    bursts = asyncio.create_task(_burst(bus, duration_s))
    try:
        async with asyncio.TaskGroup() as tasks:
            answered = tasks.create_task(replay(target, good, lambda index, _: prompts[order[index]]))
            for number, at in enumerate(due[2::3]):
                tasks.create_task(poison(at, number))
        await bursts
    finally:
        bursts.cancel()
        for lane in (control, bulk):
            await lane.close()
    return await _arm(stack, answered.result(), [rights[which] for which in order], len(due[2::3]), bus.sent, results)


async def _burst(bus: BusPoisons, duration_s: float) -> None:
    ends_at = time.monotonic() + duration_s
    while time.monotonic() < ends_at:
        bus.burst()
        await asyncio.sleep(BURST_EVERY_S)


async def _arm(
    stack: Stack, records: Sequence[Record], rights: Sequence[str], poisonous: int, sent: int, results: dict[str, str]
) -> Arm:
    for record, right in zip(records, rights, strict=True):
        if record.error or record.text != right:
            say(f"{record.error or 'wrong tokens'}: {record.message or record.text!r}")
    return Arm(
        good=len(records),
        poisonous=poisonous,
        bus_messages=sent,
        exits=sum(process.exit_code is not None for process in stack.services.values()),
        wrong_tokens=sum(not record.error and record.text != right for record, right in zip(records, rights, strict=True)),
        failed=sum(bool(record.error) for record in records),
        longest_stall_s=max((gap for record in records for gap in record.gaps_s), default=0.0),
        undecodable=await _undecodable(stack),
        poison_results=dict(sorted(results.items())),
        errors=dict(Counter(record.error for record in records if record.error)),
    )


async def _undecodable(stack: Stack) -> float:
    total = 0.0
    for (site, name), process in stack.services.items():
        if process.exit_code is None:
            page = await stack.metrics(site, name)
            total += sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("prfaas_bus_undecodable_total"))
    return total


async def emulated_arm(duration_s: float, directory: Path) -> Arm:
    description = emulated_sites()
    source = random.Random(5)
    prompts = [list(source.randbytes(120 if index % 2 else 480)) for index in range(PROMPTS)]
    rights = [right_answer(description, prompt, OUTPUT_TOKENS) for prompt in prompts]
    async with Stack(description, directory, progress=say) as stack:
        return await under_poison(stack, MODEL, prompts, rights, rate_req_s=RATE_REQ_S, duration_s=duration_s)


async def real_arm(duration_s: float, directory: Path) -> Arm:
    description = describe(Path("shared/prfaas/stack/demo.toml"), REAL_MODEL, None)
    # In bf16 the other rows of a batch may tip a near tie, which is no harm that poison did: fp32 keeps it apart.
    worker: dict[str, Any] = {"engine": {"dtype": "float32"}}
    changes: dict[Role, dict[str, Any]] = {
        Role.SCHEDULER: {"policy": "local_only"},
        Role.DECODE_WORKER: worker,
        Role.PREFILL_WORKER: worker,
    }
    services = tuple(
        msgspec.structs.replace(service, config=service.config | changes.get(service.role, {}))
        for service in description.services
    )
    prompts = [[2, *(1000 + (7 * index + place * 31) % 9000 for place in range(24))] for index in range(PROMPTS)]
    async with Stack(msgspec.structs.replace(description, services=services), directory, progress=say) as stack:
        # The right answers are those without poison, one prompt at a time.
        target = Target(url=stack.gateway_url(HOME), model=REAL_MODEL, timeout_s=DRAIN_S)
        rights = []
        for prompt in prompts:
            (record,) = await replay(target, [Arrival(0.0, len(prompt), OUTPUT_TOKENS)], lambda _, __, prompt=prompt: prompt)  # type: ignore[misc]
            rights.append(record.text)
        return await under_poison(stack, REAL_MODEL, prompts, rights, rate_req_s=REAL_RATE_REQ_S, duration_s=duration_s)


async def measure(duration_s: float, arms: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Arm] = {}
    if "emulated" in arms:
        found["emulated"] = await emulated_arm(duration_s, fresh_directory("bench-poison"))
    if "real" in arms:
        prepare(REAL_MODEL)
        found["real"] = await real_arm(duration_s, fresh_directory("bench-poison-real"))
    for name, arm in found.items():
        print(
            f"{name:>9}: {arm.good} good and {arm.poisonous} poisonous requests, {arm.bus_messages} poisonous messages; "
            f"{arm.exits} processes ended, {arm.wrong_tokens} answers wrong, {arm.failed} failed, longest stall "
            f"{arm.longest_stall_s:.3f} s; {arm.undecodable:.0f} messages dropped as undecodable"
        )
    return {
        "summary": {
            "exits": sum(arm.exits for arm in found.values()),
            "wrong_tokens": sum(arm.wrong_tokens for arm in found.values()),
            "longest_stall_s": max(arm.longest_stall_s for arm in found.values()),
        },
        "arms": msgspec.to_builtins(found),
        "duration_s": duration_s,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.processor() or platform.machine()}, {platform.python_version()}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.poison", description=__doc__)
    parser.add_argument("--duration", type=float, default=30.0, help="seconds for each arm; default: %(default)s")
    parser.add_argument("--arms", default="emulated,real", help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="also write the results there")
    arguments = parser.parse_args()
    try:
        result = interruption.run(measure(arguments.duration, arguments.arms.split(",")))
    except START_ERRORS as error:
        print(f"load.bench.poison: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    summary = result["summary"]
    return 1 if summary["exits"] or summary["wrong_tokens"] else 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
