from pathlib import Path

import pytest

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.profiles import ProfileError
from prfaas.planner.deployment import CASES, DeploymentError, load_deployment
from prfaas.planner.report import Report, report

PAPER = (CASES / "paper.toml").read_text()
MOONCAKE_ROW = '{{"timestamp": {at}, "input_length": {tokens}, "output_length": 100, "hash_ids": [{ids}]}}\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "sites.toml"
    path.write_text(text)
    return path


def plan(folder: Path, text: str) -> Report:
    return report(load_deployment(write(folder, text)))


def test_the_paper_case() -> None:
    found = report(load_deployment(CASES / "paper.toml"))
    assert found.program == "two-site"
    assert (found.n_prefill, found.n_decode) == (3, 5)
    assert found.offloading_pays
    assert found.ratio_homogeneous == pytest.approx(1.54, abs=0.005)
    assert found.ratio_naive == pytest.approx(1.32, abs=0.01)
    assert found.ratio_balanced == pytest.approx(1.03, abs=0.005)
    assert found.ratio_equal_cost == found.ratio_homogeneous
    assert found.mean_time is not None
    assert found.mean_time.prfaas == pytest.approx(3.17, abs=0.02)
    assert [site.n_prefill for site in found.sites] == [4, 3]


def test_a_dense_model_does_not_pay_and_the_link_is_why() -> None:
    found = report(load_deployment(CASES / "dense.toml"))
    assert not found.offloading_pays
    assert found.verdict.startswith("no:")
    assert "link carries 100" in found.verdict
    assert "link" in found.binds


def test_it_does_not_pay_where_the_pd_sites_carry_the_traffic_alone(tmp_path: Path) -> None:
    low = plan(tmp_path, PAPER.replace("[traffic]", "[traffic]\nrate-req-s = 1.0"))
    assert not low.offloading_pays
    assert "carry 1.41 req/s, and the traffic is 1" in low.verdict
    assert plan(tmp_path, PAPER.replace("[traffic]", "[traffic]\nrate-req-s = 2.0")).offloading_pays


def test_a_ttft_that_the_pd_sites_miss_is_a_reason_to_offload(tmp_path: Path) -> None:
    text = PAPER.replace("[traffic]", "[traffic]\nrate-req-s = 1.0")
    strict = plan(tmp_path, text.replace("[slo]", "[slo]\nttft-p90-s = 4"))
    assert strict.offloading_pays
    assert strict.meets_slo
    assert not plan(tmp_path, text.replace("[slo]", "[slo]\nttft-p90-s = 3")).meets_slo


def test_dear_prefill_does_not_pay(tmp_path: Path) -> None:
    found = plan(tmp_path, PAPER.replace("instances = 4", "instances = 4\ncost = 4"))
    assert found.ratio_homogeneous == pytest.approx(1.54, abs=0.005)
    assert not found.offloading_pays
    assert "same money" in found.verdict


def test_more_sites_go_to_the_network_program(tmp_path: Path) -> None:
    more = """
[[site]]
name = "second"
kind = "pd"
instances = 6
profile = "paper-1t-h20"

[[link]]
source = "h200"
destination = "second"
gbit-s = 10
"""
    found = plan(tmp_path, PAPER + more)
    assert found.program == "network"
    assert found.threshold_tokens is None
    assert {site.site for site in found.sites if site.threshold_tokens} == {"h20", "second"}
    assert found.offloading_pays
    assert found.n_prefill + found.n_decode == 14
    assert found.egress_gbit_s == pytest.approx(sum(link.egress_gbit_s for link in found.links))
    alone = plan(tmp_path, PAPER.replace("instances = 4", "instances = 0") + more)
    assert not alone.offloading_pays
    assert found.ratio_local_only == pytest.approx(found.throughput_req_s / alone.throughput_req_s, rel=1e-3)


def test_a_trace_gives_uncached_lengths_and_its_mean_output(tmp_path: Path) -> None:
    rows = [MOONCAKE_ROW.format(at=at, tokens=40_000, ids=", ".join(map(str, range(79)))) for at in (0, 1)]
    (tmp_path / "trace.jsonl").write_text("".join(rows))
    traffic = 'trace = { file = "trace.jsonl", format = "mooncake" }'
    text = PAPER.replace("lognormal", "# lognormal").replace("output-tokens = 1024", traffic)
    loaded = load_deployment(write(tmp_path, text))
    assert loaded.output_tokens == 100
    assert loaded.lengths.mean_tokens == 20_000
    uncached = text.replace('"mooncake"', '"mooncake", cache-tokens = 0')
    assert load_deployment(write(tmp_path, uncached)).lengths.mean_tokens == 40_000


def test_a_measured_profile_is_read_from_beside_the_file(tmp_path: Path) -> None:
    builtin_profile("paper-1t-h20").save(tmp_path / "mine.json")
    text = PAPER.replace('profile = "paper-1t-h20"', 'profile = "mine"') + '\n[[profile]]\nname = "mine"\nfile = "mine.json"\n'
    assert plan(tmp_path, text).throughput_req_s == report(load_deployment(CASES / "paper.toml")).throughput_req_s


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gbit-s = 100", "gbits = 100", r"unknown field `gbits`.*link"),
        ("instances = 8", 'instances = "8"', r"site\[1\]\.instances|site\[\.\.\.\]\.instances"),
        ("instances = 8", "instances = 1", "one for decode"),
        ("output-tokens = 1024", "", "needs `output-tokens`"),
        ("lognormal", "# lognormal", "either `lognormal` or `trace`"),
        ('kind = "pd"', 'kind = "prfaas"', "nobody would decode"),
        ('destination = "h20"', 'destination = "h2o"', "names h2o"),
        ('name = "h200"', 'name = "h20"', "two sites are called h20"),
        ("decode-tokens-per-s = 40", "decode-tokens-per-s = 41", "cannot keep 41 tokens/s"),
        ("sigma = 1.00", "sigma = 0", "> 0"),
        ("low-tokens = 128", "low-tokens = 200000", "0 < low < high"),
        ("[slo]", "[slo", "is no TOML"),
        ('profile = "paper-1t-h20"', 'profile = "paper-1t-h200"', "has no decode points"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PAPER
    with pytest.raises(DeploymentError, match=message) as caught:
        load_deployment(write(tmp_path, PAPER.replace(old, new)))
    assert "sites.toml" in str(caught.value)


def test_a_profile_that_is_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="no profile h100; there are"):
        load_deployment(write(tmp_path, PAPER.replace('"paper-1t-h20"', '"h100"')))
    with pytest.raises(DeploymentError, match="either `file` or `base`"):
        load_deployment(write(tmp_path, PAPER + '\n[[profile]]\nname = "x"\n'))
    with pytest.raises(DeploymentError, match="cannot be read"):
        load_deployment(tmp_path / "none.toml")
