"""Tests whose machine lacks something, in CI and elsewhere."""

import pytest

from infra.debian import NoPackageError, PackageError
from tests import machine

SKIPPED, FAILED = pytest.skip.Exception, pytest.fail.Exception


@pytest.mark.parametrize(
    ("ci", "not_to_be_had", "outcome"),
    [("true", None, FAILED), ("true", "no root", SKIPPED), ("", None, SKIPPED), ("", "no root", SKIPPED)],
)
def test_what_could_be_had_may_be_missing_anywhere_but_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, not_to_be_had: str | None, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match=f"^no hammer.*{not_to_be_had or 'buy one'}"):
        machine.missing("no hammer", "buy one", not_to_be_had)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [(None, None), (NoPackageError("no source is reached"), SKIPPED), (PackageError("dpkg was interrupted"), FAILED)],
)
def test_ci_fetches_a_program_and_skips_only_where_it_is_not_to_be_had(
    monkeypatch: pytest.MonkeyPatch, found: PackageError | None, outcome: type[BaseException] | None
) -> None:
    monkeypatch.setenv("CI", "true")

    def find() -> None:
        if found is not None:
            raise found

    if outcome is None:
        machine.need_package("hammer", lambda: None, find, "buy one")
    else:
        with pytest.raises(outcome, match=str(found)):
            machine.need_package("hammer", lambda: None, find, "buy one")


def test_nothing_is_fetched_for_a_program_that_is_there_or_outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> None:
        raise AssertionError("fetched")

    monkeypatch.setenv("CI", "true")
    machine.need_package("hammer", lambda: "/usr/bin/hammer", find, "buy one")
    monkeypatch.delenv("CI")
    with pytest.raises(SKIPPED, match="there is no hammer; buy one"):
        machine.need_package("hammer", lambda: None, find, "buy one")


def test_a_command_that_the_kernel_should_allow_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    machine.need_success("a fence", ["true"])
    for refused, outcome in ((None, FAILED), ("this process lacks CAP_NET_ADMIN", SKIPPED)):
        monkeypatch.setattr(machine, "no_right_to_make_devices", lambda why=refused: why)
        with pytest.raises(outcome, match="a fence cannot be made"):
            machine.need_success("a fence", ["false"])
