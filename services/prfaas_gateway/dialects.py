"""The dialects that the gateway speaks, by the names of their endpoints in metrics and logs."""

from collections.abc import Callable
from typing import Final

from prfaas_gateway.anthropic.dialect import MESSAGES
from prfaas_gateway.anthropic.requests import parse_count
from prfaas_gateway.dialect import Dialect
from prfaas_gateway.openai.dialect import CHAT, COMPLETIONS
from prfaas_gateway.openai.responses.dialect import RESPONSES
from prfaas_gateway.openai.tokenizing import TokenizingRequest, parse_detokenize, parse_tokenize
from prfaas_gateway.openai.unknown_fields import UnknownFields

DIALECTS: Final[dict[str, Dialect]] = {
    "chat.completions": CHAT,
    "completions": COMPLETIONS,
    "messages": MESSAGES,
    "responses": RESPONSES,
}
"""Dialects of the endpoints that generate."""
TOKENIZING_PARSERS: Final[dict[str, Callable[[bytes, UnknownFields | None], TokenizingRequest]]] = {
    "tokenize": parse_tokenize,
    "detokenize": parse_detokenize,
    "messages.count_tokens": parse_count,
}
"""Parsers of the endpoints that tokenize and generate nothing."""
