from pathlib import Path

import pytest

from prfaas.cli.__main__ import main
from tests.site.taken_by_server import assert_server_takes

EXAMPLE = Path(__file__).parents[2] / "examples/two_hosts.toml"


def test_both_servers_take_what_is_made_from_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["site", "init", "--sites", str(EXAMPLE), "--directory", str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    for site in ("home", "far"):
        assert f"to {site}.example.org, to the same path" in said
        config = tmp_path / "made" / site / "server.conf"
        assert_server_takes(config)
        assert len(list((tmp_path / "made" / site / "keys").glob("*.ctl.nk"))) == {"home": 5, "far": 3}[site]
