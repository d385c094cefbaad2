"""Files that only their owner may read: keys, configurations and logs."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600
MAX_SECRET_BYTES = 16 << 20


class SecretFileError(Exception):
    """A secret file that cannot be used; the message is a sentence that names it."""


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
    """Writes a file with mode 0600 in one step: a reader finds the old content or the new one."""
    written = path.with_name(f".{path.name}.{os.getpid()}.new")
    with os.fdopen(open_secret(written), "wb") as file:
        file.write(content)
    written.replace(path)


def read_secret(path: Path) -> bytes:
    """Reads a file that no others may read. Raises SecretFileError when they may, and when it cannot be read."""
    try:
        with path.open("rb") as file:
            # Of the open file: another one may have its name a moment later.
            _check_mode(path, os.fstat(file.fileno()))
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SecretFileError(f"the secret file {path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_SECRET_BYTES:
        raise SecretFileError(f"the secret file {path} has more than {MAX_SECRET_BYTES >> 20} MiB")
    return content


def _check_mode(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    forbidden = stat.S_IRWXG | stat.S_IRWXO
    if status.st_uid == 0 and os.geteuid() != 0:
        # A mounted secret of a container platform is root's, and reaches the process by its group: no owner could read it else.
        forbidden &= ~stat.S_IRGRP
    if mode & forbidden:
        raise SecretFileError(f"the secret file {path} has mode {mode:04o}, which lets others in; do `chmod 600 {path}`")


def replace_secret(path: Path, content: bytes) -> None:
    """Writes a file with mode 0600 in one step: who reads it meanwhile sees all of the old one or all of the new one."""
    draft = path.with_name(f".{path.name}.new")
    write_secret(draft, content)
    draft.replace(path)


def readable_by_others(directory: Path) -> Iterator[Path]:
    """Files below a directory that the group or others can reach and read or change."""
    for path in sorted(directory.iterdir()):
        if path.is_symlink() or not path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            continue
        if path.is_dir():
            yield from readable_by_others(path)
        else:
            yield path
