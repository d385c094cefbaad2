"""The committed traces are what their sources say they are: the figures measured when they were chosen."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from load.traces import DATA, agentx, azure, mooncake_bursts, mooncake_steady
from prfaas.planner.uncached import uncached_tokens
from prfaas.traces import TraceRequest

Figures = tuple[int, int, int, int, int]


def figures(values: Sequence[int]) -> Figures:
    """Mean, P50, P90, P99 and maximum."""
    p50, p90, p99 = (round(float(np.quantile(values, share))) for share in (0.5, 0.9, 0.99))
    return round(float(np.mean(values))), p50, p90, p99, max(values)


@pytest.fixture(scope="module")
def mooncake() -> list[TraceRequest]:
    return list(mooncake_bursts())


def test_mooncakes_lengths_and_span(mooncake: list[TraceRequest]) -> None:
    assert len(mooncake) == 12_031
    assert figures([request.input_tokens for request in mooncake]) == pytest.approx(
        (12_035, 6_909, 27_367, 85_401, 126_195), abs=1
    )
    assert figures([request.output_tokens for request in mooncake])[:4] == pytest.approx((343, 350, 597, 1_120), abs=1)
    assert mooncake[-1].arrival_s == pytest.approx(3_537, abs=1)


@pytest.mark.parametrize(
    ("cache_tokens", "reuse"), [(2.56e6, 0.113), (5.12e6, 0.215), (15.36e6, 0.332), (25.6e6, 0.362), (float("inf"), 0.374)]
)
def test_mooncakes_prefix_reuse_over_the_cache_size(mooncake: list[TraceRequest], cache_tokens: float, reuse: float) -> None:
    total = sum(request.input_tokens for request in mooncake)
    assert 1 - sum(uncached_tokens(mooncake, cache_tokens)) / total == pytest.approx(reuse, abs=0.001)


def test_mooncakes_uncached_lengths(mooncake: list[TraceRequest]) -> None:
    uncached = list(uncached_tokens(mooncake))
    assert figures(uncached)[:4] == pytest.approx((7_538, 2_470, 19_012, 71_941), rel=0.001)
    for threshold, requests, tokens in ((8_192, 0.268, 0.796), (19_400, 0.097, 0.507), (32_768, 0.042, 0.322)):
        above = [length for length in uncached if length > threshold]
        assert len(above) / len(uncached) == pytest.approx(requests, abs=0.001)
        assert sum(above) / sum(uncached) == pytest.approx(tokens, abs=0.001)


def test_mooncakes_stamps_are_buckets_and_spreading_opens_them(mooncake: list[TraceRequest]) -> None:
    gaps_s = np.diff([request.arrival_s for request in mooncake])
    assert np.mean(gaps_s == 0) == pytest.approx(0.90, abs=0.005)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(3.03, abs=0.01)
    spread_s = np.diff([request.arrival_s for request in mooncake_steady(seed=1)])
    assert np.mean(spread_s == 0) < 0.001
    assert spread_s.std() / spread_s.mean() == pytest.approx(1.0, abs=0.1)


def test_all_mooncake_prompts_share_one_system_prompt(mooncake: list[TraceRequest]) -> None:
    assert {request.block_ids[0] for request in mooncake} == {0}


def test_azures_lengths_and_span() -> None:
    requests = list(azure())
    assert len(requests) == 19_366
    assert figures([request.input_tokens for request in requests]) == pytest.approx((1_155, 1_020, 2_735, 4_142, 14_050), abs=1)
    assert figures([request.output_tokens for request in requests])[:4] == pytest.approx((211, 129, 424, 601), abs=1)
    assert requests[-1].arrival_s == pytest.approx(3_502, abs=1)
    gaps_s = np.diff([request.arrival_s for request in requests])
    assert gaps_s.min() >= 0
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.09, abs=0.01)


@pytest.mark.slow
def test_agentxs_lengths_and_reuse() -> None:
    """Reads it in one pass: the trace is large."""
    inputs, outputs, sessions = [], [], set()

    def noted() -> Iterator[TraceRequest]:
        for request in agentx():
            inputs.append(request.input_tokens)
            outputs.append(request.output_tokens)
            sessions.add(request.session.partition("/")[0])
            yield request

    uncached = list(uncached_tokens(noted()))
    assert (len(sessions), len(inputs)) == (710, 49_334)
    assert figures(inputs) == pytest.approx((122_379, 103_662, 233_633, 498_617, 894_371), rel=0.0005)
    assert figures(outputs)[:4] == pytest.approx((440, 216, 898, 3_687), abs=1)
    assert 1 - sum(uncached) / sum(inputs) == pytest.approx(0.963, abs=0.0005)
    assert figures(uncached)[:4] == pytest.approx((4_509, 727, 4_804, 94_290), abs=1)
    assert np.mean(np.array(uncached) < 2_000) == pytest.approx(0.78, abs=0.01), (
        "nearly all prompts are long, few have much to compute"
    )


def test_every_trace_has_its_licence_and_its_line_in_the_manifest() -> None:
    manifest = (DATA / "MANIFEST.md").read_text()
    files = [path.name for path in DATA.iterdir() if path.suffix == ".gz"]
    assert len(files) == 3
    for name in files:
        assert name in manifest
        assert (DATA / f"LICENSE-{name.split('_')[0]}").stat().st_size > 1000
