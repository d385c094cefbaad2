"""The load curve: what is counted, where it is read, and what the arms do."""

from pathlib import Path

import msgspec
import pytest

from load.simulate.arms import ARMS, BY_LENGTH, FLAT, OURS, PAPER, PAPER_QUEUE, simulated
from load.simulate.bound import bound_share
from load.simulate.cases import cases
from load.simulate.curve_plot import write_plot
from load.simulate.curve_points import ClassOutcome, Point, Task, measure
from load.simulate.curve_summary import CASES, Curves, summarize


def point(arm: str, load: float, kept_share: float, *, seed: int = 1, long_p99_s: float = 9.0, failed: float = 0.0) -> Point:
    return Point(
        case="steady", load=load, arm=arm, seed=seed, requests=100, kept_share=kept_share, kept_by_length_share=kept_share,
        within_share={}, ttft_p50_s=1.0, ttft_p90_s=2.0, ttft_p99_s=3.0, ttft_max_s=4.0, tpot_p99_s=0.02, refused_share=0.0,
        failed_share=failed, took_s=0.1,
        classes={"above 64K": ClassOutcome(requests=9, kept_share=kept_share, ttft_p99_s=long_p99_s)},
    )  # fmt: skip


POINTS = [
    *(point(PAPER, load, kept, long_p99_s=10.0) for load, kept in ((0.85, 1.0), (0.95, 0.8), (1.05, 0.4), (1.2, 0.0))),
    *(point(PAPER_QUEUE, load, kept) for load, kept in ((0.85, 1.0), (0.95, 1.0), (1.05, 0.95), (1.2, 0.85))),
    *(point(OURS, load, kept, failed=0.001) for load, kept in ((0.85, 1.0), (0.95, 1.0), (1.05, 0.96), (1.2, 0.9))),
]


def test_the_summary_reads_the_curves() -> None:
    found = summarize(POINTS, 600.0)
    assert found is not None
    assert found.load_at_90["steady"] == pytest.approx({PAPER: 0.9, PAPER_QUEUE: 1.125, OURS: 1.2})
    assert found.load_at_90_over_paper == pytest.approx(1.2 / 0.9)
    assert found.load_at_90_over_best_other == pytest.approx(1.2 / 1.125)
    assert (found.kept_at_105, found.kept_at_12, found.admitted_late_share) == (0.96, 0.9, 0.001)
    assert found.long_p99_over_threshold == pytest.approx(0.9)


def test_seeds_give_a_mean_and_an_interval() -> None:
    curves = Curves([point(OURS, 1.0, 0.90), point(OURS, 1.0, 0.94, seed=2)])
    assert curves.kept("steady", OURS, 1.0) == pytest.approx(0.92)
    assert curves.interval("steady", OURS, 1.0) == pytest.approx(12.71 * 0.02, rel=1e-3)


@pytest.mark.parametrize("missing", [PAPER, OURS])
def test_without_both_sides_of_a_comparison_there_is_no_summary(missing: str) -> None:
    assert summarize([each for each in POINTS if each.arm != missing], 600.0) is None


def test_a_summary_says_what_it_does_not_show() -> None:
    found = summarize([each for each in POINTS if each.load < 1.2], 600.0)
    assert found is not None
    assert (found.seeds, found.duration_s, found.loads) == (1, 600.0, [0.85, 0.95, 1.05])
    assert found.kept_at_12 is None, "a load that was not run has no figure"
    notes = " ".join(found.notes)
    for said in ("Not run: drop100, bursts, reuse", "1 of 10 seeds", "600 s a run", "ours keeps 96.0% at the highest load"):
        assert said in notes
    assert "paper keeps" not in notes, "its curve is bracketed"


def test_ten_seeds_of_an_hour_in_all_cases_need_no_note() -> None:
    whole = [msgspec.structs.replace(each, case=case, seed=seed) for each in POINTS for case in CASES for seed in range(10)]
    found = summarize([*whole, *(msgspec.structs.replace(each, load=1.4, kept_share=0.5) for each in whole)], 3600.0)
    assert found is not None and found.notes == [] and found.seeds == 10


def test_all_arms_are_measured_on_the_same_arrivals_and_none_beats_the_clairvoyant() -> None:
    measured = measure(Task("steady", 1.2, 1, 240.0, (PAPER, PAPER_QUEUE, OURS), bound=True))
    kept = {each.arm: each.kept_share for each in measured.points}
    assert measured.bound_share is not None
    assert kept[PAPER] < kept[PAPER_QUEUE] <= measured.bound_share and kept[PAPER] < kept[OURS] <= measured.bound_share
    assert len({each.requests for each in measured.points}) == 1
    for each in measured.points:
        answered = 1 - each.refused_share - each.failed_share
        assert each.kept_share <= each.within_share["10"] <= each.within_share["30"] <= answered + 1e-9
        assert each.kept_by_length_share >= each.kept_share
        assert sum(of_class.requests for of_class in each.classes.values()) == each.requests


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.queue is not None])
def test_an_arm_with_the_queue_accepts_nothing_that_it_does_not_serve(name: str) -> None:
    case = cases(1.3, duration_s=300.0)["drop100"]()
    result = simulated(case, ARMS[name])
    (records,), (failed_after_s,) = result.records.values(), result.failed_after_s.values()
    assert {record.error for record in records if record.error} == {"not_in_time"}
    assert sum(after_s > 1.0 for after_s in failed_after_s.values()) <= 0.001 * len(records)


def test_an_objective_by_length_lets_long_prompts_wait_longer() -> None:
    case = cases(1.1, duration_s=300.0)["steady"]()
    kept = {}
    for objectives in (FLAT, BY_LENGTH):
        (records,) = simulated(case, ARMS[OURS], objectives=objectives).records.values()
        kept[objectives] = sum(not record.error for record in records if record.arrival.prompt_tokens > 65_536)
    assert kept[BY_LENGTH] > kept[FLAT]


def test_the_bound_is_all_where_there_is_little_to_do() -> None:
    case = cases(0.3, duration_s=120.0)["steady"]()
    assert bound_share(case, 10.0, 0.0, 120.0) == pytest.approx(1.0, abs=0.01)
    assert bound_share(case, 1.0, 0.0, 120.0) < 0.9, "long prompts take longer than that"


def test_the_curves_are_drawn_with_the_bound(tmp_path: Path) -> None:
    write_plot(POINTS, {"steady": {"1.2": 0.95}}, tmp_path / "curves.html")
    page = (tmp_path / "curves.html").read_text()
    assert all(name in page for name in ("steady", OURS, PAPER_QUEUE, "clairvoyant"))
