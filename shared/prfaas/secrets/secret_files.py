"""Files that only their owner may read: keys, configurations and logs.

`python -m prfaas.secrets.secret_files FOLDER` lists what others may read there, and fails if there is something.
"""

import argparse
import os
import stat
import sys
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
    """Files below a directory that the group or others can reach and read or change."""
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or not path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            continue
        if path.is_dir():
            yield from readable_by_others(path)
        else:
            yield path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m prfaas.secrets.secret_files", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    if not folder.exists():
        print(f"prfaas.secrets.secret_files: {folder} is not there", file=sys.stderr)
        return 2
    found = list(readable_by_others(folder))
    for path in found:
        print(f"{stat.S_IMODE(path.lstat().st_mode):04o} {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
