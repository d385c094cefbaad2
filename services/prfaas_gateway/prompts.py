"""From messages or text to token ids, for one model."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime
from typing import Any, Final

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.types import ChatMessage

INLINE_CHARS: Final = 2000
"""Longer prompts are tokenized off the event loop; a hop to a thread costs about as much as this many characters."""
INLINE_MESSAGES: Final = 32
"""The same for the template: it renders about as slowly, message by message."""


class Prompts:
    def __init__(self, tokenizer: Tokenizer, chat_template: str, executor: Executor | None = None) -> None:
        """`chat_template` is Jinja source as models ship it, run in a sandbox: it comes with the weights, not from us."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self._template = environment.from_string(chat_template)
        self._tokenizer = tokenizer
        self._vocabulary_size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self._executor = executor

    async def of_messages(self, messages: list[ChatMessage]) -> list[int]:
        """Raises ApiError when the template refuses the messages."""
        if len(messages) <= INLINE_MESSAGES:
            return await self._encode(self.render(messages))
        return await self._off_loop(lambda: self._token_ids(self.render(messages)))

    async def of_prompt(self, prompt: str | list[int]) -> list[int]:
        """Raises ApiError for a token id that is not in the vocabulary."""
        if isinstance(prompt, str):
            return await self._encode(prompt)
        for token_id in (min(prompt, default=0), max(prompt, default=0)):
            if not 0 <= token_id < self._vocabulary_size:
                at = prompt.index(token_id)
                message = f"Token id {token_id} at position {at} is not in the vocabulary of {self._vocabulary_size} tokens."
                raise invalid(message, "prompt", FailureCode.INVALID_VALUE)
        return prompt

    def render(self, messages: list[ChatMessage]) -> str:
        """`bos_token` is not defined in the template, so it renders as nothing: the tokenizer adds it, exactly once."""
        try:
            return self._template.render(messages=[_message(message) for message in messages], add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise invalid(f"The model's chat template does not take these messages: {error}.", "messages") from error

    async def _encode(self, text: str) -> list[int]:
        if len(text) <= INLINE_CHARS:
            return self._token_ids(text)
        return await self._off_loop(lambda: self._token_ids(text))

    async def _off_loop(self, work: Callable[[], list[int]]) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _token_ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


def _message(message: ChatMessage) -> dict[str, Any]:
    # Templates know `system`; `developer` is its newer name.
    fields: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.name is not None:
        fields["name"] = message.name
    return fields


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """Jinja's own filter escapes for HTML, which models have not seen in training."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
