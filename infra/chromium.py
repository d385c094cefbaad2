"""Debian's chromium, installed where the machine has none: the console's tests and pictures need a browser.

`python -m infra.chromium` installs it, which takes root.
"""

import shutil
import sys
from typing import Final

from infra import debian
from prfaas.process import interruption

NAMES: Final = ("chromium", "chromium-browser")


def on_machine() -> str | None:
    """Returns the path of the browser; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def find() -> str:
    """Returns the path of the browser, installed if need be. Raises debian.PackageError."""
    if on_machine() is None:
        debian.install(["chromium"])
    path = on_machine()
    if path is None:
        raise debian.PackageError(f"Debian's package chromium is installed, and PATH has none of {', '.join(NAMES)}")
    return path


def main() -> int:
    try:
        print(find())
    except debian.PackageError as error:
        print(f"chromium: there is none on PATH, and {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
