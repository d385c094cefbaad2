"""Reading of one request: from the bytes of its body to its prompts in tokens, before its first token is due."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.datastructures import Headers

from prfaas_gateway.chat_template import Rendering
from prfaas_gateway.dialects import DIALECTS
from prfaas_gateway.http.gateway import Gateway
from prfaas_gateway.http.headers import ttft_deadline_of
from prfaas_gateway.job import too_late
from prfaas_gateway.large_requests import LARGE_BODY_BYTES, LargeRequest
from prfaas_gateway.models import ServedModel
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest

Result = TypeVar("Result")


class Reading:
    def __init__(self, gateway: Gateway, endpoint: str, headers: Headers, tenant: str) -> None:
        """`tenant` is its label. Raises ApiError for a deadline that is none."""
        self._gateway = gateway
        self._endpoint = endpoint
        self._tenant = tenant
        config = gateway.config
        self.ttft_deadline_s = ttft_deadline_of(headers, config.ttft_deadline_s, config.max_ttft_deadline_s)
        self.deadline_at = asyncio.get_running_loop().time() + self.ttft_deadline_s
        """End of `ttft_deadline_s` on the event loop's clock, s."""

    async def parsed(self, data: bytes) -> tuple[ChatRequest | CompletionRequest, list[list[int]] | None]:
        """Returns the request, and its prompts' tokens where the process for large requests has made them already.

        Raises ApiError, as the two below do."""
        if len(data) <= LARGE_BODY_BYTES:
            return DIALECTS[self._endpoint].parse(data), None
        large = LargeRequest(self._endpoint, data)
        return await self.in_time(self._gateway.large_requests.read(large, self._tenant))

    async def tokenized(
        self, request: ChatRequest | CompletionRequest, model: ServedModel, rendering: Rendering
    ) -> list[list[int]]:
        """Returns the tokens of each prompt."""
        if isinstance(request, ChatRequest):
            return [await self.in_time(model.prompts.of_messages(request.messages, self._tenant, rendering))]
        return await self.in_time(model.prompts.of_prompts(request.prompts, self._tenant))

    async def in_time(self, work: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout_at(self.deadline_at):
                return await work
        except TimeoutError as error:
            raise too_late(self.ttft_deadline_s) from error
