"""Files that only their owner may read: keys, configurations and logs."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600


def make_private_directory(directory: Path) -> None:
    """Makes a directory with mode 0700, whatever the umask is; one that is there gets that mode."""
    directory.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
    directory.chmod(PRIVATE_DIRECTORY)


def open_secret(path: Path, *, append: bool = False) -> int:
    """Descriptor of a file with mode 0600, for writing. An existing file is emptied unless `append` is set."""
    # Created with its mode: a chmod afterwards would leave a moment in which others can read it.
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    descriptor = os.open(path, flags, PRIVATE_FILE)
    os.fchmod(descriptor, PRIVATE_FILE)
    return descriptor


def write_secret(path: Path, content: bytes) -> None:
    """Writes a file with mode 0600."""
    with os.fdopen(open_secret(path), "wb") as file:
        file.write(content)


def readable_by_others(directory: Path) -> Iterator[Path]:
    """Paths below a directory, itself included, that the group or others may read, write or enter."""
    for path in (directory, *sorted(directory.rglob("*"))):
        if path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO) and not path.is_symlink():
            yield path
