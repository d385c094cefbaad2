"""Answers of `/tokenize` and `/detokenize`, by the template and the tokenizer of the endpoints that generate."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.chat_template import Rendering
from prfaas_gateway.openai.errors import invalid, unknown_model
from prfaas_gateway.openai.tokenizing import TokenizingRequest
from prfaas_gateway.openai.types import (
    CountTokensAnswer,
    CountTokensRequest,
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeChatRequest,
)
from prfaas_gateway.prompts import Prompts

Model = TypeVar("Model")


def chosen_model(name: str | None, models: Mapping[str, Model]) -> Model:
    """Returns the model of a name, which a request may leave out where one is served. Raises ApiError."""
    if name is None:
        if len({id(model) for model in models.values()}) > 1:
            message = "Missing required parameter: `model`, since several are served."
            raise invalid(message, "model", FailureCode.MISSING_REQUIRED_PARAMETER)
        return next(iter(models.values()))
    if name not in models:
        raise unknown_model(name, list(models))
    return models[name]


def encoded_answer(request: TokenizingRequest, prompts: Prompts, context_tokens: int) -> bytes:
    """Returns the answer's body, made in the calling thread. Raises ApiError."""
    if isinstance(request, DetokenizeRequest):
        return msgspec.json.encode(DetokenizeAnswer(prompt=prompts.text_of(request.tokens)))
    if isinstance(request, TokenizeChatRequest):
        rendering = Rendering.of(request)
        token_ids = prompts.message_ids(request.messages, rendering, add_special_tokens=request.add_special_tokens)
        if isinstance(request, CountTokensRequest):
            return msgspec.json.encode(CountTokensAnswer(input_tokens=len(token_ids)))
    else:
        token_ids = prompts.text_ids(request.prompt, add_special_tokens=request.add_special_tokens)
    answer = TokenizeAnswer(
        count=len(token_ids),
        max_model_len=context_tokens,
        tokens=token_ids,
        token_strs=prompts.token_strings(token_ids) if request.return_token_strs else None,
    )
    return msgspec.json.encode(answer)
