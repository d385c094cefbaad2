"""The `prfaas` command. A sub-command is a module of this package, listed in COMMANDS, with

    def add_arguments(parser: argparse.ArgumentParser) -> None    and    def run(arguments: argparse.Namespace) -> int

The first line of its docstring is its help, and `run` returns the exit status."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from prfaas import __version__
from prfaas.cli import UsageError
from prfaas.process.interruption import INTERRUPTED

EXTRAS = {"scipy": "plan", "torch": "torch", "transformers": "torch"}
"""Extra of the distribution by the library that it brings; all others are those of `replay`."""
COMMANDS = ("ask", "chat", "inspect", "keys", "plan", "profile", "replay", "report", "site", "sweep", "top", "up")


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return _main(argv)
    except KeyboardInterrupt:
        print("prfaas: interrupted.", file=sys.stderr)
        return INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="prfaas", description="Prefill-as-a-Service: plan deployments, replay traffic against them, and keep keys."
    )
    parser.add_argument("--version", action="version", version=f"prfaas {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in COMMANDS:
        try:
            module = importlib.import_module(f"prfaas.cli.{name}")
        except ModuleNotFoundError as error:
            _add_absent(commands, name, error)
            continue
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, absent=False)
    arguments, rest = parser.parse_known_args(argv)
    if rest and not arguments.absent:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name in a file may have letters that the terminal has not
    try:
        status = int(arguments.run(arguments))
        if sys.stdout is not None:  # it is None where the shell closed it
            sys.stdout.flush()
        return status
    except UsageError as error:
        print(f"prfaas {arguments.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `prfaas plan ... | head`: the reader has enough. Without this the interpreter complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _add_absent(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, error: ModuleNotFoundError) -> None:
    """Adds a command whose libraries are not installed: it says which, whatever it is asked."""
    if (error.name or "").partition(".")[0] == "prfaas":
        raise error
    extra = EXTRAS.get((error.name or "").partition(".")[0], "replay")
    needs = f"needs {error.name}: pip install 'prfaas[{extra}]'"

    def run(arguments: argparse.Namespace) -> int:
        raise UsageError(f"{needs}.")

    command = commands.add_parser(name, help=needs, add_help=False)
    command.set_defaults(run=run, absent=True)


if __name__ == "__main__":
    sys.exit(main())
