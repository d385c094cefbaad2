"""Promises of podman's wrapper that need no podman."""

import sys

import pytest

from infra.containers import podman


def test_two_runs_on_one_machine_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "NAMESPACE", "prfaas-test-of-runs")
    for _ in range(2):
        with podman.alone(), pytest.raises(podman.ContainersError, match="another run"), podman.alone():
            pass


def test_a_command_that_fails_quotes_both_of_its_streams() -> None:
    script = "import sys; print('the package said so'); print('the step failed', file=sys.stderr); sys.exit(3)"
    with pytest.raises(podman.ContainersError, match=r"(?s)ended with 3: the package said so.*the step failed"):
        podman.run([sys.executable, "-c", script])


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(podman.ContainersError, match="`no-such-program` cannot be run"):
        podman.run(["no-such-program"])
