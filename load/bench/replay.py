"""Precision and cost of `prfaas replay`, held against a stub of known latencies in a process of its own.

`python -m load.bench.replay [--seconds 20] [--long-seconds 180] [--json FILE]`. First 200 requests a second: the share that
left within 10 ms of their time. Then 50 a second: the report's percentiles against when the stub really wrote, the client's
processor time, and whether its memory grows.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from load.bench.replay_stub import FIRST_LINE, StubRow
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.process import interruption
from prfaas.process.child import end_with_parent
from prfaas.replay.results import Run, load_run
from prfaas.stack.launch import say

ON_TIME_S = 0.01
FAST_REQ_S, LONG_REQ_S = 200.0, 50.0
PROMPT_TOKENS, OUTPUT_TOKENS = 512, 16
SAMPLE_S = 1.0
QUANTILES = (0.5, 0.9, 0.95, 0.99)


@contextlib.contextmanager
def stub_process(log: Path) -> Iterator[str]:
    """Yields the stub's URL; what it saw and did is in `log` afterwards."""
    command = [sys.executable, "-m", "load.bench.replay_stub", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent())
    assert process.stdout is not None
    try:
        yield process.stdout.readline().removeprefix(FIRST_LINE).strip()
    finally:
        process.terminate()
        process.wait(timeout=30.0)
        process.stdout.close()


