"""Reading of files that people write by hand: bounded, so that a wrong path costs a sentence and not the memory."""

from pathlib import Path

MAX_BYTES = 16 << 20


def read_small(path: Path) -> bytes:
    """Raises OSError when the file cannot be read, ValueError for what is no file name and for more than MAX_BYTES."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB")
    return content
