"""A small disk of its own for one server's store, which can be filled up."""

import os
import shutil
import subprocess
from pathlib import Path

SIZE_MIB = 48


class SmallDisk:
    """A tmpfs at `path`. Mounting takes root."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mounted = False
        self._ballast = path / "ballast"

    def mount(self) -> bool:
        """Returns whether it could be mounted."""
        self.path.mkdir(parents=True, exist_ok=True)
        options = ("-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=0700", "tmpfs", str(self.path))
        self.mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
        return self.mounted

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], capture_output=True, check=False)
            self.mounted = False

    def fill(self) -> None:
        """Writes until the disk has no byte left."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size_bytes in (1 << 20, 1 << 12):
                try:
                    while ballast.write(os.urandom(size_bytes)) == size_bytes:
                        pass
                except OSError:
                    continue

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def clear(self) -> None:
        """Deletes everything on the disk."""
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
