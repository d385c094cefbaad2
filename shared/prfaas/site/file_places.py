"""Places of a deployment's files: where they are made, and where they will lie."""

from pathlib import Path
from typing import NamedTuple


class FilePlaces(NamedTuple):
    """A folder that holds the folders of the sites. Both are absolute."""

    made_in: Path
    lies_at: Path
    """The same folder on the host, or in the container, that will use the files."""

    @classmethod
    def here(cls, directory: Path) -> "FilePlaces":
        """Places of files that are used where they are made."""
        return cls(directory, directory)

    def final(self, path: Path) -> Path:
        """Returns where a file that is made at `path` will lie."""
        return self.lies_at / path.relative_to(self.made_in)
