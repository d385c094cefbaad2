"""The tier's directory: one process at a time, and the files of one model in it."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import xxhash

from prfaas.secrets.secret_files import make_private_directory, open_secret
from prfaas.worker.disk_tier.block_file import SCRATCH_SUFFIX

_MODEL = re.compile(r"model-[0-9a-f]{32}")
_FILE = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})-(\d{1,9})\.(block|checkpoint)")
_NO_PARENT = 0


class DiskTierError(Exception):
    """A directory that cannot be used; the message is a sentence that names it."""


class FileName(NamedTuple):
    """Keyed hashes and a count, which are all that a file's name says."""

    hash: int
    parent: int | None
    """Hash of the block before it; None for a prompt's first."""
    number: int
    """Count of the blocks before it."""
    checkpoint: bool

    def __str__(self) -> str:
        kind = "checkpoint" if self.checkpoint else "block"
        return f"{self.hash:016x}-{_NO_PARENT if self.parent is None else self.parent:016x}-{self.number}.{kind}"


class FoundFile(NamedTuple):
    name: FileName
    size_bytes: int
    written_s: float


class TierFolder:
    def __init__(self, directory: Path, fingerprint: str) -> None:
        """Opens the directory for this process, makes it if it is not there, and removes what lies in it of other models and of
        writes that were not finished. Raises DiskTierError."""
        self.path = directory / f"model-{xxhash.xxh3_128_hexdigest(fingerprint.encode())}"
        try:
            make_private_directory(directory)
            self._lock = open_secret(directory / "lock", append=True)
        except OSError as error:
            raise DiskTierError(f"the directory {directory} of the prefix cache cannot be used: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for other in directory.iterdir():
                if other != self.path and _MODEL.fullmatch(other.name):
                    shutil.rmtree(other)
            make_private_directory(self.path)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DiskTierError(
                f"another process uses the directory {directory} of the prefix cache; each worker needs one of its own"
            ) from error
        except OSError as error:
            os.close(self._lock)
            raise DiskTierError(f"the directory {directory} of the prefix cache cannot be used: {error}") from error

    def close(self) -> None:
        os.close(self._lock)

    def file(self, name: FileName) -> Path:
        return self.path / str(name)

    def files(self) -> Iterator[FoundFile]:
        """Yields the whole files that are there."""
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith(SCRATCH_SUFFIX):
                    Path(entry.path).unlink()
                elif match := _FILE.fullmatch(entry.name):
                    hash, parent, number, kind = match.groups()
                    before = int(parent, 16) if int(number) else None
                    status = entry.stat(follow_symlinks=False)
                    name = FileName(int(hash, 16), before, int(number), kind == "checkpoint")
                    yield FoundFile(name, status.st_size, status.st_mtime)
