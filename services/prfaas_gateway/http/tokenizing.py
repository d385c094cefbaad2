"""One request of `/tokenize`, `/detokenize` or `/v1/messages/count_tokens`."""

from prfaas_gateway.dialects import TOKENIZING_PARSERS
from prfaas_gateway.http.arrival import Arrival
from prfaas_gateway.http.deadline import Deadline
from prfaas_gateway.http.gateway import Gateway
from prfaas_gateway.http.io import Body
from prfaas_gateway.large_requests import LARGE_BODY_BYTES, LargeRequest
from prfaas_gateway.prompts import INLINE_CHARS
from prfaas_gateway.tokenizing import encoded_answer


class TokenizingExchange:
    """One request whose body has arrived."""

    def __init__(self, gateway: Gateway, endpoint: str, arrival: Arrival) -> None:
        """`endpoint` is a key of TOKENIZING_PARSERS. Raises ApiError for a deadline that is none."""
        self._gateway = gateway
        self._endpoint = endpoint
        self._reply = arrival.reply
        self._tenant = arrival.tenant.label
        self._deadline = Deadline.of(arrival.headers, gateway.config)

    async def answer(self, body: Body) -> None:
        """Raises ApiError, ClientGoneError."""
        data = body.take()
        if len(data) <= LARGE_BODY_BYTES:
            answer = await self._deadline.holds(self._of_small(data), "answer")
        else:
            large = LargeRequest(self._endpoint, data, self._gateway.config.ignore_unknown_fields)
            work = self._gateway.large_requests.tokenized(large, self._tenant)
            tokenized = await self._deadline.holds(work, "answer")
            self._gateway.ignored(tokenized.unknown)
            answer = tokenized.body
        body.forget()
        await self._reply.json(200, [answer], {})

    async def _of_small(self, data: bytes) -> bytes:
        unknown = self._gateway.unknown_fields()
        request = TOKENIZING_PARSERS[self._endpoint](data, unknown)
        self._gateway.ignored(unknown)
        model = self._gateway.model(request.model)
        if len(data) <= INLINE_CHARS:  # text, messages and ids are no more than the body
            return encoded_answer(request, model.prompts, model.context_tokens)
        work = lambda: encoded_answer(request, model.prompts, model.context_tokens)  # noqa: E731
        return await model.prompts.aside(work, self._tenant)
