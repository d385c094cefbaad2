"""The batch with an engine, samplers and texts that raise: each request for itself, and the loop goes on."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent
from prfaas.engine.protocol import DecodeRow, SampledToken
from prfaas.telemetry.metrics.decode import DecodeMetrics
from prfaas_decode_worker.batch import Batch
from prfaas_decode_worker.events import Emit, Event, Release
from tests.decode_worker.core_at_hand import POISON, ask, make_core, started
from tests.decode_worker.test_decode_step import Counter, FragileEngine

DEADLINE_S = 60.0
BROKEN_AT = 3
"""The step of a sequence at which the engine breaks on it, where it does."""


class Engine(FragileEngine):
    """Answers with token 5; the third step of a sequence whose sampler is `breaks` breaks, one of `babbles` has no text."""

    def sampler(self, sampling: Sampling, prompt: Sequence[int] = ()) -> Any:
        if sampling.seed == 1:
            raise RuntimeError("no random numbers today")
        return {2: "breaks", 3: "babbles"}.get(sampling.seed or 0, "")

    def decode(self, rows: Sequence[DecodeRow]) -> list[SampledToken]:
        if any(row.sampler == "breaks" and row.sequence.tokens == BROKEN_AT for row in rows):
            raise RuntimeError("the kernel broke")
        tokens = super().decode(rows)
        return [SampledToken(token_id=POISON if row.sampler == "babbles" else 5) for row, _ in zip(rows, tokens, strict=True)]


class Place:
    def __init__(self, seeds: dict[str, int], *, without_sequence: str = "") -> None:
        self.core = make_core(slots=8, waiting=8, cache_bytes=100_000)
        self.sequences = {request_id: Counter() for request_id in seeds if request_id != without_sequence}
        self.events: dict[str, list[GenerateEvent]] = {request_id: [] for request_id in seeds}
        self.batch = Batch(
            Engine(),
            self.core,
            sequences=self.sequences,
            metrics=DecodeMetrics(CollectorRegistry(), "m"),
            tell=self.tell,
            flushed=self.flushed,
        )
        for request_id, seed in seeds.items():
            started(self.core, ask(request_id, max_tokens=6, seed=seed))

    def tell(self, event: Event) -> None:
        for order in self.core.handle(event):
            match order:
                case Emit(_, told):
                    self.events[told.request_id].append(told)
                case Release():
                    self.batch.release(order.request_id)
        self.core.validate()

    async def flushed(self) -> None:
        await asyncio.sleep(0)

    async def run(self) -> dict[str, GenerateEvent]:
        """The last event of each request, when all are over."""
        loop = asyncio.create_task(self.batch.run())
        self.batch.wake()
        async with asyncio.timeout(DEADLINE_S):
            while self.core.requests:
                assert not loop.done(), loop.exception()
                await asyncio.sleep(0.001)
        loop.cancel()
        self.batch.shut_down()
        return {request_id: events[-1] for request_id, events in self.events.items()}


def answered(event: GenerateEvent) -> bool:
    return isinstance(event, Finished) and event.completion_tokens == 6


def message_of(event: GenerateEvent) -> str:
    assert isinstance(event, Failed)
    return f"{event.code}: {event.message}"


async def test_a_sampler_a_sequence_a_step_and_a_text_that_break_end_their_own_requests() -> None:
    place = Place({"r0": 0, "r1": 1, "r2": 2, "r3": 3, "r4": 0, "r5": 0}, without_sequence="r5")
    last = await place.run()
    assert answered(last["r0"]) and answered(last["r4"])
    assert message_of(last["r1"]) == "engine: the engine failed in a decode step: RuntimeError: no random numbers today"
    assert message_of(last["r2"]) == "engine: the engine failed in a decode step: RuntimeError: the kernel broke"
    assert message_of(last["r3"]).startswith("text: token 666")
    assert message_of(last["r5"]).startswith("engine: ")
    assert place.sequences["r0"].tokens == place.sequences["r4"].tokens == 6, "each step advanced them once"
    assert len(place.events["r2"]) == BROKEN_AT + 1, "what came before the broken step was sent"


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_worker_whose_only_request_breaks_takes_the_next_one(seed: int) -> None:
    place = Place({"r0": seed})
    assert isinstance((await place.run())["r0"], Failed)
    assert not place.core.rows()
