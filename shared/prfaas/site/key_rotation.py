"""The three steps by which all users' keys are replaced while every process goes on.

After each step the servers take their configuration again, at all sites before the next step. Between the first and the last step
a server knows a user by two keys. A step that was interrupted is taken again.
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from prfaas.site.site_keys import ensure_key, next_file, old_file


class RotationStep(StrEnum):
    ADD = "add"
    """New keys are made, and servers know them beside the old ones."""
    USE = "use"
    """Seeds of the new keys take the place of the old ones; processes connect again with them."""
    DROP = "drop"
    """Old keys are forgotten. A process that still uses one then is refused."""


class RotationOrderError(Exception):
    """Raised for a step that does not follow the one before; the message says which is next."""


def next_step(files: Iterable[Path]) -> RotationStep:
    """Returns the step that comes next for these seed files."""
    files = list(files)
    if any(next_file(file).exists() for file in files):
        return RotationStep.USE
    return RotationStep.DROP if any(old_file(file).exists() for file in files) else RotationStep.ADD


def take_step(step: RotationStep, files: Iterable[Path]) -> None:
    """Changes the seed files. Raises RotationOrderError, and changes nothing then."""
    files = list(files)
    if step is not (expected := next_step(files)):
        raise RotationOrderError(f"the next step of the rotation is `{expected}`, not `{step}`")
    for file in files:
        match step:
            case RotationStep.ADD:
                ensure_key(next_file(file))
            case RotationStep.USE:
                # A file without a successor belongs to a user that is newer than the first step.
                if next_file(file).exists():
                    old_file(file).unlink(missing_ok=True)
                    old_file(file).hardlink_to(file)  # at no moment is there no seed to read
                    next_file(file).replace(file)
            case RotationStep.DROP:
                old_file(file).unlink(missing_ok=True)