class Memory:
    """Resident memory of the client's processes while they run, sampled each second."""

    def __init__(self, samples: list[tuple[float, int]] | None = None) -> None:
        self.samples = samples or []
        """(moment of time.time(), bytes)"""

    async def sample(self, pid: int) -> None:
        client = psutil.Process(pid)
        while True:
            with contextlib.suppress(psutil.NoSuchProcess):
                processes = [client, *client.children(recursive=True)]
                rss_bytes = sum(process.memory_info().rss for process in processes)
                if rss_bytes:  # a process that has just ended has none
                    self.samples.append((time.time(), rss_bytes))
            await asyncio.sleep(SAMPLE_S)

    def between(self, start_at: float, end_at: float) -> "Memory":
        return Memory([sample for sample in self.samples if start_at <= sample[0] < end_at])

    @property
    def peak_bytes(self) -> int:
        return max((rss for _, rss in self.samples), default=0)

    @property
    def growth(self) -> float:
        """Last third over the middle third, minus 1: the first third fills caches."""
        values = [rss for _, rss in self.samples]
        third = max(1, len(values) // 3)
        middle, last = values[third : 2 * third] or values, values[2 * third : 3 * third] or values
        return float(np.mean(last) / np.mean(middle) - 1)

    @property
    def slope_bytes_per_s(self) -> float:
        """Slope of the straight line through the last two thirds."""
        settled = self.samples[len(self.samples) // 3 :]
        if len(settled) < 2:
            return 0.0
        moments, values = np.array(settled).T
        return float(np.polyfit(moments - moments[0], values, 1)[0])


async def replayed(rate_req_s: float, seconds: float, directory: Path) -> tuple[Run, list[StubRow], Memory]:
    """One run of the command, as a user starts it."""
    log, out = directory / "stub.jsonl", directory / "out"
    with stub_process(log) as url:
        options = ["--synthetic", f"fixed:tokens={PROMPT_TOKENS}", "--output-tokens", str(OUTPUT_TOKENS), "--target", url]
        timing = ["--rate", str(rate_req_s), "--duration", str(seconds), "--warm-up", "1", "--out", str(out)]
        command = [sys.executable, "-m", "prfaas.cli", "replay", *options, *timing]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, preexec_fn=end_with_parent())
        memory = Memory()
        sampling = asyncio.create_task(memory.sample(process.pid))
        try:
            if status := await process.wait():
                raise SystemExit(f"load.bench.replay: `prfaas replay` ended with status {status}.")
        finally:
            sampling.cancel()
    return load_run(out / "report.json"), [StubRow(*json.loads(line)) for line in log.read_text().splitlines()], memory


def on_time(run: Run, seen: Sequence[StubRow]) -> dict[str, float]:
    """Shares of requests that left, and that the stub had, within 10 ms of their time; lost ones are late."""
    came = {row.request_id: row.came_at for row in seen}
    start_at = started_at(run)
    left = [(row.sent_s or math.inf) - row.due_s for row in run.measured]
    at_stub = [came.get(row.request_id, math.inf) - start_at - row.due_s for row in run.measured]
    return {
        "left": float(np.mean([delay <= ON_TIME_S for delay in left])),
        "at_stub": float(np.mean([delay <= ON_TIME_S for delay in at_stub])),
    }


def percentile_errors(run: Run, seen: Sequence[StubRow]) -> dict[str, float]:
    """Relative error of each of the report's percentiles: the truth is when the stub wrote, after the request was due."""
    wrote = {row.request_id: row for row in seen}
    start_at = started_at(run)
    rows = [(row.due_s + start_at, wrote[row.request_id]) for row in run.measured if not row.error]
    found = {}
    for label, reported, known in (
        ("ttft", run.summary.time_to_first_token_s, [stub.first_at - due_at for due_at, stub in rows]),
        ("tpot", run.summary.inter_token_latency_s, [(stub.last_at - stub.first_at) / (stub.tokens - 1) for _, stub in rows]),
        ("latency", run.summary.request_latency_s, [stub.last_at - due_at for due_at, stub in rows]),
    ):
        assert reported is not None
        for quantile in QUANTILES:
            truth = float(np.quantile(known, quantile))
            found[f"{label}_p{quantile * 100:g}"] = getattr(reported, f"p{quantile * 100:g}") / truth - 1
    return found


def started_at(run: Run) -> float:
    return datetime.datetime.fromisoformat(run.setup.started_at).timestamp()


async def measure_fast(seconds: float, directory: Path) -> dict[str, Any]:
    """The share that leaves on time."""
    run, seen, _ = await replayed(FAST_REQ_S, seconds, directory)
    shares = on_time(run, seen)
    say(
        f"{FAST_REQ_S:g}/s: {shares['left']:.2%} left within {ON_TIME_S * 1e3:g} ms of their time, "
        f"{shares['at_stub']:.2%} were read by the stub by then; errors {run.summary.errors}"
    )
    return {
        "summary": {"on_time_share": shares["left"]},
        "on_time": shares,
        "fast": {"requests": len(run.requests), "errors": run.summary.errors},
    }


async def measure_long(seconds: float, directory: Path) -> dict[str, Any]:
    """The report's percentiles, and what the client takes."""
    run, seen, memory = await replayed(LONG_REQ_S, seconds, directory)
    errors = percentile_errors(run, seen)
    worst = max(errors.values(), key=abs)
    start_at = started_at(run)
    sending = memory.between(start_at, start_at + run.end_s)
    slope_mib_per_h = sending.slope_bytes_per_s * 3600 / 2**20
    say(f"{LONG_REQ_S:g}/s for {seconds:g} s: worst percentile off by {worst:+.2%}, errors {run.summary.errors}")
    say(
        f"client {run.client.cpu_cores:.3f} cores; memory while it sends at most {sending.peak_bytes / 2**20:.0f} MiB, "
        f"{sending.growth:+.2%} from the middle third to the last, {slope_mib_per_h:+.1f} MiB an hour; "
        f"{memory.peak_bytes / 2**20:.0f} MiB while it writes the report"
    )
    return {
        "summary": {
            "percentile_error": abs(worst),
            "client_core_share": run.client.cpu_cores,
            "memory_growth": sending.growth,
            "memory_slope_mib_per_h": slope_mib_per_h,
            "memory_sending_mib": sending.peak_bytes / 2**20,
            "memory_report_mib": memory.peak_bytes / 2**20,
        },
        "percentile_errors": errors,
        "long": {"seconds": seconds, "requests": len(run.requests), "errors": run.summary.errors},
    }


async def measure(seconds: float, long_seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {"summary": {}}
    for length_s, part in ((seconds, measure_fast), (long_seconds, measure_long)):
        if length_s:
            with tempfile.TemporaryDirectory(prefix="prfaas-bench-replay-") as directory:
                of_part = await part(length_s, Path(directory))
            found |= of_part | {"summary": found["summary"] | of_part["summary"]}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.replay", description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of the run at 200 requests/s, 0 for none; default: %(default)g"
    )
    parser.add_argument(
        "--long-seconds", type=float, default=180.0, help="of the run at 50 requests/s, 0 for none; default: %(default)g"
    )
    add_json_option(parser)
    arguments = parser.parse_args()
    at = conditions("aiohttp", "uvloop", "prfaas")
    found = interruption.run(measure(arguments.seconds, arguments.long_seconds))
    write_json(found | {"conditions": at}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
