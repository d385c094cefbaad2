"""The time that a client gives its request until the first token."""

import asyncio
from collections.abc import Awaitable
from typing import Self, TypeVar

from starlette.datastructures import Headers

from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.http.headers import ttft_deadline_of
from prfaas_gateway.job import too_late

Result = TypeVar("Result")


class Deadline:
    """Time that runs from now on."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.at = asyncio.get_running_loop().time() + timeout_s

    @classmethod
    def of(cls, headers: Headers, config: GatewayConfig) -> Self:
        """Raises ApiError for a header that is no time, or a longer one than there is."""
        return cls(ttft_deadline_of(headers, config.ttft_deadline_s, config.max_ttft_deadline_s))

    async def holds(self, work: Awaitable[Result], awaited: str = "first token") -> Result:
        """Returns the work's result. Raises ApiError after the deadline, which says that there is nothing `awaited`."""
        try:
            async with asyncio.timeout_at(self.at):
                return await work
        except TimeoutError as error:
            raise too_late(self.timeout_s, awaited) from error
