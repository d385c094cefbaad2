"""One version's stack, asked in blocks: `python side.py DIRECTORY POLICY PROMPT_TOKENS OUTPUT_TOKENS`, run in its checkout.

Reads a line with a number of requests, or 0 to wait, and writes a line of JSON with what they took, until the input ends. It
imports only what the versions that are compared have in common.
"""

import asyncio
import json
import random
import sys
import time
from pathlib import Path

import httpx

from load.emulated_stack import HOME, MODEL, two_sites
from prfaas.stack.stack import Stack

WARM_REQUESTS = 20
IDLE_S = 10.0
DEADLINE_S = 60.0


def on_cpu_s(pid: int) -> float:
    """Returns the processor time of a process's threads."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


class Side:
    def __init__(self, stack: Stack, prompt_tokens: int, output_tokens: int) -> None:
        self._stack = stack
        self._prompt_tokens, self._output_tokens = prompt_tokens, output_tokens
        self._client = httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False)
        self._url = f"{stack.gateway_url(HOME)}/v1/completions"
        self._random = random.Random(1)

    async def block(self, requests: int) -> dict[str, object]:
        """Asks one after another, each prompt a new one; without requests it waits."""
        before, began_at = self._on_cpu_s(), time.perf_counter()
        ttft_s = [await self._ask() for _ in range(requests)]
        if not requests:
            await asyncio.sleep(IDLE_S)
        after, took_s = self._on_cpu_s(), time.perf_counter() - began_at
        return {"ttft_s": ttft_s, "took_s": took_s, "cpu_s": {name: after[name] - before[name] for name in after}}

    async def _ask(self) -> float:
        prompt = [self._random.randrange(250) for _ in range(self._prompt_tokens)]
        body = {"model": MODEL, "prompt": prompt, "max_tokens": self._output_tokens, "temperature": 0, "stream": True}
        asked_at, first_at = time.perf_counter(), 0.0
        async with self._client.stream("POST", self._url, json=body) as answer:
            async for line in answer.aiter_lines():
                first_at = first_at or (time.perf_counter() if line.startswith("data:") else 0.0)
        assert answer.status_code == 200, dict(answer.headers)
        return first_at - asked_at

    def _on_cpu_s(self) -> dict[str, float]:
        pids = {f"{site} {process.role}": process.pid for (site, _), process in self._stack.services.items()}
        pids |= {f"{site} nats-server": server.pid for site, server in self._stack.sites.servers.items()}
        return {name: on_cpu_s(pid) for name, pid in pids.items()}


async def main() -> None:
    directory, policy, prompt_tokens, output_tokens = sys.argv[1:]
    description = two_sites(remote_workers=1, rate_mbit=1000.0, rtt_ms=2.0, time_scale=64.0, scheduler={"policy": policy})
    async with Stack(description, Path(directory)) as stack:
        side = Side(stack, int(prompt_tokens), int(output_tokens))
        await side.block(WARM_REQUESTS)
        print("{}", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await side.block(int(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
