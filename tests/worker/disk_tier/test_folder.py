"""The tier's directory: private, one process's, one model's."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from prfaas.worker.disk_tier.folder import DiskTierError, FileName, TierFolder

BLOCK = FileName(7, 6, 3, checkpoint=False)


def test_it_is_its_owners_and_the_lock_holds_while_it_is_open(tmp_path: Path) -> None:
    directory = tmp_path / "kv"
    directory.mkdir(mode=0o755)
    folder = TierFolder(directory, "a")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, folder.path, directory / "lock")] == [0o700, 0o700, 0o600]
    with pytest.raises(DiskTierError, match=r"another process uses the directory .*/kv of the prefix cache; each worker needs"):
        TierFolder(directory, "a")
    folder.close()
    TierFolder(directory, "a").close()


def test_a_killed_process_leaves_it_free(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from prfaas.worker.disk_tier.folder import TierFolder
folder = TierFolder(Path({str(tmp_path / "kv")!r}), "a")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == -9
    TierFolder(tmp_path / "kv", "a").close()


def test_files_of_other_models_and_of_unfinished_writes_go(tmp_path: Path) -> None:
    old = TierFolder(tmp_path, "a")
    old.file(BLOCK).write_bytes(b"12345")
    (tmp_path / "notes.txt").write_text("of somebody else")
    old.close()
    new = TierFolder(tmp_path, "b")
    assert not old.path.exists() and (tmp_path / "notes.txt").exists()
    names = (BLOCK, BLOCK._replace(checkpoint=True), FileName(1, None, 0, checkpoint=False))
    for name in names:
        new.file(name).write_bytes(b"123")
    (new.path / (str(BLOCK) + ".new")).write_bytes(b"1")
    (new.path / "other").write_bytes(b"1")
    assert sorted((found.name, found.size_bytes) for found in new.files()) == sorted((name, 3) for name in names)
    assert not (new.path / (str(BLOCK) + ".new")).exists()
    new.close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskTierError, match=r"the directory .*/file of the prefix cache cannot be used: "):
        TierFolder(tmp_path / "file", "a")
