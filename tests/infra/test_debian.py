"""Debian's packages, installed by an apt-get that does as a script says."""

import os
from pathlib import Path

import pytest

from infra import debian


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Makes a folder of programs in which `apt-get` is written. What it was called with is in `called`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return programs / "apt-get"


def write(apt: Path, script: str) -> None:
    apt.write_text(f'#!/bin/sh\necho "$1" >> {apt.parent}/called\n{script}\n')
    apt.chmod(0o755)


def called(apt: Path) -> list[str]:
    return (apt.parent / "called").read_text().split()


def test_lists_are_fetched_only_where_a_package_is_not_found_without(apt: Path) -> None:
    write(apt, "exit 0")
    debian.install(["hammer"])
    assert called(apt) == ["install"]
    write(apt, f"[ $1 = update ] && touch {apt.parent}/lists; [ -e {apt.parent}/lists ]")
    debian.install(["hammer"])
    assert called(apt) == ["install", "install", "update", "install"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("E: Unable to locate package hammer", debian.NoPackageError),
        ("E: Package 'hammer' has no installation candidate", debian.NoPackageError),
        ("E: Failed to fetch http://localhost/hammer.deb  Could not connect", debian.NoPackageError),
        ("E: dpkg was interrupted, you must manually run 'dpkg --configure -a'", debian.PackageError),
    ],
)
def test_a_package_that_cannot_be_had_is_told_from_one_that_does_not_install(
    apt: Path, said: str, kind: type[debian.PackageError]
) -> None:
    write(apt, f'echo "{said}" >&2; exit 100')
    with pytest.raises(debian.PackageError, match="apt-get install") as raised:
        debian.install(["hammer"])
    assert type(raised.value) is kind and said.split()[-1].strip("'") in str(raised.value)


def test_installing_takes_root(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(apt, "exit 0")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(debian.NoPackageError, match="installing takes root"):
        debian.install(["hammer"])


def test_a_machine_without_apt_is_no_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian.NoPackageError, match="has no apt-get"):
        debian.unpack("hammer", tmp_path / "tools")
