"""Debian's prometheus and promtool, unpacked into .run/tools where the machine has none.

`python -m infra.observability.binaries` fetches them.
"""

import shutil
import sys
from pathlib import Path

from infra import debian
from prfaas.process import interruption

TOOLS = Path(__file__).parents[2] / ".run" / "tools"
_UNPACKED = TOOLS / "usr" / "bin"


def on_machine(name: str) -> Path | None:
    """Returns the path of `prometheus` or `promtool`; None where it is not on PATH and was not fetched."""
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    return _UNPACKED / name if (_UNPACKED / name).exists() else None


def find(name: str) -> Path:
    """Returns the path of `prometheus` or `promtool`, fetched if need be. Raises debian.PackageError."""
    if on_machine(name) is None:
        # Unpacked, not installed: the package would start a server of its own and needs root.
        debian.unpack("prometheus", TOOLS)
    return on_machine(name) or _UNPACKED / name


def main() -> int:
    try:
        print(find("prometheus"))
    except debian.PackageError as error:
        print(f"binaries: Prometheus is not on PATH, and {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
