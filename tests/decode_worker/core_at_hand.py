"""A decode core whose tokens are digits, and requests for it, for tests."""

from typing import NamedTuple

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate, Sampling
from prfaas.contracts.to_gateway import (
    GenerateEvent,
    Placement,
)
from prfaas.contracts.wire import pack_tokens
from prfaas.engine.protocol import SampledToken
from prfaas_decode_worker.admission import Limits
from prfaas_decode_worker.events import (
    AttemptVerified,
    Emit,
    GenerateAsked,
    Instruction,
    StepDone,
)
from prfaas_decode_worker.service_core import DecodeCore

EOS = 7
POISON = 666
"""A token whose text cannot be told."""
DEADLINE_S = 10.0


class Piece(NamedTuple):
    text: str
    stopped: bool


class SpelledText:
    """Token n is the digit n; `9` stops when the request has stop strings, and `8` is held back until the next one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stops = stop
        self.stop = ""
        self.held = ""
        self.chars = 0

    def push(self, token_id: int) -> Piece:
        if token_id == POISON:
            raise RuntimeError("no such digit")
        text, self.held = self.held + str(token_id), ""
        if token_id == 8:
            text, self.held = text[:-1], "8"
        self.chars += len(text)
        return Piece(text, token_id != 8 and self._stops(str(token_id)))

    def flush(self) -> Piece:
        return Piece(self.held, self._stops(self.held))

    def _stops(self, digit: str) -> bool:
        self.stop = digit if digit in self.stops else ""
        return bool(self.stop)

    def offset_chars(self, token_id: int) -> int:
        return self.chars + len(self.held)


class Digits:
    def new_text(self, sampling: Sampling) -> SpelledText:
        if "poison" in sampling.stop:
            raise ValueError("a tokenizer that\n  raises")
        return SpelledText(sampling.stop)

    def token_bytes(self, token_id: int) -> bytes:
        if token_id == POISON:
            raise RuntimeError("no such digit")
        return b"\xff" if token_id == 6 else str(token_id).encode()


def make_core(slots: int = 2, waiting: int = 2, cache_bytes: int = 1000) -> DecodeCore:
    limits = Limits(slots=slots, coming=slots, waiting=waiting, context_tokens=100, cache_bytes=cache_bytes)
    return DecodeCore("d0", "i1", "m", limits, frozenset({EOS}), Digits(), lambda total_tokens: 10 * total_tokens)


def ask(
    request_id: str = "r1", prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 4, remote: bool = True, **sampling: object
) -> Generate:
    placement = Placement(
        transfer_id=request_id,
        prefill_site="far" if remote else "home",
        fallback_site="home" if remote else None,
        decode_worker="d0",
        outcome=Outcome.OFFLOADED if remote else Outcome.LOCAL_SHORT,
        reason="a test",
        fallback_after_s=4.0,
    )
    return Generate(
        request_id=request_id,
        model="m",
        placement=placement,
        token_ids=pack_tokens(prompt),
        sampling=Sampling(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
        reply_to="gw",
        ttft_deadline_s=DEADLINE_S,
    )


def events_of(instructions: list[Instruction]) -> list[GenerateEvent]:
    return [instruction.event for instruction in instructions if isinstance(instruction, Emit)]


def step(core: DecodeCore, token_id: int, now_s: float = 2.0) -> list[Instruction]:
    return core.handle(StepDone(now_s, tuple((row.request_id, SampledToken(token_id=token_id)) for row in core.rows())))


def started(core: DecodeCore, generate: Generate) -> None:
    core.handle(GenerateAsked(0.0, generate))
    core.handle(AttemptVerified(1.0, generate.request_id, 1, 0.0, TransferReport()))
