"""Show a running system in the terminal: sites and links, workers, the last requests and their waterfalls.

The same as a gateway's page `/console`, from the same stream. Tab goes to the next table, Enter opens a request, q ends it.
"""

import argparse
import os

from prfaas.cli import UsageError
from prfaas.console.client import ConsoleClient
from prfaas.console.top import Top
from prfaas.process import interruption


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", default="http://127.0.0.1:8000", metavar="URL", help="the gateway; default: %(default)s")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", ""), help="default: $OPENAI_API_KEY")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.target.startswith(("http://", "https://")):
        raise UsageError(f"--target is {arguments.target!r}, expected http://HOST:PORT or https://HOST.")
    refused = interruption.run(_run(arguments.target, arguments.api_key))
    if refused is not None:
        raise UsageError(refused)
    return 0


async def _run(url: str, api_key: str) -> str | None:
    """Returns the reason why the gateway refused it; None: it was ended by hand."""
    client = ConsoleClient(url, api_key)
    try:
        return await Top(client).run_async()
    finally:
        await client.close()
