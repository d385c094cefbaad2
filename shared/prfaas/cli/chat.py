"""Chat with a gateway's model, and show of each answer where its prompt was prefilled.

A line is a message; Ctrl-D ends the chat. An answer goes to stdout as it comes, and one line about it to stderr. The API key is
that of $OPENAI_API_KEY.
"""

import argparse
import sys

from prfaas.cli.asking import Asker, Messages, add_gateway_arguments, told_errors
from prfaas.console.answer import AnswerError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="message of the system before all others")
    add_gateway_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    messages: Messages = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    interactive = sys.stdin.isatty()
    try:
        asker = Asker(arguments.url, arguments.model, arguments.max_tokens)
        while (line := _line(interactive)) is not None:
            if not line.strip():
                continue
            asked: Messages = [*messages, {"role": "user", "content": line}]
            try:
                answer = asker.answer(asked)
            except AnswerError as error:
                if not interactive:
                    raise
                # The chat goes on without this message: the next one may be answered.
                told_errors("chat", error)
                continue
            messages = [*asked, {"role": "assistant", "content": answer}]
    except AnswerError as error:
        return told_errors("chat", error)
    return 0


def _line(interactive: bool) -> str | None:
    """Returns the next line, None at the end. Raises AnswerError for one that is no text."""
    try:
        return input("> " if interactive else "")
    except EOFError:
        if interactive:
            print()
        return None
    except UnicodeDecodeError as error:
        raise AnswerError("stdin is no text in the terminal's encoding") from error
