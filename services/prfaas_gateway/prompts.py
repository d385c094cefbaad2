"""Chat template and tokenizer of one model: messages or text in, token ids out."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from typing import Any, Final, TypeVar

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer, decoders, normalizers

from prfaas.contracts.codes import FailureCode
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
        """`chat_template` is Jinja source as models ship it, run in a sandbox: it comes with the weights, not from us. It may use
        the `special_tokens` by their names. None: chats are refused.

        `vocabulary_tokens`: tokens that the model has, where it may have fewer than its tokenizer.

        Prompts of `context_tokens` and more are refused before they are tokenized where that can be known. `turns` are those of
        the executor's threads."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.globals.update(special_tokens or {})
        self._template = None if chat_template is None else environment.from_string(chat_template)
        self._tokenizer = tokenizer
        tokenizer_tokens: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self._vocabulary_size = min(tokenizer_tokens, vocabulary_tokens or tokenizer_tokens)
        self._may_exceed = tokenizer_tokens > self._vocabulary_size
        self._executor = executor
        self._turns = turns or Turns()
        self._context_tokens = context_tokens
        self._longest_token_chars = _longest_token_chars(tokenizer)

    async def of_messages(self, messages: list[ChatMessage], tenant: str = "") -> list[int]:
        """Raises ApiError when the template refuses the messages, or they cannot fit into the context."""
        if len(messages) > INLINE_MESSAGES:
            return await self._off_loop(lambda: self._of_messages(messages), tenant)
        text = self.render(messages)
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
            return [self._of_messages(request.messages)]
        return [self._of_prompt(prompt) for prompt in request.prompts]

    async def bad_words(self, words: Sequence[str], tenant: str = "") -> tuple[tuple[int, ...], ...]:
        """Returns the tokens of each word, as it begins a text and as it follows a space. Raises ApiError."""
        if sum(map(len, words)) <= INLINE_CHARS:
            return self._bad_words(words)
        return await self._off_loop(lambda: self._bad_words(words), tenant)

    def _bad_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        texts = [text for word in words for text in ((word.strip(), f" {word.strip()}") if word.strip() else (word,))]
        encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False) if texts else []
        found = dict.fromkeys(tuple(encoding.ids) for encoding in encodings if encoding.ids)
        for token_ids in found:
            self.check_vocabulary(token_ids, "bad_words")
        return tuple(found)

    def render(self, messages: list[ChatMessage]) -> str:
        """Raises ApiError when there is no template, or it refuses the messages."""
        if self._template is None:
            message = "This model has no chat template, so it takes no messages: use /v1/completions."
            raise invalid(message, "messages", FailureCode.INVALID_VALUE)
        try:
            return self._template.render(messages=[_message(message) for message in messages], add_generation_prompt=True)
        except jinja2.TemplateError as error:
            message = f"The model's chat template does not take these messages: {error}."
            raise invalid(message, "messages", FailureCode.INVALID_VALUE) from error

    def _of_messages(self, messages: list[ChatMessage]) -> list[int]:
        # Every message has a token at the least: its role, or what ends it.
        if self._context_tokens is not None and len(messages) >= self._context_tokens:
            raise context_exceeded(self._context_tokens, f"{len(messages)} messages", "messages")
        return self._of_rendered(self.render(messages))

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


class Generation(Extension):
    """The block `{% generation %}`, with which templates mark what the model has written. Only training asks for it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 has it so

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

    def _as_it_is(self, caller: Callable[[], str]) -> str:
        return caller()


def _longest_token_chars(tokenizer: Tokenizer) -> int | None:
    """Returns the most characters that one token stands for. None: a token may stand for any number."""
    by_bytes = isinstance(tokenizer.decoder, decoders.ByteLevel) or getattr(tokenizer.model, "byte_fallback", False)
    keeps_length = tokenizer.normalizer is None or isinstance(tokenizer.normalizer, normalizers.Replace | normalizers.Prepend)
    strips = any(token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values())
    # An unknown token, a normalizer or a token that takes the spaces beside it may swallow text of any length.
    if not by_bytes or not keeps_length or strips:
        return None
    return max(map(len, tokenizer.get_vocab(with_added_tokens=True)))


def _message(message: ChatMessage) -> dict[str, Any]:
    # Templates know `system`; `developer` is its newer name.
    fields: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.name is not None:
        fields["name"] = message.name
    return fields


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """Encodes without the escapes for HTML of Jinja's own filter: models have not seen those in training."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
