"""Log-probabilities of an answer in the two shapes of OpenAI's API."""

from collections.abc import Sequence

import msgspec

from prfaas.contracts.to_gateway import TokenDetail, TokenLogprob
from prfaas_gateway.openai.encoded_list import EncodedList
from prfaas_gateway.openai.types import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob


class ChatLogprobsGathered:
    """Log-probabilities of a chat answer."""

    def __init__(self) -> None:
        self.entries = EncodedList()
        """One encoded ChatLogprob per token."""

    def add(self, details: Sequence[TokenDetail]) -> None:
        for detail in details:
            self.entries.append(_chat_logprob(detail))

    def block(self, entries: msgspec.Raw) -> ChatLogprobs | None:
        """Returns the field `logprobs` around the entries; None without any."""
        return ChatLogprobs(content=entries) if self.entries else None


class CompletionLogprobsGathered:
    """Log-probabilities of a plain completion."""

    def __init__(self) -> None:
        self.entries = EncodedList()
        """One object per token: the log-probability of each alternative by its text."""
        self._tokens: list[str] = []
        self._token_logprobs: list[float] = []
        self._text_offset: list[int] = []
        self._has_alternatives = False

    def add(self, details: Sequence[TokenDetail]) -> None:
        for detail in details:
            self._tokens.append(_completion_token(detail.chosen))
            self._token_logprobs.append(detail.chosen.logprob)
            self._text_offset.append(detail.text_offset)
            self._has_alternatives = self._has_alternatives or bool(detail.top)
            self.entries.append(_tops_by_text(detail) if detail.top else {})

    def block(self, entries: msgspec.Raw) -> CompletionLogprobs | None:
        """Returns the field `logprobs` around the entries; None without any token."""
        if not self._tokens:
            return None
        return CompletionLogprobs(
            tokens=self._tokens,
            token_logprobs=self._token_logprobs,
            # `logprobs: 0` asks for the chosen tokens only.
            top_logprobs=entries if self._has_alternatives else None,
            text_offset=self._text_offset,
        )


def _tops_by_text(detail: TokenDetail) -> dict[str, float]:
    """Returns the log-probabilities of the likeliest tokens and of the chosen one, by their text.

    Several tokens may have one text. The chosen token has it then, else the likeliest one. The others go by `token_id:N`, as vLLM
    names tokens by id."""
    chosen_text = _completion_token(detail.chosen)
    tops: dict[str, float] = {}
    for item in (*detail.top, detail.chosen):
        text = _completion_token(item)
        if item.token_id != detail.chosen.token_id and (text == chosen_text or text in tops):
            text = f"token_id:{item.token_id}"
        tops[text] = item.logprob
    return tops


def _completion_token(item: TokenLogprob) -> str:
    """Returns a token's text. A part of a character is `bytes:` and its bytes, as OpenAI's completions spell it."""
    return item.token if bytes(item.bytes) in (b"", item.token.encode()) else f"bytes:{item.token}"


def _chat_logprob(detail: TokenDetail) -> ChatLogprob:
    top = [TopLogprob(token=item.token, logprob=item.logprob, bytes=_bytes(item)) for item in detail.top]
    chosen = detail.chosen
    return ChatLogprob(token=chosen.token, logprob=chosen.logprob, bytes=_bytes(chosen), top_logprobs=top)


def _bytes(item: TokenLogprob) -> tuple[int, ...] | None:
    return item.bytes or None
