"""The decode core under any order of events: slots and cache are never oversold, and every request ends exactly once."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    GenerateAccepted,
)
from prfaas.engine.protocol import SampledToken
from prfaas_decode_worker.events import (
    Answer,
    AttemptFailed,
    AttemptVerified,
    BeginAttempt,
    CancelAsked,
    Emit,
    EndAttempt,
    Event,
    GenerateAsked,
    Release,
    RequestBroken,
    StepDone,
    StepFailed,
    Tick,
)
from tests.budget import examples
from tests.decode_worker.core_at_hand import POISON, ask, make_core


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.core = make_core(slots=2, waiting=2, cache_bytes=200)
        self.now_s = 0.0
        self.count = 0
        self.accepted: set[str] = set()
        self.cancelled: set[str] = set()
        self.ended: dict[str, str] = {}
        self.terminal: dict[str, int] = {}
        self.sequences: dict[str, int] = {}
        self.open: dict[str, int] = {}
        """Attempts that hold a reader and a sequence, by request."""

    def do(self, event: Event) -> None:
        for out in self.core.handle(event):
            match out:
                case Answer(request_id, GenerateAccepted()):
                    self.accepted.add(request_id)
                case BeginAttempt(request_id=request_id, attempt=attempt, timeout_s=timeout_s):
                    assert request_id not in self.open, "a second attempt began before the first ended"
                    assert timeout_s > 0
                    self.open[request_id] = attempt
                case EndAttempt(request_id, attempt, _):
                    assert self.open.pop(request_id) == attempt
                case Emit(_, told):
                    assert told.sequence == self.sequences.get(told.request_id, 0), "a gap in the client's events"
                    self.sequences[told.request_id] = told.sequence + 1
                    if isinstance(told, Finished | Failed):
                        self.terminal[told.request_id] = self.terminal.get(told.request_id, 0) + 1
                case Release(request_id=request_id, ended=ended):
                    assert request_id not in self.ended, "released twice"
                    self.ended[request_id] = ended
                case _:
                    pass

    @rule(prompt=st.integers(1, 8), max_tokens=st.integers(1, 6), remote=st.booleans())
    def ask(self, prompt: int, max_tokens: int, remote: bool) -> None:
        self.count += 1
        self.do(GenerateAsked(self.now_s, ask(f"r{self.count}", tuple(range(prompt)), max_tokens, remote)))

    @precondition(lambda self: self.count)
    @rule(data=st.data(), verified=st.booleans())
    def attempt_reports(self, data: st.DataObject, verified: bool) -> None:
        request_id = f"r{data.draw(st.integers(1, self.count))}"
        attempt = data.draw(st.integers(1, 3))
        if verified:
            before = self.open.get(request_id)
            self.do(AttemptVerified(self.now_s, request_id, attempt, 0.0, TransferReport()))
            if before == attempt and request_id in self.core.requests:
                self.open.pop(request_id)  # verified: the sequence now belongs to the batch
        else:
            self.do(
                AttemptFailed(self.now_s, request_id, attempt, data.draw(st.sampled_from(["timeout", "corrupt", "x"])), "why")
            )

    @rule(token_id=st.one_of(st.integers(0, 9), st.just(POISON)))
    def step(self, token_id: int) -> None:
        rows = self.core.rows()
        self.do(StepDone(self.now_s, tuple((row.request_id, SampledToken(token_id=token_id)) for row in rows)))

    @rule()
    def engine_fails(self) -> None:
        self.do(StepFailed(self.now_s, tuple(row.request_id for row in self.core.rows()), "the engine broke"))

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def shell_breaks(self, data: st.DataObject) -> None:
        self.do(RequestBroken(self.now_s, f"r{data.draw(st.integers(1, self.count))}", "the shell broke"))

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = f"r{data.draw(st.integers(1, self.count))}"
        if request_id in self.core.requests:
            self.cancelled.add(request_id)
        self.do(CancelAsked(self.now_s, request_id))

    @rule(seconds=st.floats(0.1, 6))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.do(Tick(self.now_s))

    @invariant()
    def everything_adds_up(self) -> None:
        self.core.validate()
        assert self.accepted == set(self.core.requests) | set(self.ended), "an accepted request is lost"
        for request_id in self.ended:
            assert self.terminal.get(request_id, 0) == (0 if request_id in self.cancelled else 1)
        in_transfer = {r.request_id for r in self.core.admission.holding} - {row.request_id for row in self.core.rows()}
        assert set(self.open) == in_transfer, "an attempt outlives its request, or has none"


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
