"""A bound on the requests in flight."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import overloaded, unavailable


class Admission:
    """Counts requests in flight, refuses those beyond the limit, and waits for the last one when the gateway leaves."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.running = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def check(self, requests: int = 1) -> None:
        """Raises ApiError 429 or 503 when that number of requests would not be taken now."""
        if self._draining:
            raise unavailable("This gateway is shutting down.", 1.0, FailureCode.DRAINING)
        if self.running + requests > self._limit:
            more = f", and this is {requests} more" if requests > 1 else ""
            raise overloaded(f"This gateway already has {self.running} requests in flight, of at most {self._limit}{more}.", 1.0)

    @contextmanager
    def enter(self, requests: int = 1) -> Iterator[None]:
        """Counts a request, or each further choice of one, until it ends. Raises ApiError as `check` does."""
        self.check(requests)
        self.running += requests
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= requests
            if not self.running:
                self._idle.set()

    async def drain(self) -> None:
        self._draining = True
        await self._idle.wait()
