"""Our replay, AIPerf and GuideLLM send the same excerpt of the Mooncake trace, each to a fresh stack.

`python -m load.ecosystem [--model emulated-1t] [--requests 60] [--rate 2] [--json FILE]`. Prints what each client counted and
measured. Exit status 1 when one of them failed, had an error or saw no cached tokens. The clients' environments:
`make .venv-ecosystem-aiperf/installed .venv-ecosystem-guidellm/installed`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from load.ecosystem.clients import CLIENTS, ClientResult, Job
from load.ecosystem.excerpt import excerpt, write_mooncake
from load.ecosystem.run import ClientError, run_client
from load.ecosystem.stacks import EMULATED, MODELS, description_of
from load.ecosystem.tokenizer import hub_environ, write_hub_cache
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.engine.weights import prepare
from prfaas.process import interruption
from prfaas.stack.launch import START_ERRORS, fresh_directory
from prfaas.stack.stack import Stack
from prfaas.traces import TraceRequest

CLIENT_TIMEOUT_S = 120.0
BASE = "replay"


async def measure(
    model: str, names: list[str], taken: list[TraceRequest], directory: Path
) -> tuple[dict[str, ClientResult], list[str]]:
    """Returns the results by client, and sentences of those that failed. Raises what a stack raises."""
    trace = directory / "excerpt.jsonl"
    write_mooncake(taken, trace)
    tokenizer = write_hub_cache(prepare(model), directory / "hub")
    found, failed = {}, []
    for name in names:
        # A stack of its own for each: what one client left in the caches is no help to the next.
        async with Stack(description_of(model), directory / f"stack-{name}") as stack:
            job = Job(
                url=stack.gateway_url("local"),
                model=model,
                trace=trace,
                tokenizer=tokenizer,
                out=directory / name,
            )
            try:
                found[name] = await run_client(CLIENTS[name], job, hub_environ(directory / "hub"), CLIENT_TIMEOUT_S)
            except ClientError as error:
                failed.append(str(error))
    return found, failed


def table_of(found: dict[str, ClientResult]) -> Table:
    table = Table()
    for column in ("client", "requests", "errors", "cached", "TTFT P50", "P90", f"P50 to {BASE}", "P90"):
        table.add_column(column, justify="left" if column == "client" else "right")
    for name, each in found.items():
        ratios = ratios_to(found[BASE], each) if BASE in found else {}
        table.add_row(
            name, str(each.requests), str(each.errors), f"{each.cached_share:.1%}", f"{each.ttft_p50_s * 1e3:.1f} ms",
            f"{each.ttft_p90_s * 1e3:.1f} ms", *(f"{ratio - 1:+.1%}" for ratio in ratios.values()),
        )  # fmt: skip
    return table


def ratios_to(base: ClientResult, other: ClientResult) -> dict[str, float]:
    return {"ttft_p50": other.ttft_p50_s / base.ttft_p50_s, "ttft_p90": other.ttft_p90_s / base.ttft_p90_s}


def faults(found: dict[str, ClientResult], requests: int) -> list[str]:
    """Returns what is wrong, in sentences."""
    told = []
    for name, each in found.items():
        if each.errors or not requests - CLIENTS[name].unsent <= each.requests <= requests:
            told.append(f"{name}: {each.requests} of {requests} requests were answered, {each.errors} failed.")
        if not each.cached_share:
            told.append(f"{name} saw no cached tokens, though prompts share their first block.")
    return told


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.ecosystem", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=EMULATED, help="default: %(default)s")
    parser.add_argument("--clients", nargs="+", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument("--requests", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second; default: %(default)g")
    parser.add_argument("--max-input-tokens", type=int, default=8192, help="default: %(default)s")
    add_json_option(parser)
    arguments = parser.parse_args()
    missing = [name for name in arguments.clients if not CLIENTS[name].program.exists()]
    if missing:
        print(f"load.ecosystem: {', '.join(missing)} not installed: `make test-ecosystem` does it.", file=sys.stderr)
        return 2
    at = conditions("prfaas")
    taken = excerpt(
        requests=arguments.requests, rate_req_s=arguments.rate, max_input_tokens=arguments.max_input_tokens, max_output_tokens=64
    )
    try:
        found, told = interruption.run(measure(arguments.model, arguments.clients, taken, fresh_directory("ecosystem")))
    except START_ERRORS as error:
        print(f"load.ecosystem: {error}", file=sys.stderr)
        return 1
    Console(soft_wrap=True).print(table_of(found))
    told += faults(found, len(taken))
    for line in told:
        print(line)
    write_json({"summary": summary(found), "conditions": at}, arguments.json)
    return 1 if told else 0


def summary(found: dict[str, ClientResult]) -> dict[str, Any]:
    values: dict[str, Any] = {f"{name}_{field}": value for name, each in found.items() for field, value in each._asdict().items()}
    if BASE in found:
        others = {name: ratios_to(found[BASE], each) for name, each in found.items() if name != BASE}
        values |= {f"{name}_to_{BASE}_{field}": ratio for name, ratios in others.items() for field, ratio in ratios.items()}
    return values


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
