"""Options that `prfaas replay` and `prfaas sweep` share, and the plan that they make."""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prfaas.cli import UsageError
from prfaas.replay.client import Target
from prfaas.replay.rows import Slo
from prfaas.replay.run import Plan
from prfaas.replay.shaping import Shape, ShapeError
from prfaas.replay.synthetic import MAX_CV, POISSON_CV, Synthetic
from prfaas.replay.target_check import PROMPT_KINDS, TargetError, check_target
from prfaas.replay.workload import Survey, Workload, at_rate, surveyed
from prfaas.traces import FORMATS, TraceError

WARM_UP_SHARE, MAX_WARM_UP_S = 0.1, 60.0
MAX_LISTED_LINES = 20


def add_workload_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("workload")
    group.add_argument("trace", nargs="?", type=Path, metavar="TRACE", help="trace file, plain or gzipped")
    group.add_argument("--format", choices=sorted(FORMATS), help="default: recognised from the file's content")
    group.add_argument("--skip-bad", type=whole(0), default=0, metavar="N", help="leave out up to N rows that cannot be read")
    group.add_argument(
        "--synthetic", metavar="LENGTHS", help="instead of a trace: lognormal:median=8192,sigma=1 or fixed:tokens=8192"
    )
    group.add_argument("--output-tokens", type=whole(1), default=128, metavar="N", help="synthetic: of each answer; %(default)s")
    group.add_argument("--shared-prefix", type=whole(0), default=0, metavar="TOKENS", help="synthetic: shared by all prompts")
    group.add_argument(
        "--arrivals-cv",
        type=number(0.0, MAX_CV),
        default=POISSON_CV,
        metavar="CV",
        help="synthetic: Gamma arrivals; 1 (default) is Poisson",
    )
    shape = parser.add_argument_group("shape, which keeps the workload's structure")
    shape.add_argument("--speed", type=number(1e-6), metavar="FACTOR", help="arrivals and pauses so many times as fast")
    shape.add_argument("--duration", type=number(0.001), metavar="S", help="seconds; default: the whole trace")
    shape.add_argument("--divide-lengths", type=whole(1), default=1, metavar="K", help="divide lengths and block sizes together")
    shape.add_argument("--max-input-tokens", type=whole(1), metavar="N", help="leave out longer prompts, as they would be sent")
    shape.add_argument(
        "--spread-arrivals", type=number(0.001), metavar="S", help="undo stamps rounded to S seconds (Mooncake: 3)"
    )
    shape.add_argument(
        "--sessions", type=whole(1), metavar="N", help="N users, each of whom begins a session when the last is over"
    )
    shape.add_argument("--fixed-schedule", action="store_true", help="turns leave at their stamps and wait for no answer")
    shape.add_argument("--max-requests", type=whole(1), metavar="N")
    shape.add_argument("--seed", type=whole(0), default=1, help="default: %(default)s")


def add_target_options(parser: argparse.ArgumentParser) -> None:
    target = parser.add_argument_group("target")
    target.add_argument("--target", required=True, metavar="URL", help="OpenAI-compatible server, such as http://127.0.0.1:8000")
    target.add_argument("--model", default="", help="default: the server's only one")
    target.add_argument("--endpoint", choices=("completions", "chat"), default="completions", help="default: %(default)s")
    target.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", ""), help="default: $OPENAI_API_KEY")
    target.add_argument("--prompts", choices=PROMPT_KINDS, default="auto", help="default: token ids where the server takes them")
    target.add_argument(
        "--tokenizer", type=Path, metavar="PATH", help="tokenizer.json, to check text by instead of by the server"
    )
    target.add_argument("--timeout", type=number(0.001), default=120.0, metavar="S", help="of a request; default: %(default)g")
    target.add_argument("--ttft-deadline", type=number(0.001), metavar="S", help="sent along; only prfaas knows it")
    run = parser.add_argument_group("run")
    run.add_argument("--warm-up", type=number(0.0), metavar="S", help="left out of the figures; default: a tenth, at most 60 s")
    run.add_argument("--clients", type=whole(1), default=1, metavar="N", help="client processes; default: %(default)s")
    run.add_argument("--metrics", nargs="+", default=[], metavar="URL", help="/metrics pages of the services, read every second")
    run.add_argument("--slo-ttft", type=number(0.0), metavar="S")
    run.add_argument("--slo-tpot", type=number(0.0), metavar="S", help="per token after the first")
    run.add_argument("--slo-e2e", type=number(0.0), metavar="S")
    run.add_argument(
        "--slo-share", type=number(0.0, 1.0), default=0.9, metavar="SHARE", help="of the requests; default: %(default)g"
    )
    run.add_argument("--note", action="append", default=[], metavar="TEXT", help="for the report; may be given several times")
    run.add_argument("--title", default="", help="of the report; default: the workload's name")


