"""The batch with an engine, samplers and texts that raise: each request for itself, and the loop goes on."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Tokens
from prfaas.contracts.wire import pack_tokens
from prfaas.engine.emulated_model import byte_tokenizer
from prfaas.engine.grammar import forms
from prfaas.engine.grammar.matcher import GrammarTokenizer
from prfaas.engine.protocol import DecodeRow, SampledToken
from prfaas.engine.row_masks import allowed_ids, masks_of
from prfaas.telemetry.metrics.decode import DecodeMetrics
from prfaas_decode_worker.batch import Batch
from prfaas_decode_worker.constraints import Constraints
from prfaas_decode_worker.events import Emit, Event, Release
from tests.decode_worker.core_at_hand import EOS, POISON, ask, make_core, started
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
        masks = masks_of(rows)
        tokens = super().decode(rows)
        return [
            SampledToken(
                token_id=POISON if row.sampler == "babbles" else min(allowed_ids(masks[index], 10)) if index in masks else 5
            )
            for index, (row, _) in enumerate(zip(rows, tokens, strict=True))
        ]


class Place:
    def __init__(
        self,
        seeds: dict[str, int],
        *,
        without_sequence: str = "",
        grammars: Mapping[str, str] = MappingProxyType({}),
        tokenizer: Path = Path("no tokenizer is here"),
        sent: tuple[int, ...] = (),
    ) -> None:
        """`sent`: what an earlier worker has sent of each answer that follows a grammar."""
        self.core = make_core(slots=8, waiting=8, cache_bytes=100_000)
        self.sequences = {request_id: Counter() for request_id in seeds if request_id != without_sequence}
        self.events: dict[str, list[GenerateEvent]] = {request_id: [] for request_id in seeds}
        loop = asyncio.get_running_loop()
        self.constraints = Constraints(GrammarTokenizer(tokenizer, 300, [EOS]), lambda: loop.call_soon_threadsafe(self._wake))
        self.batch = Batch(
            Engine(),
            self.core,
            sequences=self.sequences,
            metrics=DecodeMetrics(CollectorRegistry(), "m"),
            tell=self.tell,
            flushed=self.flushed,
            constraints=self.constraints,
        )
        for request_id, seed in seeds.items():
            grammar = grammars.get(request_id, "")
            generate = ask(request_id, max_tokens=6, seed=seed, grammar=grammar)
            if grammar:
                generate = replace(generate, sent_token_ids=pack_tokens(sent))
                self.constraints.begin(request_id, grammar)
            started(self.core, generate)

    def tell(self, event: Event) -> None:
        for order in self.core.handle(event):
            match order:
                case Emit(_, told):
                    self.events[told.request_id].append(told)
                case Release():
                    self.batch.release(order.request_id)
        self.core.validate()

    def _wake(self) -> None:
        self.batch.wake()

    def tokens(self, request_id: str) -> list[int]:
        return [token_id for event in self.events[request_id] if isinstance(event, Tokens) for token_id in event.token_ids]

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


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_tokenizer().to_str())
    return path


async def test_a_row_follows_its_grammar_and_the_others_go_on_as_without_it(tokenizer: Path) -> None:
    place = Place({"r0": 0, "r1": 0, "r2": 3}, grammars={"r1": forms.regex("\x06\x04[\x06\x08]")}, tokenizer=tokenizer)
    last = await place.run()
    assert place.tokens("r1") == [6, 4, 6]
    finished = last["r1"]
    assert isinstance(finished, Finished)
    assert (finished.finish_reason, finished.completion_tokens) == ("stop", 4)
    assert answered(last["r0"])
    assert place.tokens("r0") == [5] * 6
    assert message_of(last["r2"]).startswith("text: token 666")


async def test_a_worker_that_goes_on_with_an_answer_goes_on_in_its_grammar(tokenizer: Path) -> None:
    grammar = forms.regex("\x06[\x02\x04]{2}|\x01\x03")
    place = Place({"r0": 0, "r1": 0}, grammars={"r1": grammar}, tokenizer=tokenizer, sent=(6, 4))
    last = await place.run()
    assert place.tokens("r1") == [2], "two tokens were sent before; what follows them in the grammar is 2 or 4"
    assert isinstance(last["r1"], Finished)
    assert last["r1"].completion_tokens == 4


async def test_a_grammar_that_cannot_be_followed_ends_its_own_request(tokenizer: Path) -> None:
    place = Place({"r0": 0, "r1": 0}, grammars={"r1": "start: other"}, tokenizer=tokenizer)
    last = await place.run()
    assert answered(last["r0"])
    assert "cannot be followed" in message_of(last["r1"])
    assert place.constraints.get("r1") is None
