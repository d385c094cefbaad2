"""TTFT of a prompt whose first 8,192 tokens another site has cached: pulled over an emulated link, against computed.

Real processes, real weights. The prefill site computes some prompts; then the pd site is asked for them, and in turns for prompts
that are new.
"""

import asyncio
import statistics
from typing import Any, NamedTuple

import msgspec

from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Description, Role, load_description
from prfaas.stack.launch import DEMO, fresh_directory, say
from prfaas.stack.stack import Stack

MODEL = "gemma-3-270m"
PREFIX_TOKENS = 8192
MORE_TOKENS = 64
RATE_MBIT = 1000.0
DEADLINE_S = 600.0
READY_S = 60.0


class Turn(NamedTuple):
    pulled_s: float
    computed_s: float
    cached_tokens: int
    """Tokens of the pulled prompt that were not computed."""


def description() -> Description:
    """The demo's sites, where the pd site may pull from the prefill site and decode workers keep nothing."""
    found = load_description(DEMO)
    changes: dict[Role, dict[str, Any]] = {
        Role.GATEWAY: {"ttft-deadline-s": DEADLINE_S, "idle-deadline-s": DEADLINE_S},
        Role.SCHEDULER: {"policy": "remote_all", "ttft-objective-s": DEADLINE_S},
        Role.DECODE_WORKER: {"prefix-cache-mib": 0, "idle-timeout-s": DEADLINE_S},
        Role.PREFILL_WORKER: {"prefix-cache-mib": 1024},
    }
    sites = [msgspec.structs.replace(site, pulls_from=("remote",) if site.name == "local" else ()) for site in found.sites]
    links = [msgspec.structs.replace(link, rate_mbit=RATE_MBIT) for link in found.links]
    services = [
        msgspec.structs.replace(service, config=service.config | changes.get(service.role, {})) for service in found.services
    ]
    return msgspec.structs.replace(found, model=MODEL, sites=tuple(sites), links=tuple(links), services=tuple(services))


async def measure(turns: int) -> list[Turn]:
    made = TokenPrompts(1)
    length = Arrival(0.0, PREFIX_TOKENS + MORE_TOKENS, 1)
    prompts = [made.tokens(index, length) for index in range(2 * turns)]
    async with Stack(description(), fresh_directory("bench-pull"), progress=say) as stack:
        for index in range(turns):
            record = await ask(stack, prompts[index])
            say(f"computed at the prefill site, {record.ttft_s:.2f} s to the first token")
        scheduler = stack.process("local", Role.SCHEDULER)
        await scheduler.stop(60.0)
        await scheduler.configure({"policy": "local_only"}).spawn()
        await scheduler.wait_ready(120.0)
        await stack.wait_introduced()
        await caches_known(stack)
        found = []
        for index in range(turns):
            pulled, computed = await ask(stack, prompts[index]), await ask(stack, prompts[turns + index])
            assert pulled.ttft_s is not None and computed.ttft_s is not None
            found.append(Turn(pulled.ttft_s, computed.ttft_s, pulled.cached_tokens))
            say(f"pulled {pulled.ttft_s:.2f} s ({pulled.cached_tokens} tokens), computed {computed.ttft_s:.2f} s")
        return found


async def ask(stack: Stack, prompt: list[int]) -> Record:
    """Asks for one token. Raises RuntimeError for an answer that is none."""
    target = Target(url=stack.gateway_url("local"), model=MODEL, timeout_s=DEADLINE_S, ttft_deadline_s=DEADLINE_S)
    (record,) = await replay(target, [Arrival(0.0, len(prompt), 1)], lambda index, arrival: prompt)
    if record.error or record.ttft_s is None:
        raise RuntimeError(f"a request failed: {record.error} {record.message}")
    return record


async def caches_known(stack: Stack) -> None:
    """Returns when the scheduler that was started again has been told of caches. Raises TimeoutError."""
    async with asyncio.timeout(READY_S):
        while True:
            page = await stack.metrics("local", "scheduler")
            if any(line.startswith("prfaas_known_cached_blocks") and float(line.split()[-1]) for line in page.splitlines()):
                return
            await asyncio.sleep(0.1)


def summary(turns: list[Turn]) -> dict[str, float]:
    """Raises RuntimeError where a prompt was not pulled: then there is nothing to compare."""
    if not all(turn.cached_tokens >= PREFIX_TOKENS for turn in turns):
        raise RuntimeError(f"a prefix was not pulled: {turns}")
    return {"pull_over_recompute_ttft": statistics.median(turn.pulled_s / turn.computed_s for turn in turns)}
