"""The `--json FILE` option of all benchmarks and experiments: their results for programs, beside what they print."""

import argparse
from pathlib import Path
from typing import Any

import msgspec


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=_writable, metavar="FILE", help="also write the results there")


def write_json(results: Any, path: Path | None) -> None:
    """Writes `results` (structs, lists, mappings) to `path`, indented; without a path it does nothing."""
    if path is not None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")


def _writable(text: str) -> Path:
    # A benchmark runs for minutes: a path that cannot be written is refused before it, not after.
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file in an existing folder")
    return path
