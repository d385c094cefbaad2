"""Debian's chromium, installed where the machine has none: the console's tests and pictures need a browser.

`python -m infra.chromium` installs it, which takes root.
"""

import shutil
import subprocess
import sys
from typing import Final

from prfaas.process import interruption

NAMES: Final = ("chromium", "chromium-browser")
_TIMEOUT_S: Final = 300.0


class NoChromiumError(Exception):
    """Raised when there is no browser, and none can be installed."""


def on_machine() -> str | None:
    """Returns the path of the browser; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def find() -> str:
    """Returns the path of the browser, installed if need be. Raises NoChromiumError."""
    if on_machine() is None and not _installed():
        # A fresh machine has no package lists yet.
        _runs("apt-get", "update", "-q")
        _installed()
    path = on_machine()
    if path is None:
        raise NoChromiumError(
            "there is no chromium on PATH, and `apt-get install chromium` does not work here; install it and try again"
        )
    return path


def _installed() -> bool:
    return _runs("apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium")


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, timeout=_TIMEOUT_S, capture_output=True, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> int:
    try:
        print(find())
    except NoChromiumError as error:
        print(f"chromium: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
