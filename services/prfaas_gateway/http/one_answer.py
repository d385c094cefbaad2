"""The answer to a request for one choice, from its events: in one body, or in the events of a stream."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prfaas.contracts.to_gateway import GenerateEvent, Started
from prfaas_gateway.dialect import Streamed, Whole
from prfaas_gateway.generation import Generation
from prfaas_gateway.http.io import STREAMING, Reply
from prfaas_gateway.http.pings import PingedReply
from prfaas_gateway.openai.progress import Progress


@dataclass(frozen=True, kw_only=True)
class OneAnswer:
    """One exchange with one choice."""

    reply: Reply
    generation: Generation
    follow: Callable[[int, Progress, Generation], None]
    heard: Callable[[int, GenerateEvent], None]
    headers: Callable[[Started], Mapping[str, str]]

    async def stream(self, answer: Streamed, ping: bytes) -> None:
        """Raises what the generation raises, and EventGapError."""
        self.reply.failure = answer.failed
        async with PingedReply(self.reply, ping) as pinged:
            async for event in self.generation:
                self.follow(0, answer.progress, self.generation)
                data = answer.handle(event)
                self.heard(0, event)
                if isinstance(event, Started):
                    await self.reply.start(200, {**self.headers(event), **STREAMING})
                if data:
                    await pinged.write(data, last=self.generation.over)

    async def collect(self, answer: Whole) -> None:
        """Raises what the generation raises, and EventGapError."""
        async for event in self.generation:
            self.follow(0, answer.progress, self.generation)
            answer.handle(event)
            self.heard(0, event)
        assert answer.progress.latest is not None
        await self.reply.json(200, answer.body(), self.headers(answer.progress.latest))
