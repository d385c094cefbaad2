"""Programs and rights that a test needs of its machine, and what becomes of the test where one is missing.

In CI (CI=true) nothing that can be had may be missing: a test is skipped there only with the reason for which this machine cannot
have it. Elsewhere it is skipped with the way to get it.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from infra.debian import NoPackageError, PackageError, install

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""Capabilities that namespaces, mounts and network devices take, with their bits."""


def in_ci() -> bool:
    return os.environ.get("CI") == "true"


def missing(what: str, get_it: str, not_to_be_had: str | None) -> NoReturn:
    """Skips the test for which something is missing; fails it in CI when it could be had here."""
    if not_to_be_had is not None:
        pytest.skip(f"{what}, and this machine cannot have it: {not_to_be_had}")
    if in_ci():
        pytest.fail(f"{what}; {get_it}", pytrace=False)
    pytest.skip(f"{what}; {get_it}")


def need_package(program: str, on_machine: Callable[[], object], find: Callable[[], object], get_it: str) -> None:
    """Skips or fails the test without a program of Debian's. In CI it is fetched first: `find` raises PackageError."""
    if on_machine():
        return
    what = f"there is no {program}"
    if not in_ci():
        missing(what, get_it, None)
    try:
        find()
    except NoPackageError as error:
        missing(what, get_it, str(error))
    except PackageError as error:
        missing(f"{what}: {error}", get_it, None)


def need_network_namespaces() -> None:
    """Skips or fails the test where no named network namespace can be made."""
    need_package("ip", lambda: shutil.which("ip"), lambda: install(["iproute2"]), "Debian's package is iproute2")
    name = f"prfaas-probe-{os.getpid()}"
    need_success("a network namespace", ["ip", "netns", "add", name])
    subprocess.run(["ip", "netns", "delete", name], check=True, capture_output=True)


def need_success(what: str, command: Sequence[str]) -> None:
    """Skips or fails the test where the command, which makes `what` by the kernel's leave, does not succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = f"`{' '.join(command)}` says: {done.stderr.strip() or done.returncode}"
        missing(f"{what} cannot be made", told, no_right_to_make_devices())


def no_right_to_make_devices() -> str | None:
    """Returns why the kernel refuses namespaces, mounts and network devices to this process; None when it should not."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = int(status["CapEff"], 16)
    lacking = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if lacking:
        return f"this process lacks {' and '.join(lacking)}"
    if int(status["Seccomp"]):
        return "a seccomp filter stands between this process and the kernel"
    return None if Path("/proc/self/ns/net").exists() else "its kernel has no network namespaces"
