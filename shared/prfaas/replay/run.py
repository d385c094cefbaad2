"""One run from its start to its result: client processes, services' metrics, live view, and Ctrl-C."""

import asyncio
import contextlib
import datetime
import math
import os
import platform
import random
import resource
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console

from prfaas.replay.client import Target
from prfaas.replay.live_view import Draw, live_view
from prfaas.replay.progress import LAG_S, LiveFigures
from prfaas.replay.results import ClientCost, ResultError, Run, Setup
from prfaas.replay.rows import RequestRow, Slo, rows_of_lines
from prfaas.replay.sender_process import Progress, Task
from prfaas.replay.senders import Senders
from prfaas.replay.server_metrics import ServerMetrics
from prfaas.replay.summary import summarize
from prfaas.replay.target_check import PromptPlan
from prfaas.replay.workload import Survey, Workload

ROWS_FILE = "requests.jsonl"
"""Rows as they come: what was measured is kept even if this process is killed."""
MIN_WINDOW_S = 1.0
"""Shortest window between the first request and the last of which rates are reckoned."""
_PACKAGES = ("prfaas", "aiohttp", "uvloop", "numpy")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    target: Target
    workload: Workload
    survey: Survey
    prompts: PromptPlan
    slo: Slo = Slo()
    warm_up_s: float = 0.0
    clients: int = 1
    metrics_urls: list[str] = []
    command: str = ""
    notes: list[str] = []


async def run_plan(plan: Plan, directory: Path, console: Console) -> Run:
    """Replays and returns the result. The first Ctrl-C ends the sending, the second one also what is under way.

    Raises SenderError, ResultError."""
    figures = LiveFigures(plan.slo, plan.survey.requests, None if plan.workload.users else plan.survey.span_s)
    metrics = ServerMetrics(plan.metrics_urls)
    rows_path = directory / ROWS_FILE
    own_cpu_s = time.process_time()
    with _rows_file(rows_path) as write:
        sent = await _send(plan, figures, metrics, write, console)

    with rows_path.open("rb") as lines:
        rows = rows_of_lines(lines)
    end_s = sent.interrupted_s if sent.interrupted_s is not None else end_of(plan.workload, plan.warm_up_s, rows)
    summary = summarize(rows, plan.slo, plan.warm_up_s, end_s)
    cpu_s = sum(figures.cpu_s.values()) + time.process_time() - own_cpu_s
    own_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    notes = [*plan.notes, *_notes(metrics, summary.send_lag_s.p99 if summary.send_lag_s else 0.0)]
    return Run(
        setup=setup_of(plan, sent.started_at, notes),
        end_s=end_s,
        interrupted=sent.interrupted_s is not None,
        client=ClientCost(
            processes=plan.clients + 1,
            cpu_cores=cpu_s / max(sent.over_s, 1e-3),
            peak_rss_bytes=max(own_rss_bytes, figures.peak_rss_bytes),
        ),
        metrics=metrics.series,
        summary=summary,
        requests=rows,
    )


class _Sent(NamedTuple):
    started_at: datetime.datetime
    over_s: float
    """Moment of the last answer."""
    interrupted_s: float | None
    """Moment of the first Ctrl-C."""


async def _send(
    plan: Plan, figures: LiveFigures, metrics: ServerMetrics, write: Callable[[bytes], object], console: Console
) -> _Sent:
    """Runs the client processes to their end, beside the live view and the reading of metrics. Raises SenderError."""
    start_at = 0.0

    def on_progress(part: int, progress: Progress) -> None:
        figures.told(part, progress, time.monotonic() - start_at)
        for row in progress.rows:
            write(msgspec.json.encode(row) + b"\n")

    async with Senders(_tasks(plan), on_progress) as senders:
        start_at = await senders.start()
        started_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=start_at - time.monotonic())
        with _interrupts(senders.stop, console) as interrupted_at, live_view(console) as (draw, every_s):
            helpers = [
                asyncio.create_task(metrics.run(start_at)),
                asyncio.create_task(_show(figures, metrics, draw, every_s, start_at)),
            ]
            try:
                await senders.run()
            finally:
                for helper in helpers:
                    helper.cancel()
                ended = await asyncio.gather(*helpers, return_exceptions=True)
            for error in ended:
                # A helper ends by being cancelled: anything else is a defect, and not to be lost.
                if isinstance(error, Exception):
                    raise error
            over_s = time.monotonic() - start_at
            draw(figures.at(over_s), metrics.link_use())
    return _Sent(started_at, over_s, interrupted_at[0] - start_at if interrupted_at else None)


