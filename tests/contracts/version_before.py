"""Messages of the version before, written by its own code: `python -m tests.contracts.version_before COMMIT`.

They are written anew at a release, with the commit of the release before, and after a change of messages that the changelog
announces as one for which all processes are updated together. At no other time: they hold messages to growing only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from prfaas.contracts.wire import encode
from tests.contracts.samples import messages, sample

ROOT = Path(__file__).parents[2]
_MODULE = "tests.contracts.version_before"
FILE = Path(__file__).with_name("version_before.json")


class Written(NamedTuple):
    """One message in the bytes of the version before."""

    whole: bytes
    """Message with every field."""
    least: bytes
    """Message with its required fields only."""


def commit() -> str:
    """Returns the commit that counts as the version before."""
    found: str = json.loads(FILE.read_text())["commit"]
    return found


def written() -> dict[str, Written]:
    """Returns the messages of the version before by name."""
    listed = json.loads(FILE.read_text())["messages"]
    return {name: Written(bytes.fromhex(each["whole"]), bytes.fromhex(each["least"])) for name, each in listed.items()}


def lay_out(commit: str, directory: Path) -> dict[str, str]:
    """Writes the sources of a commit into a folder. Returns the environment in which Python imports them, not this tree's."""
    archive = ["git", "archive", "--format=tar", commit, "services", "shared"]
    packed = subprocess.run(archive, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    subprocess.run(["tar", "-x", "-C", str(directory)], input=packed, check=True, timeout=60)
    return {"PYTHONPATH": os.pathsep.join(str(directory / part) for part in ("services", "shared"))}


def _samples() -> dict[str, dict[str, str]]:
    """Returns sample messages of the contracts that are imported, in hexadecimal."""
    return {
        name: {
            key: encode(msgspec.convert(sample(message, whole=key == "whole"), message, builtin_types=(bytes,))).hex()
            for key in Written._fields
        }
        for name, message in sorted(messages().items())
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the commit that is to count as the version before")
    whole = subprocess.run(
        ["git", "rev-parse", parser.parse_args().commit], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as directory:
        environ = os.environ | lay_out(whole, Path(directory))
        environ["PYTHONPATH"] += os.pathsep + str(ROOT)
        script = f"import json; from {_MODULE} import _samples; print(json.dumps(_samples()))"
        printed = subprocess.run(
            [sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True, timeout=60
        )
    FILE.write_text(json.dumps({"commit": whole, "messages": json.loads(printed.stdout)}, indent=1) + "\n")
    print(f"Wrote {FILE.relative_to(ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
