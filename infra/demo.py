"""`make demo`: two sites on this machine, a short and a long prompt, and the proof that the answer is the same in both sites."""

import argparse
import datetime
import inspect
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from openai import AsyncOpenAI
from rich.console import Console
from rich.table import Table

from infra.demo_report import write_demo_report
from infra.otlp_sink import OtlpSink, SpanTree
from infra.waterfall import waterfall
from prfaas.engine.model_reference import model_name
from prfaas.engine.weights import prepare
from prfaas.process import interruption
from prfaas.replay.results import ResultError
from prfaas.replay.rows import RequestRow
from prfaas.site.sites import Description, Role
from prfaas.stack.launch import DEMO, START_ERRORS, describe, fresh_directory
from prfaas.stack.stack import Stack

LONG_PROMPT_CHARACTERS = 18_000
"""About 4,000 tokens of Python source, which both models continue sensibly."""
ANSWER_TOKENS = 48
TTFT_DEADLINE_S = 120
"""Deadline that suits a busy laptop; the default of 30 s is for services."""
TRACE_DEADLINE_S = 10.0

console = Console(highlight=False)


class Answer(msgspec.Struct, kw_only=True):
    name: str
    text: str = ""
    tokens: list[str] = []
    logprobs: list[float] = []
    outcome: str = ""
    prefill_site: str = ""
    reason: str = ""
    trace_id: str = ""
    started_at: float = 0.0
    """Moments of time.monotonic()."""
    first_at: float = 0.0
    last_at: float = 0.0
    max_gap_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    transfer: dict[str, Any] = {}

    @property
    def ttft_s(self) -> float:
        return self.first_at - self.started_at

    @property
    def tokens_per_s(self) -> float:
        took_s = self.last_at - self.first_at
        return (len(self.tokens) - 1) / took_s if took_s > 0 else 0.0


async def ask(client: AsyncOpenAI, model: str, name: str, prompt: str) -> Answer:
    """Streams one greedy completion to the terminal."""
    answer = Answer(name=name)
    console.rule(f"{name}: {len(prompt):,} characters")
    console.print(f"[dim]...{prompt[-60:]}[/dim]" if len(prompt) > 60 else f"[dim]{prompt}[/dim]", end="")
    answer.started_at = time.monotonic()
    raw = await client.completions.with_raw_response.create(
        model=model,
        prompt=prompt,
        max_tokens=ANSWER_TOKENS,
        temperature=0,
        logprobs=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-prfaas-report": "1", "x-prfaas-ttft-deadline-s": str(TTFT_DEADLINE_S)},
    )
    answer.outcome = raw.headers["x-prfaas-outcome"]
    answer.prefill_site = raw.headers["x-prfaas-prefill-site"]
    answer.reason = raw.headers["x-prfaas-reason"]
    answer.trace_id = raw.headers["x-prfaas-trace-id"]
    async for chunk in raw.parse():
        if chunk.usage is not None:
            answer.prompt_tokens = chunk.usage.prompt_tokens
            details = chunk.usage.prompt_tokens_details
            answer.cached_tokens = (details.cached_tokens or 0) if details else 0
            answer.transfer = (chunk.usage.model_extra or {}).get("prfaas", {}).get("transfer", {})
        for choice in chunk.choices:
            now_s = time.monotonic()
            answer.max_gap_s = max(answer.max_gap_s, now_s - answer.last_at if answer.last_at else 0.0)
            answer.first_at, answer.last_at = answer.first_at or now_s, now_s
            answer.text += choice.text
            console.print(choice.text, end="", markup=False)
            if choice.logprobs is not None:
                answer.tokens += choice.logprobs.tokens or []
                answer.logprobs += [value for value in choice.logprobs.token_logprobs or [] if value is not None]
    console.print()
    return answer


def prompts() -> tuple[str, str]:
    source = inspect.getsource(argparse)
    return "The three largest cities of Italy are", source[:LONG_PROMPT_CHARACTERS].rsplit("\n", 1)[0] + "\n"


def serial_s(answer: Answer, description: Description) -> float | None:
    """Returns the seconds that the transfer takes on an idle link, without prefill beside it."""
    link = description.link(answer.prefill_site, "local")
    if link is None or link.rate_mbit is None:
        return None
    return float(answer.transfer.get("bytes", 0)) * 8 / (link.rate_mbit * 1e6) + link.rtt_ms / 2000


def summary(answers: list[Answer], description: Description) -> Table:
    table = Table(title="What happened", expand=True)
    for column in ("request", "prefill", "prompt", "KV shipped", "after prefill", "TTFT", "tokens/s"):
        table.add_column(column, justify="left" if column in ("request", "prefill") else "right")
    for answer in answers:
        residual_s, serial = float(answer.transfer.get("residual_s", 0.0)), serial_s(answer, description)
        left = f"{residual_s * 1e3:.0f} ms"
        if serial:
            left += f", {residual_s / serial:.0%} of {serial * 1e3:.0f} ms"
        table.add_row(
            answer.name,
            answer.prefill_site,
            f"{answer.prompt_tokens:,} tok",
            f"{answer.transfer.get('bytes', 0) / 1e6:.1f} MB",
            left,
            f"{answer.ttft_s:.2f} s",
            f"{answer.tokens_per_s:.1f}",
        )
    return table