def setup_of(plan: Plan, started_at: datetime.datetime, notes: list[str]) -> Setup:
    return Setup(
        title=plan.title,
        target=plan.target.url,
        model=plan.target.model,
        endpoint="chat" if plan.target.chat else "completions",
        workload=plan.workload,
        survey=plan.survey,
        prompts=plan.prompts.checked,
        slo=plan.slo,
        warm_up_s=plan.warm_up_s,
        started_at=started_at.isoformat(timespec="microseconds"),
        command=plan.command,
        versions=versions(),
        machine=machine(),
        notes=notes,
    )


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def machine() -> dict[str, str]:
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "load average at the end": f"{os.getloadavg()[0]:.1f}",
    }


def _tasks(plan: Plan) -> list[Task]:
    source = random.Random(f"users {plan.workload.shape.seed}")
    starts_s = [source.uniform(0.0, plan.warm_up_s) for _ in range(plan.workload.users)]
    run_id = f"replay-{int(time.time()):x}"
    return [
        Task(
            target=plan.target,
            workload=plan.workload,
            prompts=plan.prompts,
            part=part,
            parts=plan.clients,
            users_start_s=starts_s[part :: plan.clients],
            request_ids=run_id,
        )
        for part in range(plan.clients)
    ]


def end_of(workload: Workload, warm_up_s: float, rows: Sequence[RequestRow]) -> float:
    """Returns the end of the window of a run that was not interrupted."""
    if workload.synthetic is not None:
        return workload.synthetic.duration_s
    if workload.shape.duration_s is not None:
        return workload.shape.duration_s
    last_due_s = max((row.due_s for row in rows), default=0.0)
    if last_due_s - warm_up_s < MIN_WINDOW_S:
        # A burst has no rate of its own: it takes as long as its answers.
        last_due_s = max([last_due_s, *(row.last_s for row in rows if row.last_s is not None)])
    # The last request is part of the window.
    return math.nextafter(last_due_s, math.inf)


def _notes(metrics: ServerMetrics, lag_p99_s: float) -> list[str]:
    found = [f"{url} could not be read {count} times." for url, count in metrics.failures.items()]
    if lag_p99_s > LAG_S:
        found.append(
            f"The client lagged: one request in a hundred left {lag_p99_s * 1e3:.0f} ms or more after it was due. The delay is "
            "part of its latencies. More --clients, or a machine with less to do, would help."
        )
    return found


@contextlib.contextmanager
def _rows_file(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Yields a function that appends a line. Raises ResultError for what the disk refuses, also on closing."""
    try:
        with path.open("wb") as file:
            yield file.write
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror}.") from error


@contextlib.contextmanager
def _interrupts(stop: Callable[..., Awaitable[None]], console: Console) -> Iterator[list[float]]:
    """Yields the moments of time.monotonic() at which the run was told to end."""
    moments: list[float] = []
    stops: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def order(cut: bool) -> None:
        await stop(cut=cut)

    def on_signal() -> None:
        moments.append(time.monotonic())
        again = len(moments) > 1
        console.print("ending the requests under way" if again else "no more is sent; Ctrl-C again ends what is under way")
        task = asyncio.create_task(order(again))
        stops.add(task)
        task.add_done_callback(stops.discard)

    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup asks not to hear of it
        signals.append(signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, on_signal)
    try:
        yield moments
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def _show(figures: LiveFigures, metrics: ServerMetrics, draw: Draw, every_s: float, start_at: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        draw(figures.at(time.monotonic() - start_at), metrics.link_use())
