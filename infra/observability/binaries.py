"""Debian's prometheus and promtool, unpacked into .run/tools where the machine has none.

`python -m infra.observability.binaries` fetches them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from prfaas.process import interruption

TOOLS = Path(__file__).parents[2] / ".run" / "tools"
_UNPACKED = TOOLS / "usr" / "bin"
_TIMEOUT_S = 300.0


class NoPrometheusError(Exception):
    """Raised when neither PATH nor Debian's archive has Prometheus."""


def on_machine(name: str) -> Path | None:
    """Returns the path of `prometheus` or `promtool`; None where it is not on PATH and was not fetched."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    return _UNPACKED / name if (_UNPACKED / name).exists() else None


def find(name: str) -> Path:
    """Returns the path of `prometheus` or `promtool`, fetched if need be. Raises NoPrometheusError."""
    if on_machine(name) is None:
        _unpack()
    return on_machine(name) or _UNPACKED / name


def _unpack() -> None:
    TOOLS.mkdir(parents=True, exist_ok=True)
    # Downloaded, not installed: the package would start a server of its own and needs root.
    if not _runs("apt-get", "download", "prometheus"):
        # A fresh machine has no package lists yet, and only root may fetch them.
        _runs("apt-get", "update", "-q")
        if not _runs("apt-get", "download", "prometheus"):
            raise NoPrometheusError(
                "Prometheus is neither on PATH nor to be had by `apt-get download prometheus`; install it and try again"
            )
    (package,) = sorted(TOOLS.glob("prometheus_*.deb"))[-1:]
    if not _runs("dpkg", "-x", package.name, "."):
        raise NoPrometheusError(f"{package} cannot be unpacked by `dpkg -x`")


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, cwd=TOOLS, timeout=_TIMEOUT_S, capture_output=True, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> int:
    try:
        print(find("prometheus"))
    except NoPrometheusError as error:
        print(f"binaries: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