def reasons(answers: list[Answer]) -> str:
    return "\n".join(f"{answer.name}: {answer.outcome}: {answer.reason}; trace {answer.trace_id}" for answer in answers)


def whole(tree: SpanTree) -> bool:
    """Waits for the spans that end last in their processes: then all have come."""
    names = {span.name.split()[0] for span in tree.spans}
    return names >= {"text_completion", "generate", "kv_send"}


def without_caches(description: Description) -> Description:
    """Turns prefix caches off, so that both sites compute and ship the whole prompt: equality from a cache proves less."""
    services = tuple(
        msgspec.structs.replace(service, config=service.config | {"prefix-cache-mib": 0})
        if service.role in (Role.PREFILL_WORKER, Role.DECODE_WORKER)
        else service
        for service in description.services
    )
    return msgspec.structs.replace(description, services=services)


async def keep_local(stack: Stack) -> None:
    """Starts the local scheduler again with the policy that never offloads."""
    scheduler = stack.process("local", Role.SCHEDULER)
    await scheduler.stop(10.0)
    await scheduler.configure({"policy": "local_only"}).spawn()
    await scheduler.wait_ready(30.0)
    await stack.wait_introduced()


async def run(description: Description) -> int:
    async with OtlpSink() as sink:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_TRACES_SAMPLER": "parentbased_always_on",
        }
        stack = Stack(description, fresh_directory("demo"), environ=environ, progress=console.print)
        async with stack:
            started_at, start_at = datetime.datetime.now(datetime.UTC), time.monotonic()
            client = AsyncOpenAI(base_url=f"{stack.gateway_url('local')}/v1", api_key="none", max_retries=0, timeout=120.0)
            short, long = prompts()
            model = model_name(description.model)
            first = await ask(client, model, "warm-up", "Hello")
            near = await ask(client, model, "short", short)
            far = await ask(client, model, "long", long)
            tree = await sink.wait_for_trace(far.trace_id, until=whole, timeout_s=TRACE_DEADLINE_S)
            console.rule("the same long prompt, all of it in the local site")
            await keep_local(stack)
            home = await ask(client, model, "long at home", long)
            await client.close()

            console.print()
            console.print(summary([near, far, home], description))
            console.print(reasons([near, far, home]))
            console.print(f"\nTrace of the long request, {far.trace_id}:\n")
            print(waterfall(tree.spans, width=max(console.width, 100), color=console.is_terminal))
            code = verdict(near, far, home)
            rows = [row_of(answer, index, start_at) for index, answer in enumerate((first, near, far, home))]
            url = stack.gateway_url("local")
            path = write_demo_report(rows, model=model, url=url, started_at=started_at, directory=stack.directory)
            console.print(f"Report of these requests: {path}")
            return code


def row_of(answer: Answer, index: int, start_at: float) -> RequestRow:
    """The request as a result has it, due when it was asked."""
    return RequestRow(
        index=index,
        due_s=answer.started_at - start_at,
        sent_s=answer.started_at - start_at,
        first_s=answer.first_at - start_at,
        last_s=answer.last_at - start_at,
        max_gap_s=answer.max_gap_s,
        input_tokens=answer.prompt_tokens,
        output_tokens=len(answer.tokens),
        requested_output_tokens=ANSWER_TOKENS,
        cached_tokens=answer.cached_tokens,
        session=answer.name,
        outcome=answer.outcome,
        prefill_site=answer.prefill_site,
        trace_id=answer.trace_id,
        status=200,
    )


def verdict(near: Answer, far: Answer, home: Answer) -> int:
    """Returns 0 when the answers are equal. Log-probabilities are compared bit for bit: equal text alone could be chance."""
    problems = []
    if near.prefill_site != "local":
        problems.append(f"the short prompt was prefilled at {near.prefill_site}")
    if (far.prefill_site, far.outcome) != ("remote", "offloaded"):
        problems.append(f"the long prompt was prefilled at {far.prefill_site} ({far.outcome}: {far.reason})")
    if home.prefill_site != "local":
        problems.append(f"the local run was prefilled at {home.prefill_site}")
    if not far.tokens or far.tokens != home.tokens:
        problems.append("the tokens differ between the sites")
    if far.logprobs != home.logprobs:
        problems.append("the log-probabilities differ between the sites")
    if problems:
        console.print(f"[red]Not as promised: {'; '.join(problems)}.[/red]")
        return 1
    console.print(
        f"[green]Same answer: {len(far.tokens)} tokens and their log-probabilities are equal bit for bit, "
        f"prefilled at {far.prefill_site} and at {home.prefill_site}.[/green]"
    )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.demo", description=__doc__)
    parser.add_argument("--sites", type=Path, default=DEMO, help="description of the sites: needs `local` and `remote`")
    parser.add_argument("--model", help="instead of the description's")
    arguments = parser.parse_args()
    try:
        description = without_caches(describe(arguments.sites, arguments.model, None))
        console.print(f"preparing {description.model} (the first time takes about a minute)")
        prepare(description.model)
        return interruption.run(run(description))
    except (*START_ERRORS, ResultError) as error:
        print(f"infra.demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
