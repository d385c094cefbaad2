"""The answer to a request for several choices, from their events: in one body, or in chunks that name their choice."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from prfaas.contracts.to_gateway import GenerateEvent, Started
from prfaas_gateway.generation import Generation
from prfaas_gateway.http.io import Reply
from prfaas_gateway.openai.answers import AnswerHead, StreamedAnswer, UsageOptions, WholeAnswer, best_of_each, whole_body
from prfaas_gateway.openai.choices import Choices
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.several import ChoiceEvent, SeveralGenerations


@dataclass(frozen=True, kw_only=True)
class SeveralChoices:
    """One exchange with several choices. Headers and `usage.prfaas` tell of the first."""

    reply: Reply
    head: AnswerHead
    choices: Choices
    generations: SeveralGenerations
    placed: Callable[[int, Generation], None]
    follow: Callable[[int, Progress, Generation], None]
    heard: Callable[[int, GenerateEvent], None]
    headers: Callable[[Started], Mapping[str, str]]

    async def stream(self, options: UsageOptions, headers: Mapping[str, str]) -> None:
        """Begins the response with the first choice that begins. Raises what the generations raise, and EventGapError."""
        answers = [
            StreamedAnswer(head=self.head, progress=progress, options=options, index=index, choices=self.choices)
            for index, progress in enumerate(self.choices.progresses)
        ]
        async for index, event in self._events():
            data = answers[index].handle(event)
            self.heard(index, event)
            if isinstance(event, Started) and self.reply.status is None:
                await self.reply.start(200, {**self.headers(event), **headers})
            if data:
                await self.reply.write(data, last=self.choices.over)

    async def collect(self, *, kept: int, report: bool, shows_logprobs: bool) -> None:
        """Sends the `kept` best choices of each prompt. Raises what the generations raise, and EventGapError."""
        answers = [
            WholeAnswer(head=self.head, progress=progress, report=report, shows_logprobs=shows_logprobs)
            for progress in self.choices.progresses
        ]
        async for index, event in self._events():
            answers[index].handle(event)
            self.heard(index, event)
        first = self.choices.first.latest
        assert first is not None
        per_prompt = self.choices.per_prompt
        chosen = answers if kept == per_prompt else best_of_each(answers, per_prompt=per_prompt, kept=kept)
        await self.reply.json(200, whole_body(chosen, self.choices), self.headers(first))

    async def _events(self) -> AsyncIterator[tuple[int, GenerateEvent]]:
        event: ChoiceEvent
        async for event in self.generations:
            if event.event is None:
                self.placed(event.choice, event.generation)
                continue
            self.follow(event.choice, self.choices.progresses[event.choice], event.generation)
            yield event.choice, event.event
