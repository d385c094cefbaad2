"""Choices of one request: which prompt each continues, with which seed, and what all of them together have used. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import xxhash
from msgspec import UNSET

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest, PromptTokensDetails, Usage


def check_choices(request: ChatRequest | CompletionRequest, max_choices: int) -> None:
    """Raises ApiError where a request asks for more choices than are allowed."""
    prompts = 1 if isinstance(request, ChatRequest) else len(request.prompts)
    choices = prompts * request.choices_per_prompt
    if choices <= max_choices:
        return
    param = "prompt" if request.choices_per_prompt == 1 else "n"
    if isinstance(request, CompletionRequest) and request.best_of is not None:
        param = "best_of"
    counted = f"{request.choices_per_prompt} for each of {prompts} prompts" if prompts > 1 else "for one prompt"
    message = f"`{param}` asks for {choices} answers, {counted}; this server gives at most {max_choices} a request."
    raise invalid(message, param, FailureCode.INVALID_VALUE)


def seed_of(seed: int | None, choice: int) -> int | None:
    """Returns the seed of one of a prompt's choices: the first one has the request's own."""
    return seed if seed is None or choice == 0 else xxhash.xxh3_64_intdigest(f"{seed}:{choice}".encode())


@dataclass(frozen=True)
class Choices:
    """Progress of each choice, by its index: all choices of the first prompt, then those of the next."""

    progresses: Sequence[Progress]
    per_prompt: int = 1

    @cached_property
    def first(self) -> Progress:
        """The first choice, which headers and reports tell of."""
        return self.progresses[0]

    @property
    def over(self) -> bool:
        return all(progress.over for progress in self.progresses)

    @property
    def moves(self) -> int:
        return sum(progress.moves for progress in self.progresses)

    def all_detours(self) -> dict[str, int]:
        """Returns the times of each detour of all choices."""
        if len(self.progresses) == 1:
            return self.first.all_detours()
        return dict(sum((Counter(progress.all_detours()) for progress in self.progresses), Counter[str]()))

    def usage(self, *, report: bool = False) -> Usage:
        """Returns the token counts up to now, as OpenAI counts: each prompt once, and the tokens of all choices.

        `usage.prfaas` is that of the first choice."""
        if len(self.progresses) == 1:
            return self.first.usage(report=report)
        of_prompts = self.progresses[:: self.per_prompt]
        prompt_tokens = sum(progress.prompt_tokens for progress in of_prompts)
        completion_tokens = sum(progress.completion_tokens for progress in self.progresses)
        cached_tokens = sum(progress.latest.cached_tokens for progress in of_prompts if progress.latest is not None)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
            prfaas=self.first.usage(report=True).prfaas if report and self.first.finished is not None else UNSET,
        )
