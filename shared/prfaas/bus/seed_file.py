"""The file of a user's nkey seed, which an operator may replace while the process runs."""

from pathlib import Path

import nkeys

LOOK_EVERY_S = 2.0
"""Interval of looks at the file."""


class SeedFile:
    """A connection takes the seed when it connects. With a new one it connects again."""

    def __init__(self, path: str | None) -> None:
        """`path`: None for a connection without a key."""
        self._path = None if path is None else Path(path)
        self._taken: str | None = None

    def take(self) -> str | None:
        """Returns the seed to connect with. A file that no longer holds one leaves the seed taken before. Raises OSError."""
        if self._path is not None:
            found = self._path.read_text().strip()
            if self._taken is None or _is_seed(found):
                self._taken = found
        return self._taken

    def changed(self) -> bool:
        """Tells whether the file holds another seed than the one taken. A file that cannot be read changes nothing."""
        if self._path is None or self._taken is None:
            return False
        try:
            found = self._path.read_text().strip()
        except OSError:
            return False
        return found != self._taken and _is_seed(found)


def _is_seed(text: str) -> bool:
    try:
        nkeys.from_seed(bytearray(text.encode()))
    except Exception:  # the library raises what its parts raise
        return False
    return True
