"""Points of the load curve: one arm on one case's arrivals, summed up."""

import math
import time
from collections.abc import Mapping, Sequence

import msgspec

from load.report import Slo, percentile
from load.simulate.arms import ABLATIONS, ARMS, BY_LENGTH, TPOT_OBJECTIVE_S, TTFT_OBJECTIVE_S, simulated
from load.simulate.bound import bound_share
from load.simulate.cases import cases
from prfaas.replay.record import Record
from prfaas_scheduler.queue.objectives import CLASS_NAMES, length_class

SLO = Slo(ttft_s=TTFT_OBJECTIVE_S, tpot_s=TPOT_OBJECTIVE_S)
WARM_UP = 0.1
YARDSTICKS_S = (5.0, 10.0, 20.0, 30.0)
REFUSED_WITHIN_S = 1.0
BOUND_S = 600.0
"""Part of a run that the clairvoyant program is solved for."""
UNBOUNDED = ("reuse", "agentic")
"""Cases with caches, which the program leaves out."""


class ClassOutcome(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    kept_share: float
    ttft_p99_s: float
    """0 where none was answered."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One arm in one case at one load with one seed."""

    case: str
    load: float
    arm: str
    seed: int
    requests: int
    kept_share: float
    """Share of all requests that kept the objective of TTFT and that of TPOT."""
    kept_by_length_share: float
    """The same for the objective that grows with the length."""
    within_share: dict[str, float]
    """Share of all requests whose TTFT is within that many seconds."""
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    ttft_max_s: float
    tpot_p99_s: float
    refused_share: float
    """Share that was refused within a second of its arrival."""
    failed_share: float
    """Share that was accepted and failed: refused later, or past its deadline."""
    classes: dict[str, ClassOutcome]
    took_s: float


class Task(msgspec.Struct, frozen=True):
    """All arms on the same arrivals."""

    case: str
    load: float
    seed: int
    duration_s: float
    arms: tuple[str, ...]
    bound: bool
    """True: the clairvoyant program is solved too."""


class Measured(msgspec.Struct, frozen=True):
    task: Task
    points: list[Point]
    bound_share: float | None


def measure(task: Task) -> Measured:
    case = cases(task.load, duration_s=task.duration_s, seed=task.seed)[task.case]()
    points = []
    for name in task.arms:
        started_s = time.process_time()
        result = simulated(case, (ARMS | ABLATIONS)[name])
        (records,), (failed_after_s,) = result.records.values(), result.failed_after_s.values()
        points.append(_point(task, name, records, failed_after_s, time.process_time() - started_s))
    start_s = WARM_UP * task.duration_s
    end_s = min(task.duration_s, start_s + BOUND_S)
    bound = bound_share(case, TTFT_OBJECTIVE_S, start_s, end_s) if task.bound and task.case not in UNBOUNDED else None
    return Measured(task, points, bound)


def _point(task: Task, arm: str, records: Sequence[Record], failed_after_s: Mapping[int, float], took_s: float) -> Point:
    due = [index for index, record in enumerate(records) if record.arrival.arrival_s >= WARM_UP * task.duration_s]
    whole = [records[index] for index in due if not records[index].error]
    ttfts_s = [record.ttft_s for record in whole if record.ttft_s is not None] or [0.0]
    tpots_s = [record.tpot_s for record in whole if record.tpot_s is not None] or [0.0]
    refused = sum(failed_after_s.get(index, math.inf) <= REFUSED_WITHIN_S for index in due)
    return Point(
        case=task.case,
        load=task.load,
        arm=arm,
        seed=task.seed,
        requests=len(due),
        kept_share=sum(SLO.kept(records[index]) for index in due) / len(due),
        kept_by_length_share=sum(_kept_by_length(records[index]) for index in due) / len(due),
        within_share={f"{limit_s:g}": sum(ttft_s <= limit_s for ttft_s in ttfts_s) / len(due) for limit_s in YARDSTICKS_S},
        ttft_p50_s=percentile(ttfts_s, 0.5),
        ttft_p90_s=percentile(ttfts_s, 0.9),
        ttft_p99_s=percentile(ttfts_s, 0.99),
        ttft_max_s=max(ttfts_s),
        tpot_p99_s=percentile(tpots_s, 0.99),
        refused_share=refused / len(due),
        failed_share=(len(due) - len(whole) - refused) / len(due),
        classes=_classes([records[index] for index in due]),
        took_s=took_s,
    )


def _kept_by_length(record: Record) -> bool:
    limit_s = BY_LENGTH.ttft_objective_s(record.arrival.prompt_tokens)
    return not record.error and record.ttft_s is not None and record.ttft_s <= limit_s and (record.tpot_s or 0.0) <= SLO.tpot_s


def _classes(records: Sequence[Record]) -> dict[str, ClassOutcome]:
    found = {}
    for index, name in enumerate(CLASS_NAMES):
        of_class = [record for record in records if length_class(record.arrival.prompt_tokens - 1) == index]
        ttfts_s = [record.ttft_s for record in of_class if not record.error and record.ttft_s is not None]
        if of_class:
            found[name] = ClassOutcome(
                requests=len(of_class),
                kept_share=sum(map(SLO.kept, of_class)) / len(of_class),
                ttft_p99_s=percentile(ttfts_s, 0.99) if ttfts_s else 0.0,
            )
    return found
