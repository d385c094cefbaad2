import pytest

from load.bench.replay import Memory, on_time, percentile_errors, started_at
from load.bench.replay_stub import StubRow
from prfaas.replay.results import Run
from tests.replay.test_summary import made_run, row

START_AT = 1767225600.0
"""2026-01-01T00:00:00 UTC, as made_run has it."""


def run_of(delays_s: list[float], *, ttft_s: float = 0.1) -> tuple[Run, list[StubRow]]:
    """Requests that left late by the delays, and what the stub saw of them, without any way between them."""
    rows = [row(n, float(n), ttft_s + late, sent_s=n + late, request_id=f"r{n}", tokens=11) for n, late in enumerate(delays_s)]
    seen = [
        StubRow(f"r{n}", START_AT + n + late, START_AT + n + late + ttft_s, START_AT + n + late + ttft_s + 0.1, 11)
        for n, late in enumerate(delays_s)
    ]
    return made_run(rows, end_s=float(len(rows))), seen


def test_late_and_lost_requests_are_not_on_time() -> None:
    run, seen = run_of([0.001, 0.002, 0.03, 0.004])
    assert started_at(run) == START_AT
    assert on_time(run, seen) == {"left": 0.75, "at_stub": 0.75}
    assert on_time(run, seen[1:]) == {"left": 0.75, "at_stub": 0.5}


def test_a_report_that_says_what_the_stub_did_has_no_error() -> None:
    run, seen = run_of([0.001] * 50)
    assert max(map(abs, percentile_errors(run, seen).values())) < 1e-5


def test_a_report_that_says_something_else_has_one() -> None:
    run, _ = run_of([0.001] * 50, ttft_s=0.11)
    _, seen = run_of([0.001] * 50, ttft_s=0.1)
    assert 0.09 < percentile_errors(run, seen)["ttft_p50"] < 0.11


def test_memory_that_grows_is_told_from_caches_that_fill() -> None:
    flat = Memory([(float(n), 100 if n > 10 else n * 10) for n in range(30)])
    growing = Memory([(float(n), n * 10) for n in range(1, 31)])
    assert abs(flat.growth) < 0.01 < 0.5 < growing.growth
    assert flat.slope_bytes_per_s == pytest.approx(0.0, abs=1.0) and growing.slope_bytes_per_s == pytest.approx(10.0)


def test_memory_of_the_report_is_not_that_of_the_sending() -> None:
    memory = Memory([*((float(n), 100) for n in range(10)), (10.0, 900), (11.0, 900)])
    sending = memory.between(0.0, 10.0)
    assert (memory.peak_bytes, sending.peak_bytes, sending.growth) == (900, 100, 0.0)
    assert Memory().slope_bytes_per_s == 0.0
