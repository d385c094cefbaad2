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
LONG = CLASS_NAMES[-1]
T_95 = (0.0, 0.0, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a 95 % interval, by the number of seeds; the last one for more."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    load_at_90: dict[str, dict[str, float]]
    """Load at which 90 % keep the objective, by case and arm; interpolated between the loads that were run."""
    load_at_90_over_paper: float
    load_at_90_over_best_other: float
    """The lowest of the cases each."""
    kept_at_105: float = msgspec.field(name="kept_at_1.05")
    kept_at_12: float = msgspec.field(name="kept_at_1.2")
    """The lowest of the cases each; -1 where the load was not run."""
    admitted_late_share: float
    """The highest share, at any load, that was accepted and failed."""
    long_p99_over_threshold: float
    """The highest ratio of P99 of prompts above 64K to the paper's threshold, at loads up to 0.95."""


def summarize(points: Sequence[Point]) -> Summary:
    """Raises ValueError without any point of ours and of the paper's threshold."""
    curves = Curves(points)
    at_90 = {case: {arm: curves.load_at(case, arm, SHARE) for arm in curves.arms} for case in curves.cases}
    if OURS not in curves.arms or PAPER not in curves.arms:
        raise ValueError(f"a summary needs the arms {OURS!r} and {PAPER!r}, but it got {sorted(curves.arms)}.")
    others = [arm for arm in curves.arms if arm in OTHERS]
    summary_cases = [case for case in curves.cases if case in CASES]
    return Summary(
        load_at_90=at_90,
        load_at_90_over_paper=min(at_90[case][OURS] / at_90[case][PAPER] for case in summary_cases),
        load_at_90_over_best_other=min(at_90[case][OURS] / max(at_90[case][arm] for arm in others) for case in summary_cases),
        kept_at_105=min((curves.kept(case, OURS, 1.05) for case in summary_cases), default=-1.0),
        kept_at_12=min((curves.kept(case, OURS, 1.2) for case in summary_cases), default=-1.0),
        admitted_late_share=max(point.failed_share for point in points if point.arm == OURS),
        long_p99_over_threshold=max(curves.long_p99_ratios(), default=0.0),
    )


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
        known = [(load, self.kept(case, arm, load)) for load in self.loads if self.of(case, arm, load)]
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
