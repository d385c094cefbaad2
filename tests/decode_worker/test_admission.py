"""Requests that fetch their KV, and requests in the batch."""

from prfaas.contracts.kv import TransferReport
from prfaas_decode_worker.events import AttemptVerified, BeginAttempt, GenerateAsked, Instruction
from prfaas_decode_worker.service_core import DecodeCore
from tests.decode_worker.core_at_hand import EOS, ask, make_core, step


def begun(instructions: list[Instruction]) -> list[str]:
    return [each.request_id for each in instructions if isinstance(each, BeginAttempt)]


def arrived(core: DecodeCore, request_id: str, now_s: float) -> list[Instruction]:
    return core.handle(AttemptVerified(now_s, request_id, 1, 0.0, TransferReport()))


def test_a_request_whose_kv_is_still_to_come_takes_no_slot_from_the_next() -> None:
    core = make_core(slots=2, waiting=2)
    for name in ("r1", "r2", "r3"):
        core.handle(GenerateAsked(0.0, ask(name)))
    assert begun(arrived(core, "r1", 1.0)) == ["r3"], "one slot is free still, and r2 may wait in a queue for long"
    assert [row.request_id for row in core.rows()] == ["r1"]
    core.validate()


def test_a_full_batch_lets_no_one_in_and_what_comes_late_waits_for_a_slot_in_its_turn() -> None:
    core = make_core(slots=2, waiting=4)
    for name in ("r1", "r2", "r3", "r4", "r5"):
        core.handle(GenerateAsked(0.0, ask(name)))
    assert begun(arrived(core, "r2", 1.0)) == ["r3"]
    assert begun(arrived(core, "r3", 2.0)) == []
    assert begun(arrived(core, "r1", 3.0)) == [], "it has come, and there is no slot"
    assert [row.request_id for row in core.rows()] == ["r2", "r3"], "the first to be complete, though r1 was the first to ask"
    core.validate()
    instructions = step(core, EOS)
    assert begun(instructions) == ["r4", "r5"], "slots are free again"
    assert [row.request_id for row in core.rows()] == ["r1"]
    core.validate()
