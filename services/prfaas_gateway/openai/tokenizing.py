"""Bodies of `/tokenize` and `/detokenize` in, well-formed requests out."""

from typing import Any, Final

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.fields import converted, fields_of
from prfaas_gateway.openai.messages import messages_of
from prfaas_gateway.openai.types import CountTokensRequest, DetokenizeRequest, TokenizeChatRequest, TokenizeRequest
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.openai.unsupported import NEVER, take_unsupported

UNSUPPORTED_IN_TOKENIZE: Final[dict[str, Any]] = {"chat_template": NEVER, "mm_processor_kwargs": NEVER}
"""Fields that vLLM has there, and this server does not."""

TokenizingRequest = TokenizeRequest | TokenizeChatRequest | CountTokensRequest | DetokenizeRequest


def parse_tokenize(body: bytes, unknown: UnknownFields | None = None) -> TokenizeRequest | TokenizeChatRequest:
    """Puts fields that no API has into `unknown`; None: refuses them. Raises ApiError."""
    fields = take_unsupported(fields_of(body), UNSUPPORTED_IN_TOKENIZE)
    if "messages" not in fields:
        return converted(fields, TokenizeRequest, unknown)
    if "prompt" in fields:
        raise invalid("`prompt` and `messages` are both there; send one.", "prompt", FailureCode.INVALID_VALUE)
    return converted(messages_of(fields, unknown), TokenizeChatRequest, unknown)


def parse_detokenize(body: bytes, unknown: UnknownFields | None = None) -> DetokenizeRequest:
    """Puts fields that no API has into `unknown`; None: refuses them. Raises ApiError."""
    return converted(fields_of(body), DetokenizeRequest, unknown)
