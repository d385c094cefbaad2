"""The dialects that the gateway speaks, by the names of their endpoints in metrics and logs."""

from typing import Final

from prfaas_gateway.anthropic.dialect import COUNT_TOKENS, MESSAGES
from prfaas_gateway.dialect import Dialect
from prfaas_gateway.openai.dialect import CHAT, COMPLETIONS
from prfaas_gateway.openai.responses.dialect import RESPONSES

DIALECTS: Final[dict[str, Dialect]] = {
    "chat.completions": CHAT,
    "completions": COMPLETIONS,
    "responses": RESPONSES,
    "messages": MESSAGES,
    "messages.count_tokens": COUNT_TOKENS,
}
