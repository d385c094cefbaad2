"""The benchmark's attackers do what they say, and its figures are what was felt."""

import asyncio
import math
from pathlib import Path

import pytest

from load.bench.hostile.__main__ import KEY_OF, TENANTS, Arm, figures_of, make_tenants, summary_of
from load.bench.hostile.attacks import KINDS, Attacker
from load.bench.hostile.good_clients import Felt, Peaks, ask_for
from tests.gateway.conftest import running_edge, until


@pytest.mark.parametrize(("kind", "end"), [("header_flood", "431"), ("pipelined", "closed")])
async def test_an_attempt_meets_the_bound_that_it_is_meant_for(tmp_path: Path, kind: str, end: str) -> None:
    keys = make_tenants(tmp_path / "tenants.toml")
    async with running_edge(tmp_path, tenants_file=str(tmp_path / "tenants.toml")) as edge:
        attacker = Attacker(edge.port, "tiny", keys["greedy"])
        _, attempt = attacker.kinds[kind]
        repeating = asyncio.create_task(attacker.repeat(attempt))
        await until(lambda: attacker.ends[end] > 1)
        repeating.cancel()


async def test_a_good_request_that_is_refused_counts_as_failed(tmp_path: Path) -> None:
    make_tenants(tmp_path / "tenants.toml")
    async with running_edge(tmp_path, tenants_file=str(tmp_path / "tenants.toml")) as edge:
        felt = await ask_for(0.2, edge.port, "tiny", "no key", seed=1)
        assert felt == Felt([], ["401", "401"])


def test_each_attack_is_compared_with_its_own_gateway_alone() -> None:
    def arm(ttft_s: float, rss_mib: float, failures: list[str]) -> Arm:
        return Arm(Felt([ttft_s] * 100, failures), Peaks(rss_mib, 10), {})

    arms = {
        ("gateway", "alone"): arm(0.1, 100, []),
        ("gateway", "idle_sockets"): arm(0.15, 120, ["503"]),
        ("few", "alone"): arm(1.0, 90, []),
        ("few", "descriptors"): arm(1.1, 150, []),
        ("gateway", "huge_bodies"): Arm(Felt(), Peaks(1, 1), {}),
    }
    ratios = {each["attack"]: each["ttft_p99_ratio"] for each in figures_of(arms)}
    assert ratios["idle_sockets"] == pytest.approx(1.5) and ratios["descriptors"] == pytest.approx(1.1)
    assert ratios["huge_bodies"] == math.inf, "none was answered"
    summary = summary_of(arms, exits=0)
    assert (summary["failures"], summary["most_rss_over_alone_mib"], summary["worst_p99_ratio"]) == (1, 60, math.inf)


def test_every_attack_has_a_key_of_a_tenant() -> None:
    assert set(KEY_OF) <= set(KINDS) and set(KEY_OF.values()) <= set(TENANTS)