async def make_plan(arguments: argparse.Namespace, rate_req_s: float | None) -> Plan:
    """Reads the workload once and asks the server what it takes. Raises UsageError."""
    try:
        workload = _workload(arguments, rate_req_s)
        workload, survey = surveyed(workload)
        if workload.synthetic is None and rate_req_s is not None:
            workload, survey = surveyed(at_rate(workload, rate_req_s))
        target = Target(
            url=server_url(arguments.target),
            model=arguments.model,
            timeout_s=arguments.timeout,
            ttft_deadline_s=arguments.ttft_deadline,
            api_key=arguments.api_key,
            chat=arguments.endpoint == "chat",
        )
        has_lengths = survey.texts < survey.requests
        checked = await check_target(target, arguments.prompts, arguments.tokenizer, has_lengths=has_lengths)
    except (TraceError, ShapeError, TargetError) as error:
        raise UsageError(str(error)) from error
    span_s = arguments.duration or survey.span_s
    warm_up_s = min(MAX_WARM_UP_S, WARM_UP_SHARE * span_s) if arguments.warm_up is None else arguments.warm_up
    if warm_up_s and warm_up_s >= span_s:
        raise UsageError(f"the warm-up of {warm_up_s:g} s leaves nothing of a run of {span_s:g} s.")
    return Plan(
        title=arguments.title or _name(workload),
        target=checked.target,
        workload=workload,
        survey=survey,
        prompts=checked.prompts,
        slo=Slo(ttft_s=arguments.slo_ttft, tpot_s=arguments.slo_tpot, e2e_s=arguments.slo_e2e, share=arguments.slo_share),
        warm_up_s=warm_up_s,
        clients=arguments.clients,
        metrics_urls=arguments.metrics,
        command=command_line(sys.argv, arguments.api_key),
        notes=arguments.note + _notes(survey, checked.max_model_tokens),
    )


def _workload(arguments: argparse.Namespace, rate_req_s: float | None) -> Workload:
    if (arguments.trace is None) == (arguments.synthetic is None):
        raise UsageError("give either a TRACE or --synthetic.")
    shape = Shape(
        divide_lengths=arguments.divide_lengths,
        max_input_tokens=arguments.max_input_tokens,
        spread_arrivals_s=arguments.spread_arrivals,
        speed=arguments.speed or 1.0,
        duration_s=arguments.duration,
        max_requests=arguments.max_requests,
        seed=arguments.seed,
    )
    users, fixed = arguments.sessions or 0, arguments.fixed_schedule
    if users and fixed:
        raise UsageError("--sessions and --fixed-schedule exclude each other: users wait for answers.")
    if arguments.synthetic is None:
        if arguments.speed is not None and rate_req_s is not None:
            raise UsageError("--speed and --rate exclude each other.")
        path, format = str(arguments.trace), arguments.format or ""
        return Workload(path=path, format=format, skip_bad=arguments.skip_bad, shape=shape, users=users, fixed_schedule=fixed)
    if rate_req_s is None or arguments.duration is None:
        raise UsageError("--synthetic needs --rate and --duration.")
    synthetic = Synthetic(
        lengths=arguments.synthetic,
        output_tokens=arguments.output_tokens,
        rate_req_s=rate_req_s,
        duration_s=arguments.duration,
        arrivals_cv=arguments.arrivals_cv,
        shared_prefix_tokens=arguments.shared_prefix,
        seed=arguments.seed,
    )
    return Workload(synthetic=synthetic, shape=shape, users=users)


def _name(workload: Workload) -> str:
    return workload.synthetic.lengths if workload.synthetic is not None else Path(workload.path).name


def server_url(text: str) -> str:
    """Returns the URL without the `/v1` that OpenAI's clients want at its end."""
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def command_line(argv: Sequence[str], api_key: str) -> str:
    """Returns the command without the key, however it was given: a report is made to be shown."""
    words = [Path(argv[0]).name, *argv[1:]]
    return shlex.join(word.replace(api_key, "...") if api_key else word for word in words)


def _notes(survey: Survey, max_model_tokens: int | None) -> list[str]:
    found = []
    if lines := sorted(survey.left_out_lines):
        named = ", ".join(map(str, lines[:MAX_LISTED_LINES])) + (" and others" if len(lines) > MAX_LISTED_LINES else "")
        found.append(f"{len(lines)} rows of the trace could not be read and were left out: lines {named}.")
    longest_tokens = survey.longest_tokens
    if max_model_tokens is not None and longest_tokens > max_model_tokens:
        found.append(
            f"The longest request has {longest_tokens:,} tokens and the model takes {max_model_tokens:,}: what is longer will be "
            "refused. Leave it out with --max-input-tokens, or shorten all with --divide-lengths."
        )
    return found


def whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return value

    return parse


def number(least: float, most: float = math.inf) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or math.isinf(value):
            at_most = "" if math.isinf(most) else f" and at most {most:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least {least:g}{at_most}")
        return value

    return parse
