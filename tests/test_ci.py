"""Commands that CI runs, with a `make` that does as a test says."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.source_tree import ROOT


@pytest.mark.parametrize("failing", [(), ("test",), ("containers-test",), ("test", "containers-test")])
def test_both_suites_run_and_either_one_fails_the_whole(failing: tuple[str, ...], tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/called\ncase " {" ".join(failing)} " in *" $1 "*) exit 2;; esac\n')
    make.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([ROOT / ".ci/run"], env=environ, capture_output=True, check=False, timeout=60)
    assert (tmp_path / "called").read_text().split() == ["test", "containers-test"]
    assert (done.returncode != 0) == bool(failing)
