"""Curves over the load, and the figures that are read off them."""

import statistics
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from load.simulate.arms import OTHERS, OURS, PAPER
from load.simulate.curve_points import Point
from prfaas_scheduler.queue.objectives import CLASS_NAMES

CASES = ("steady", "drop100", "bursts", "reuse")
"""Cases of the summary."""
QUIET_LOAD = 0.95
"""Highest load at which long prompts must wait no longer than under the paper's threshold."""
SHARE = 0.9
FEW_SEEDS, LONG_RUN_S = 10, 3600.0
"""Seeds and length of a run that a claim asks for; fewer and shorter ones are noted."""
LONG = CLASS_NAMES[-1]
T_95 = (0.0, 0.0, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a 95 % interval, by the number of seeds; the last one for more."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    seeds: int
    duration_s: float
    loads: list[float]
    notes: list[str]
    """Sentences on what the figures do not show."""
    load_at_90: dict[str, dict[str, float]]
    """Load at which 90 % keep the objective, by case and arm; interpolated between the loads that were run."""
    load_at_90_over_paper: float
    load_at_90_over_best_other: float
    """The lowest of the cases each."""
    kept_at_105: float | None = msgspec.field(name="kept_at_1.05")
    kept_at_12: float | None = msgspec.field(name="kept_at_1.2")
    """The lowest of the cases each; None where the load was not run in all of them."""
    admitted_late_share: float
    """The highest share, at any load, that was accepted and failed."""
    long_p99_over_threshold: float | None
    """The highest ratio of P99 of prompts above 64K to the paper's threshold, at loads up to 0.95; None without such a run."""


def summarize(points: Sequence[Point], duration_s: float) -> Summary | None:
    """Figures of a comparison; None without points of ours, of the paper's threshold, of another arm, and of one of CASES."""
    curves = Curves(points)
    cases = [case for case in curves.cases if case in CASES]
    others = [arm for arm in curves.arms if arm in OTHERS]
    if not cases or any(not curves.loads_of(case, arm) for case in cases for arm in (OURS, PAPER, *others)):
        return None
    at_90 = {case: {arm: curves.load_at(case, arm, SHARE) for arm in curves.arms} for case in curves.cases}
    return Summary(
        seeds=min(curves.seeds(case) for case in cases),
        duration_s=duration_s,
        loads=curves.loads,
        notes=_notes(curves, cases, duration_s),
        load_at_90=at_90,
        load_at_90_over_paper=min(at_90[case][OURS] / at_90[case][PAPER] for case in cases),
        load_at_90_over_best_other=min(at_90[case][OURS] / max(at_90[case][arm] for arm in others) for case in cases),
        kept_at_105=_lowest_kept(curves, cases, 1.05),
        kept_at_12=_lowest_kept(curves, cases, 1.2),
        admitted_late_share=max(point.failed_share for point in points if point.arm == OURS),
        long_p99_over_threshold=max(curves.long_p99_ratios(), default=None),
    )


def _lowest_kept(curves: "Curves", cases: Sequence[str], load: float) -> float | None:
    if any(not curves.of(case, OURS, load) for case in cases):
        return None
    return min(curves.kept(case, OURS, load) for case in cases)


def _notes(curves: "Curves", cases: Sequence[str], duration_s: float) -> list[str]:
    """Sentences on missing cases, on runs too few or too short, and on loads that bracket no curve."""
    notes = []
    if missing := [case for case in CASES if case not in cases]:
        notes.append(f"Not run: {', '.join(missing)}; so the lowest of the cases is that of {', '.join(cases)}.")
    seeds = min(curves.seeds(case) for case in cases)
    if seeds < FEW_SEEDS:
        notes.append(f"{seeds} of {FEW_SEEDS} seeds: figures of other seeds differ by a few points.")
    if duration_s < LONG_RUN_S:
        notes.append(
            f"{duration_s:g} s a run, not {LONG_RUN_S:g}: arms whose queues grow without bound look better than they are."
        )
    for case in cases:
        for arm in (PAPER, OURS, *(arm for arm in curves.arms if arm in OTHERS and arm != PAPER)):
            low, high = (curves.kept(case, arm, curves.loads_of(case, arm)[end]) for end in (0, -1))
            if high >= SHARE:
                notes.append(f"{case}: {arm} keeps {high:.1%} at the highest load that was run, so its load is a lower bound.")
            elif low < SHARE:
                notes.append(f"{case}: {arm} keeps {low:.1%} at the lowest load that was run, so its load is an upper bound.")
    return notes


class Curves:
    """Means over the seeds, by case, arm and load."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points: dict[tuple[str, str, float], list[Point]] = {}
        for point in points:
            self._points.setdefault((point.case, point.arm, point.load), []).append(point)
        self.cases = list(dict.fromkeys(point.case for point in points))
        self.arms = list(dict.fromkeys(point.arm for point in points))
        self.loads = sorted({point.load for point in points})

    def of(self, case: str, arm: str, load: float) -> list[Point]:
        return self._points.get((case, arm, load), [])

    def loads_of(self, case: str, arm: str) -> list[float]:
        """Loads that were run, in rising order."""
        return [load for load in self.loads if self.of(case, arm, load)]

    def seeds(self, case: str) -> int:
        """Seeds of the load that was run with the fewest."""
        return min(len(points) for (of_case, _, _), points in self._points.items() if of_case == case)

    def kept(self, case: str, arm: str, load: float) -> float:
        """Mean share that was kept; -1 where nothing was run."""
        found = [point.kept_share for point in self.of(case, arm, load)]
        return statistics.fmean(found) if found else -1.0

    def interval(self, case: str, arm: str, load: float) -> float:
        """Half of the 95 % interval of that mean over the seeds; 0 with a single seed."""
        found = [point.kept_share for point in self.of(case, arm, load)]
        return T_95[min(len(found), len(T_95) - 1)] * statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0

    def load_at(self, case: str, arm: str, share: float) -> float:
        """Load at which the kept share falls below `share`, on the line between two loads that were run; the last load where it
        never does, the first where it never reaches it."""
        known = [(load, self.kept(case, arm, load)) for load in self.loads_of(case, arm)]
        for (low, high_share), (high, low_share) in pairwise(known):
            if high_share >= share > low_share:
                return low + (high - low) * (high_share - share) / (high_share - low_share)
        return known[-1][0] if known[-1][1] >= share else known[0][0]

    def long_p99_ratios(self) -> list[float]:
        """P99 of TTFT above 64K under ours, to the paper's threshold, for each case and quiet load; the longest of the seeds
        each."""
        found = []
        for case in self.cases:
            for load in self.loads:
                ours, paper = (
                    max(
                        (point.classes[LONG].ttft_p99_s for point in self.of(case, arm, load) if LONG in point.classes),
                        default=0.0,
                    )
                    for arm in (OURS, PAPER)
                )
                if load <= QUIET_LOAD and case in CASES and ours and paper:
                    found.append(ours / paper)
        return found
