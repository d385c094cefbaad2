"""Progress of one answer: checks the order of its events and counts its tokens."""

from collections import Counter
from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET

from prfaas.contracts.terms import Detour
from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Started, Tokens
from prfaas_gateway.openai.types import PromptTokensDetails, TransferUsage, Usage


class EventGapError(Exception):
    """An event is missing, repeated or out of order, so text may be missing."""


@dataclass(kw_only=True)
class Progress:
    """State of one answer after the events that it has accepted."""

    prompt_tokens: int
    next_sequence: int = 0
    started: Started | None = None
    finished: Finished | None = None
    failed: Failed | None = None
    completion_tokens: int = 0
    moves: int = 0
    """Times that the request was placed again because its decode worker was lost, or part of its answer."""
    moved_to: Started | None = None
    """Beginning of the latest placement, where the answer goes on somewhere else."""
    detours: Counter[Detour] = field(default_factory=Counter)
    """Detours of the request before its answer's end, which are counted elsewhere."""

    @property
    def over(self) -> bool:
        return self.finished is not None or self.failed is not None

    def accept(self, event: GenerateEvent) -> None:
        """Takes the next event. Raises EventGapError when it is not the one that must follow: the request has to end then."""
        if event.sequence != self.next_sequence:
            raise EventGapError(f"event {self.next_sequence} of the answer was expected, but event {event.sequence} came")
        if self.over:
            raise EventGapError(f"event {event.sequence} came after the answer had ended")
        match event:
            case Failed():
                self.failed = event
            case Started():
                if self.started is not None:
                    raise EventGapError("the answer started twice")
                self.started = event
            case _ if self.started is None:
                raise EventGapError(f"a {type(event).__name__} came before the answer had started")
            case Tokens():
                self.completion_tokens += len(event.token_ids)
            case Finished():
                self.completion_tokens = event.completion_tokens
                self.finished = event
        self.next_sequence += 1

    @property
    def latest(self) -> Started | None:
        """Beginning of the placement whose KV is decoded from, and which `finished` tells of."""
        return self.moved_to or self.started

    def follow(self, moves: int, started: Started | None) -> None:
        """Takes how often the request was placed again, and how its latest placement has begun."""
        self.moves = moves
        self.moved_to = started if moves else None

    def usage(self, *, report: bool = False) -> Usage:
        """Returns the token counts up to now, with `usage.prfaas` where `report` is set and the answer is finished."""
        started = self.latest
        assert started is not None
        return Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            total_tokens=self.prompt_tokens + self.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=started.cached_tokens),
            prfaas=self._report(started, self.finished) if report and self.finished is not None else UNSET,
        )

    def all_detours(self) -> dict[str, int]:
        """Returns the times of each detour, the attempts of the decode worker included."""
        again = 0 if self.finished is None else max(0, self.finished.transfer.attempts - 1)
        return {name: times for name, times in (self.detours | Counter({Detour.ANOTHER_ATTEMPT: again})).items() if times}

    def _report(self, started: Started, finished: Finished) -> TransferUsage:
        figures: dict[str, int | float] = msgspec.structs.asdict(finished.transfer) | msgspec.structs.asdict(finished.prefill)
        # usage.prompt_tokens_details has the cached tokens; courses are for pictures.
        for name in ("cached_tokens", "arrival", "chunks"):
            del figures[name]
        return TransferUsage(
            outcome=started.outcome,
            prefill_site=started.prefill_site,
            reason=started.reason,
            transfer={name: round(value, 6) for name, value in figures.items()},
            moves=self.moves,
            detours=self.all_detours(),
        )
