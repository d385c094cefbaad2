"""What all requests share: the models that are served, who may ask, and how many at once."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from tokenizers import Tokenizer

from prfaas.contracts.codes import FailureCode
from prfaas.engine.weights import ModelFiles
from prfaas_gateway.openai.errors import overloaded, unavailable
from prfaas_gateway.prompts import Prompts


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    name: str
    prompts: Prompts
    context_tokens: int
    chat_stop: tuple[str, ...]
    """Where a chat answer ends, beside the client's own stop strings."""
    fingerprint: str
    created: int
    """Unix time, s."""

    @classmethod
    def load(cls, files: ModelFiles, executor: Executor) -> "ServedModel":
        """Blocks: a tokenizer of 262,144 tokens takes about a second to load."""
        return cls(
            name=files.model,
            prompts=Prompts(Tokenizer.from_file(str(files.tokenizer)), files.chat_template, executor),
            context_tokens=files.max_context_tokens,
            chat_stop=files.chat_stop,
            fingerprint=f"fp_{files.weights_xxh3_128[:12]}",
            created=int(time.time()),
        )


class Admission:
    """Bounds the requests in flight, and waits for them when the gateway leaves."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.running = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Raises ApiError 429 or 503."""
        if self._draining:
            raise unavailable("This gateway is shutting down.", 1.0, FailureCode.DRAINING)
        if self.running >= self._limit:
            raise overloaded(f"This gateway already has {self._limit} requests in flight.", 1.0)
        self.running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            if not self.running:
                self._idle.set()

    async def drain(self) -> None:
        self._draining = True
        await self._idle.wait()
