import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prfaas.cli.__main__ import main
from prfaas.planner.deployment import CASES


def json_of(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", *arguments, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_the_paper_case_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    found = json_of(capfd, "--case", "paper")
    assert 19_000 < found["threshold_tokens"] < 19_800
    assert found["offloaded_share"] == pytest.approx(0.496, abs=0.001)
    assert (found["n_prefill"], found["n_decode"]) == (3, 5)
    assert found["throughput_req_s"] == pytest.approx(3.24, rel=0.02)
    assert 12 <= found["egress_gbit_s"] <= 13
    assert found["binds"] == ["prfaas_compute", "pd_prefill"]
    assert found["ratio_homogeneous"] == pytest.approx(1.54, abs=0.005)
    assert found["ratio_naive"] == pytest.approx(1.32, abs=0.01)
    assert found["ratio_balanced"] == pytest.approx(3.25 / 3.15, abs=0.005)
    assert found["paper_table_6"]["prfaas"]["throughput_req_s"] == 3.24
    assert found["table_5_only"]["prfaas"]["throughput_req_s"] == pytest.approx(3.20, abs=0.01)


def test_the_paper_case_side_by_side(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--case", "paper"]) == 0
    text = capfd.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("Lambda_max"))
    assert row.split()[2:] == ["3.24", "3.25", "3.20", "2.11", "2.11", "2.11", "2.45", "2.45", "2.50", "3.15", "3.20"]
    assert "Does offloading pay? Yes" in text


def test_the_dense_case_says_no(capfd: pytest.CaptureFixture[str]) -> None:
    found = json_of(capfd, "--case", "dense")
    assert found["offloading_pays"] is False
    assert main(["plan", "--case", "dense"]) == 0
    assert "Does offloading pay? No" in capfd.readouterr().out


def test_as_a_command_stdout_is_json_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prfaas.cli", "plan", "--case", "dense", "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["program"] == "two-site"


def test_show_prints_a_file_that_plan_reads(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["plan", "--case", "dense", "--show"]) == 0
    path = tmp_path / "mine.toml"
    path.write_text(capfd.readouterr().out)
    assert json_of(capfd, str(path)) == json_of(capfd, "--case", "dense")


def test_more_than_two_sites(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "three.toml"
    text = (CASES / "paper.toml").read_text()
    site = '\n[[site]]\nname = "west"\nkind = "prfaas"\ninstances = 2\nprofile = "paper-1t-h200"\n'
    path.write_text(text + site + '\n[[link]]\nsource = "west"\ndestination = "h20"\ngbit-s = 1\n')
    found = json_of(capfd, str(path))
    assert found["program"] == "network"
    assert found["threshold_tokens"] > 0
    assert main(["plan", str(path)]) == 0
    assert "west -> h20" in capfd.readouterr().out
    assert main(["plan", str(path), "--plot", str(tmp_path / "plot.svg")]) == 2
    assert "one prfaas and one pd site" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "magic"), [("plan.svg", b"<?xml"), ("plan.png", b"\x89PNG")])
def test_the_plot(capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str, magic: bytes) -> None:
    pytest.importorskip("matplotlib", reason="drawing is part of the lab extra")
    assert main(["plan", "--case", "paper", "--plot", str(tmp_path / name)]) == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_a_plot_without_matplotlib_says_what_to_install(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["plan", "--case", "paper", "--plot", str(tmp_path / "plot.svg")]) == 2
    assert "prfaas[lab]" in capfd.readouterr().err


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m prfaas.cli plan --case paper | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_mistakes_are_sentences(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["plan", str(tmp_path / "none.toml")]) == 2
    assert "cannot be read" in capfd.readouterr().err
    assert main(["plan", "--case", "paper", "--plot", "plan.gif"]) == 2
    assert ".svg or .png" in capfd.readouterr().err


def test_without_a_link_nothing_is_offloaded(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "cut.toml"
    path.write_text((CASES / "paper.toml").read_text().replace("gbit-s = 100", "gbit-s = 0"))
    assert main(["plan", str(path)]) == 0
    text = capfd.readouterr().out
    assert "Offload nothing." in text
    assert "Does offloading pay? No" in text
