"""Debian's packages, installed or unpacked where the machine lacks a program."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_DEADLINE_S = 900.0
_NOT_TO_BE_HAD = ("Unable to locate package", "has no installation candidate", "Unable to fetch", "Failed to fetch")
"""Words of apt-get about a package that neither its lists nor its sources have here."""


class PackageError(Exception):
    """Raised when apt-get fails; the message quotes the end of what it said."""


class NoPackageError(PackageError):
    """Raised when this machine cannot have a package: it is no Debian, gives no right to install, or reaches no source."""


def install(packages: Sequence[str]) -> None:
    """Installs packages, which takes root. Raises PackageError."""
    words = ["install", "--yes", "--no-install-recommends", *packages]
    if os.geteuid() != 0:
        raise NoPackageError(f"installing takes root: `apt-get {' '.join(words)}`")
    _apt(words, Path("/"))


def unpack(package: str, directory: Path) -> None:
    """Unpacks a package into a folder, without installing it. Raises PackageError."""
    directory.mkdir(parents=True, exist_ok=True)
    _apt(["download", package], directory)
    (archive,) = sorted(directory.glob(f"{package}_*.deb"))[-1:]
    if said := _failure(["dpkg", "-x", archive.name, "."], directory):
        raise PackageError(f"{archive} cannot be unpacked: {said}")


def _apt(words: Sequence[str], directory: Path) -> None:
    if shutil.which("apt-get") is None:
        raise NoPackageError(f"this machine has no apt-get for `apt-get {' '.join(words)}`")
    if _failure(["apt-get", *words], directory) is None:
        return
    # A fresh machine has no package lists yet, and only root may fetch them. What the second try says counts.
    _failure(["apt-get", "update"], directory)
    if said := _failure(["apt-get", *words], directory):
        kind = NoPackageError if any(each in said for each in _NOT_TO_BE_HAD) else PackageError
        raise kind(f"`apt-get {' '.join(words)}` failed: {said}")


def _failure(command: Sequence[str], directory: Path) -> str | None:
    """Returns the end of what a command that failed said; None when it succeeded."""
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=directory, env=environ, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {_DEADLINE_S:g} s"
    except OSError as error:
        return f"it cannot be run: {error.strerror}"
    if done.returncode == 0:
        return None
    return (done.stderr or done.stdout).strip()[-800:] or f"it ended with {done.returncode}"
