"""Pages of processes on this machine: metrics, readiness, nats-server's monitoring."""

import asyncio
import urllib.error
import urllib.request
from typing import NamedTuple

PAGE_TIMEOUT_S = 30.0
# Whatever proxy the environment names, it does not lead to this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Page(NamedTuple):
    status: int
    text: str


async def local_page(port: int, path: str, timeout_s: float = PAGE_TIMEOUT_S) -> Page:
    """Fetches `path` from 127.0.0.1. Raises OSError when nothing answers."""

    def fetch() -> Page:
        try:
            with _OPENER.open(f"http://127.0.0.1:{port}{path}", timeout=timeout_s) as response:
                return Page(response.status, response.read().decode())
        except urllib.error.HTTPError as refused:
            with refused:
                return Page(refused.code, refused.read().decode())

    return await asyncio.to_thread(fetch)
