import argparse
import json
from pathlib import Path

import pytest

from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench")
    add_json_option(parser)
    return parser.parse_args(argv)


def test_results_are_written_where_the_option_says(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    write_json({"conditions": conditions("msgspec")}, parsed("--json", str(path)).json)
    found = json.loads(path.read_text())["conditions"]
    assert set(found) == set(Conditions.__struct_fields__)
    assert {"python", "linux", "msgspec"} == set(found["versions"]) and found["cpus"] >= 1


def test_without_the_option_nothing_is_written() -> None:
    write_json({"a": 1}, parsed().json)


def test_a_path_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "missing" / "found.json"):
        with pytest.raises(SystemExit):
            parsed("--json", str(path))
        assert "is not a file in an existing folder" in capsys.readouterr().err
