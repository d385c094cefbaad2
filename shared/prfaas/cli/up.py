"""Run the sites of one description on this machine, in the foreground, until Ctrl-C.

Without a description it is the demo: a pd site, and a site that only prefills behind an emulated link. A process that dies is
started again. A second Ctrl-C stops at once; SIGUSR1 rotates all keys and certificates.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from prfaas.cli import UsageError
from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.engine.weights import prepare
from prfaas.process import interruption
from prfaas.stack.foreground import run_in_foreground
from prfaas.stack.launch import DEMO, RUN_DIRECTORY, START_ERRORS, describe, emulated, fresh_directory, say
from prfaas.stack.taken_ports import taken_ports


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sites", type=Path, default=DEMO, help="description of the sites (default: the demo's)")
    parser.add_argument("--model", help="instead of the description's")
    parser.add_argument("--emulated", action="store_true", help="engines without torch and weights, which answer nonsense")
    parser.add_argument("--port", type=int, default=8000, help="of the gateway (default 8000)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.emulated and arguments.model not in (None, *EMULATED_MODELS):
        raise UsageError(f"--emulated has models of its own, {' and '.join(EMULATED_MODELS)}, and no {arguments.model}.")
    try:
        description = describe(arguments.sites, arguments.model, arguments.port)
        if arguments.emulated or arguments.model in EMULATED_MODELS:
            description = emulated(description)
        if taken := taken_ports(description):
            raise UsageError(f"{taken}.")
        with _only_one(RUN_DIRECTORY / "up.lock"):
            say(f"preparing {description.model}")
            prepare(description.model)
            return interruption.run(run_in_foreground(description, fresh_directory("up")))
    except START_ERRORS as error:
        raise UsageError(str(error)) from error


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Holds the lock of this working directory: a second run would delete the files of the first. Raises UsageError."""
    try:
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path).acquire(timeout=0)
    except Timeout:
        raise UsageError(f"another `prfaas up` runs in {Path.cwd()}: stop it, or start this one in another folder.") from None
    except OSError as error:
        raise UsageError(f"the folder {path.parent} cannot be used: {error.strerror}.") from error
    with lock:
        yield
