"""Ask a gateway about a file, and show where the prompt was prefilled.

The text of the file is sent as one message, with the question behind it. The answer goes to stdout as it comes, and one line
about it to stderr. The API key is that of $OPENAI_API_KEY.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from prfaas.cli.asking import Asker, add_gateway_arguments, told_errors
from prfaas.console.answer import AnswerError

MAX_FILE_BYTES: Final = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="text in UTF-8; - for stdin")
    parser.add_argument("--question", help="stands behind the text; default: the text alone")
    add_gateway_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        text = _text(arguments.file)
        content = text if arguments.question is None else f"{text.rstrip()}\n\n{arguments.question}"
        Asker(arguments.url, arguments.model, arguments.max_tokens).answer([{"role": "user", "content": content}])
    except AnswerError as error:
        return told_errors("ask", error)
    return 0


def _text(name: str) -> str:
    """Raises AnswerError."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise AnswerError(f"{name} has more than {MAX_FILE_BYTES >> 20} MiB, more than any prompt")
        return data.decode()
    except OSError as error:
        raise AnswerError(f"{name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise AnswerError(f"{name} is no text in UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from error
