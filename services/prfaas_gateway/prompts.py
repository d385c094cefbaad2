"""Chat template and tokenizer of one model: messages or text in, token ids out."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Final, TypeVar

from tokenizers import Tokenizer, decoders, normalizers

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.chat_template import PLAIN, ChatTemplate, Rendering
from prfaas_gateway.openai.errors import context_exceeded, invalid
from prfaas_gateway.openai.types import ChatMessage, ChatRequest, CompletionRequest
from prfaas_gateway.turns import Turns

Result = TypeVar("Result")

INLINE_CHARS: Final = 2000
"""Longer prompts are tokenized off the event loop. A hop to a thread costs about as much as this many characters."""
INLINE_MESSAGES: Final = 32
"""More messages are rendered off the event loop."""


class Prompts:
    def __init__(
        self,
        tokenizer: Tokenizer,
        chat_template: str | None,
        executor: Executor | None = None,
        context_tokens: int | None = None,
        turns: Turns | None = None,
        *,
        special_tokens: Mapping[str, str] | None = None,
        vocabulary_tokens: int | None = None,
    ) -> None:
        """`chat_template` and `special_tokens` are those of ChatTemplate. None: chats are refused.

        `vocabulary_tokens`: tokens that the model has, where it may have fewer than its tokenizer.

        Prompts of `context_tokens` and more are refused before they are tokenized where that can be known. `turns` are those of
        the executor's threads."""
        self._template = None if chat_template is None else ChatTemplate(chat_template, special_tokens or {})
        self._tokenizer = tokenizer
        tokenizer_tokens: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self._vocabulary_size = min(tokenizer_tokens, vocabulary_tokens or tokenizer_tokens)
        self._may_exceed = tokenizer_tokens > self._vocabulary_size
        self._executor = executor
        self._turns = turns or Turns()
        self._context_tokens = context_tokens
        self._longest_token_chars = _longest_token_chars(tokenizer)

    async def of_messages(self, messages: list[ChatMessage], tenant: str = "", rendering: Rendering = PLAIN) -> list[int]:
        """Raises ApiError when the template refuses the messages, or they cannot fit into the context."""
        if len(messages) > INLINE_MESSAGES:
            return await self._off_loop(lambda: self._of_messages(messages, rendering), tenant)
        text = self.render(messages, rendering)
        if len(text) <= INLINE_CHARS:
            return self._of_rendered(text)
        return await self._off_loop(lambda: self._of_rendered(text), tenant)

    async def of_prompts(self, prompts: Sequence[str | list[int]], tenant: str = "") -> list[list[int]]:
        """Raises ApiError for a token id that is not in the vocabulary, and for what cannot fit into the context."""
        if sum(len(prompt) for prompt in prompts if isinstance(prompt, str)) <= INLINE_CHARS:
            return [self._of_prompt(prompt) for prompt in prompts]
        return await self._off_loop(lambda: [self._of_prompt(prompt) for prompt in prompts], tenant)

    def of_request(self, request: ChatRequest | CompletionRequest) -> list[list[int]]:
        """Tokenizes each prompt in the calling thread. Raises ApiError."""
        if isinstance(request, ChatRequest):
            return [self._of_messages(request.messages, Rendering.of(request))]
        return [self._of_prompt(prompt) for prompt in request.prompts]

    async def bad_words(self, words: Sequence[str], tenant: str = "") -> tuple[tuple[int, ...], ...]:
        """Returns the tokens of each word, as it begins a text and as it follows a space. Raises ApiError."""
        if sum(map(len, words)) <= INLINE_CHARS:
            return self._bad_words(words)
        return await self._off_loop(lambda: self._bad_words(words), tenant)

    def text_ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Tokenizes a text of any length in the calling thread: it is counted, not answered. Raises ApiError."""
        return self._encoded(text, "prompt", add_special_tokens=add_special_tokens)

    def message_ids(self, messages: list[ChatMessage], rendering: Rendering, *, add_special_tokens: bool) -> list[int]:
        """Renders and tokenizes messages of any length in the calling thread, as `of_messages` does. Raises ApiError."""
        return self._encoded(self.render(messages, rendering), "messages", add_special_tokens=add_special_tokens)

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Returns the vocabulary's spelling of each token."""
        return [self._tokenizer.id_to_token(token_id) or "" for token_id in token_ids]

    def text_of(self, token_ids: Sequence[int]) -> str:
        """Decodes in the calling thread; special tokens are part of the text. Raises ApiError for a token that there is not."""
        self.check_vocabulary(token_ids, "tokens")
        # Unlike `decode`, it lets other threads run while it works.
        text: str = self._tokenizer.decode_batch([token_ids], skip_special_tokens=False)[0]
        return text

    async def aside(self, work: Callable[[], Result], tenant: str) -> Result:
        """Runs work on the tokenizer's threads, where tenants take turns."""
        return await self._off_loop(work, tenant)

    def _bad_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        texts = [text for word in words for text in ((word.strip(), f" {word.strip()}") if word.strip() else (word,))]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False) if texts else []
        found = dict.fromkeys(tuple(encoding.ids) for encoding in encodings if encoding.ids)
        for token_ids in found:
            self.check_vocabulary(token_ids, "bad_words")
        return tuple(found)

    def render(self, messages: list[ChatMessage], rendering: Rendering = PLAIN) -> str:
        """Raises ApiError when there is no template, or it refuses the messages."""
        if self._template is None:
            message = "This model has no chat template, so it takes no messages: use /v1/completions."
            raise invalid(message, "messages", FailureCode.INVALID_VALUE)
        return self._template.render(messages, rendering)

    def _of_messages(self, messages: list[ChatMessage], rendering: Rendering) -> list[int]:
        # Every message has a token at the least: its role, or what ends it.
        if self._context_tokens is not None and len(messages) >= self._context_tokens:
            raise context_exceeded(self._context_tokens, f"{len(messages)} messages", "messages")
        return self._of_rendered(self.render(messages, rendering))

    def _of_rendered(self, text: str) -> list[int]:
        # The template writes all special tokens itself: the tokenizer must not add a second one at the beginning.
        return self._token_ids(text, "messages", add_special_tokens=False)

    def _of_prompt(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            return self._token_ids(prompt, "prompt")
        if self._context_tokens is not None and len(prompt) >= self._context_tokens:
            raise context_exceeded(self._context_tokens, str(len(prompt)), "prompt")
        self.check_vocabulary(prompt, "prompt")
        return prompt

    def _token_ids(self, text: str, param: str, *, add_special_tokens: bool = True) -> list[int]:
        if self._context_tokens is not None and self._longest_token_chars is not None:
            least_tokens = -(-len(text) // self._longest_token_chars)
            if least_tokens >= self._context_tokens:
                raise context_exceeded(self._context_tokens, f"at least {least_tokens} ({len(text)} characters)", param)
        return self._encoded(text, param, add_special_tokens=add_special_tokens)

    def _encoded(self, text: str, param: str, *, add_special_tokens: bool) -> list[int]:
        # Unlike `encode`, it lets other threads run while it works.
        ids: list[int] = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
        if self._may_exceed:
            self.check_vocabulary(ids, param)
        return ids

    def check_vocabulary(self, token_ids: Sequence[int], param: str) -> None:
        """Raises ApiError for a token that the model does not have."""
        for token_id in (min(token_ids, default=0), max(token_ids, default=0)):
            if not 0 <= token_id < self._vocabulary_size:
                at = token_ids.index(token_id)
                message = f"Token id {token_id} at position {at} is not in the vocabulary of {self._vocabulary_size} tokens."
                raise invalid(message, param, FailureCode.INVALID_VALUE)

    async def _off_loop(self, work: Callable[[], Result], tenant: str) -> Result:
        with self._turns.joined(tenant) as turn:
            await turn.granted.wait()
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def _longest_token_chars(tokenizer: Tokenizer) -> int | None:
    """Returns the most characters that one token stands for. None: a token may stand for any number."""
    by_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel) or getattr(tokenizer.model, "byte_fallback", False)
    keeps_length = tokenizer.normalizer is None or isinstance(tokenizer.normalizer, normalizers.Replace | normalizers.Prepend)
    strips = any(token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values())
    # An unknown token, a normalizer or a token that takes the spaces beside it may swallow text of any length.
    if not by_bytes or not keeps_length or strips:
        return None
    return max(map(len, tokenizer.get_vocab(with_added_tokens=True)))
