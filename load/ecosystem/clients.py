"""Load clients as commands of their own virtual environments: how each is called, and what its result says.

All of them send the same Mooncake file at its stamps to /v1/completions, greedy and to full length.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from load.ecosystem.tokenizer import hub_name
from prfaas.replay.results import load_run

ROOT = Path(__file__).parents[2]
AIPERF_VENV = ROOT / ".venv-ecosystem-aiperf"
GUIDELLM_VENV = ROOT / ".venv-ecosystem-guidellm"


class ClientResult(NamedTuple):
    requests: int
    """Requests that were answered in full."""
    errors: int
    ttft_p50_s: float
    ttft_p90_s: float
    cached_share: float
    """Share of the prompts' tokens that the server had cached, as the client read it from the answers; 0 where it did not."""


class Job(NamedTuple):
    """One client's errand: the file that it sends, to which server, and the folder of its result."""

    url: str
    model: str
    trace: Path
    tokenizer: Path
    """Folder that transformers reads."""
    out: Path


class LoadClient(NamedTuple):
    program: Path
    command: Callable[[Job], list[str]]
    read: Callable[[Path], ClientResult]
    """Reads what the program left in `Job.out`. Raises KeyError, ValueError or OSError where it left something else."""
    unsent: int = 0
    """Rows at the file's end that the program may leave unsent by itself."""


def aiperf_command(job: Job) -> list[str]:
    """AIPerf on few processes: its services and the stack share this machine."""
    words = f"""
        profile --model {job.model} --tokenizer {hub_name(job.model)} --url {job.url} --endpoint-type completions --streaming
        --input-file {job.trace} --custom-dataset-type mooncake_trace --fixed-schedule --fixed-schedule-auto-offset
        --extra-inputs ignore_eos:true --extra-inputs temperature:0 --use-server-token-count
        --workers-max 1 --record-processor-service-count 1 --no-gpu-telemetry --no-server-metrics
        --ui none --output-artifact-dir {job.out}
    """
    return [str(AIPERF_VENV / "bin" / "aiperf"), *words.split()]


def read_aiperf(out: Path) -> ClientResult:
    found = json.loads((out / "profile_export_aiperf.json").read_text(encoding="utf-8"))
    ttft = found["time_to_first_token"]
    assert ttft["unit"] == "ms"
    return ClientResult(
        requests=round(_value(found, "request_count")),
        errors=round(_value(found, "error_request_count")),
        ttft_p50_s=ttft["p50"] / 1e3,
        ttft_p90_s=ttft["p90"] / 1e3,
        cached_share=_value(found, "overall_usage_prompt_cache_read_pct") / 100,
    )


def guidellm_command(job: Job) -> list[str]:
    """GuideLLM takes stamps as seconds: Mooncake's are milliseconds."""
    words = f"""
        run --backend kind=openai_http,target={job.url},model={job.model},request_format=/v1/completions
        --tokenizer kind=huggingface_auto,model={job.tokenizer}
        --data kind=mooncake,source.kind=json_file,source.path={job.trace}
        --profile kind=replay,schedule_turn=timestamp,time_scale=0.001
        --output kind=json,path={job.out / "guidellm.json"} --disable-console-interactive
    """
    return [str(GUIDELLM_VENV / "bin" / "guidellm"), *words.split()]


def read_guidellm(out: Path) -> ClientResult:
    (benchmark,) = json.loads((out / "guidellm.json").read_text(encoding="utf-8"))["benchmarks"]
    by_end = {end: benchmark["requests"][end] or [] for end in ("successful", "errored", "incomplete")}
    answered = by_end["successful"]
    if not answered:
        raise ValueError("no request was answered")
    ttft_s = [each["time_to_first_token_ms"] / 1e3 for each in answered]
    asked = sum(each["input_metrics"]["text_tokens"] or 0 for each in answered)
    cached = sum(each["input_metrics"]["cached_tokens"] or 0 for each in answered)
    return ClientResult(
        requests=len(answered),
        errors=len(by_end["errored"]) + len(by_end["incomplete"]),
        ttft_p50_s=float(np.quantile(ttft_s, 0.5)),
        ttft_p90_s=float(np.quantile(ttft_s, 0.9)),
        cached_share=cached / asked if asked else 0.0,
    )


def replay_command(job: Job) -> list[str]:
    python = ROOT / ".venv" / "bin" / "python"
    words = f"-m prfaas.cli replay {job.trace} --target {job.url} --model {job.model} --warm-up 0 --out {job.out}"
    return [str(python), *words.split()]


def read_replay(out: Path) -> ClientResult:
    summary = load_run(out / "report.json").summary
    ttft = summary.time_to_first_token_s
    if ttft is None:
        raise ValueError("no request was answered")
    return ClientResult(
        requests=summary.request_count - summary.error_request_count,
        errors=summary.error_request_count,
        ttft_p50_s=ttft.p50,
        ttft_p90_s=ttft.p90,
        cached_share=summary.cache_read_input_fraction,
    )


CLIENTS: Mapping[str, LoadClient] = {
    "replay": LoadClient(ROOT / ".venv" / "bin" / "python", replay_command, read_replay),
    "aiperf": LoadClient(AIPERF_VENV / "bin" / "aiperf", aiperf_command, read_aiperf),
    # GuideLLM 0.8.1 stops its senders once it has queued the last row, which then stays behind in some runs and not in others.
    "guidellm": LoadClient(GUIDELLM_VENV / "bin" / "guidellm", guidellm_command, read_guidellm, unsent=1),
}


def _value(found: Mapping[str, Any], metric: str) -> float:
    """Reads a metric that is one number; 0 where AIPerf leaves it out because there is none."""
    return float(found[metric]["avg"]) if metric in found else 0.0
