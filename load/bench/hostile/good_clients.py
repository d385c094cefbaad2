"""Clients that do nothing wrong, each request on a connection of its own, and what they and the gateway feel."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Final

import msgspec
import psutil

RATE_PER_S: Final = 12.0
PROMPT_TOKENS: Final = 60
OUTPUT_TOKENS: Final = 8
DEADLINE_S: Final = 30.0
SAMPLE_EVERY_S: Final = 0.2


class Felt(msgspec.Struct):
    """Figures of what the good clients of one phase felt."""

    ttft_s: list[float] = []
    failures: list[str] = []
    """A status, or how a request ended, of each request without a whole answer."""

    def add(self, other: "Felt") -> None:
        self.ttft_s += other.ttft_s
        self.failures += other.failures


class Peaks(msgspec.Struct):
    """Most that the gateway and its process for large requests held and used."""

    rss_mib: float = 0.0
    files: int = 0
    cpu_share: float = 0.0
    """Share of one processor that both used, on average over a phase."""

    def add(self, other: "Peaks") -> None:
        self.rss_mib, self.files = max(self.rss_mib, other.rss_mib), max(self.files, other.files)
        self.cpu_share = max(self.cpu_share, other.cpu_share)


async def ask_for(seconds: float, port: int, model: str, key: str, seed: int) -> Felt:
    """Sends requests at an even pace, whatever becomes of those before."""
    source, felt, asking = random.Random(seed), Felt(), []
    for _ in range(int(RATE_PER_S * seconds)):
        prompt = list(source.randbytes(PROMPT_TOKENS))
        asking.append(asyncio.create_task(_ask(port, model, key, prompt, felt)))
        await asyncio.sleep(1 / RATE_PER_S)
    await asyncio.gather(*asking)
    return felt


async def _ask(port: int, model: str, key: str, prompt: list[int], felt: Felt) -> None:
    clock = asyncio.get_running_loop().time
    fields = {"model": model, "prompt": prompt, "max_tokens": OUTPUT_TOKENS, "stream": True, "ignore_eos": True}
    body = json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
    started_s, first_s, answer = clock(), None, b""
    try:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
            while part := await reader.read(1 << 16):
                answer += part
                if first_s is None and b"\ndata: " in answer:
                    first_s = clock() - started_s
            writer.close()
    except (OSError, TimeoutError) as error:
        felt.failures.append(type(error).__name__)
        return
    if first_s is None or b"data: [DONE]" not in answer:
        felt.failures.append(answer[9:12].decode("latin-1") or "closed")
    else:
        felt.ttft_s.append(first_s)


async def watch(pid: int, peaks: Peaks) -> None:
    """Notes peaks until it is cancelled."""
    process = psutil.Process(pid)
    started_s, before_s = time.monotonic(), _cpu_s([process, *process.children()])
    while True:
        await asyncio.sleep(SAMPLE_EVERY_S)
        family = [process, *process.children()]
        rss_mib = sum(each.memory_info().rss for each in family) / 2**20
        peaks.add(Peaks(rss_mib=rss_mib, files=process.num_fds()))
        peaks.cpu_share = (_cpu_s(family) - before_s) / (time.monotonic() - started_s)


def _cpu_s(family: Sequence[psutil.Process]) -> float:
    return float(sum(each.cpu_times().user + each.cpu_times().system for each in family))
