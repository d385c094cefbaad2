"""Fair queueing by itself: tenants first, then the transfers of each; what is urgent weighs more."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.link.turns import URGENT_WEIGHT, Turns
from tests.budget import examples

FRAME = 1000


def serve(turns: Turns, count: int) -> Counter[int]:
    """Bytes by key, of flows whose offers stand as they are."""
    served: Counter[int] = Counter()
    for _ in range(count):
        key = turns.next()
        assert key is not None
        served[key] += turns.serve(key)
    return served


def test_nothing_to_send_is_no_turn() -> None:
    turns = Turns()
    turns.join(1, "")
    assert turns.next() is None
    turns.offer(1, FRAME, urgent=False)
    assert turns.next() == 1
    turns.offer(1, 0, urgent=False)
    assert turns.next() is None


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_tenants_get_the_same_however_many_transfers_they_have(flows: list[int]) -> None:
    turns, owner, key = Turns(), dict[int, int](), 0
    for tenant, count in enumerate(flows):
        for _ in range(count):
            key += 1
            turns.join(key, str(tenant))
            turns.offer(key, FRAME, urgent=False)
            owner[key] = tenant
    served = serve(turns, 60 * len(flows))
    by_tenant = Counter[int]()
    for number, size in served.items():
        by_tenant[owner[number]] += size
    assert max(by_tenant.values()) - min(by_tenant.values()) <= FRAME
    for tenant in range(len(flows)):
        own = [served[number] for number in owner if owner[number] == tenant]
        assert max(own) - min(own) <= FRAME


@given(st.integers(1, 20), st.integers(1, 20))
def test_turns_are_of_bytes_and_not_of_frames(small: int, large: int) -> None:
    turns = Turns()
    for key, size in ((1, small), (2, large)):
        turns.join(key, str(key))
        turns.offer(key, size, urgent=False)
    served = serve(turns, 400)
    assert abs(served[1] - served[2]) <= max(small, large)


def test_an_urgent_transfer_weighs_more_and_the_other_does_not_starve() -> None:
    turns = Turns()
    turns.join(1, "")
    turns.join(2, "")
    turns.offer(1, FRAME, urgent=False)
    turns.offer(2, FRAME, urgent=True)
    served = serve(turns, 90)
    assert served[2] == URGENT_WEIGHT * served[1]


def test_a_pause_earns_no_credit() -> None:
    turns = Turns()
    for key in (1, 2):
        turns.join(key, str(key))
        turns.offer(key, FRAME, urgent=False)
    turns.offer(2, 0, urgent=False)
    serve(turns, 100)
    turns.offer(2, FRAME, urgent=False)
    served = serve(turns, 100)
    assert abs(served[1] - served[2]) <= 2 * FRAME


def test_a_late_transfer_gets_its_half_at_once() -> None:
    turns = Turns()
    turns.join(1, "")
    turns.offer(1, FRAME, urgent=False)
    serve(turns, 1000)
    turns.join(2, "")
    turns.offer(2, FRAME, urgent=False)
    served = serve(turns, 10)
    assert served[1] == served[2]


class AnyOrder(RuleBasedStateMachine):
    """Flows join, offer, are served and leave in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.heads: dict[int, int] = {}
        self.count = 0

    @rule(tenant=st.sampled_from(["a", "b", ""]))
    def join(self, tenant: str) -> None:
        self.count += 1
        self.turns.join(self.count, tenant)
        self.heads[self.count] = 0

    @precondition(lambda self: self.heads)
    @rule(which=st.integers(0, 100), head_bytes=st.integers(0, 5), urgent=st.booleans())
    def offer(self, which: int, head_bytes: int, urgent: bool) -> None:
        key = sorted(self.heads)[which % len(self.heads)]
        self.turns.offer(key, head_bytes, urgent=urgent)
        self.heads[key] = head_bytes

    @rule()
    def serve(self) -> None:
        key = self.turns.next()
        assert (key is None) == (not any(self.heads.values()))
        if key is not None:
            assert self.turns.serve(key) == self.heads[key] > 0

    @rule(key=st.integers(1, 20))
    def leave(self, key: int) -> None:
        self.turns.leave(key)
        self.heads.pop(key, None)

    @invariant()
    def adds_up(self) -> None:
        self.turns.validate()
        assert len(self.turns) == len(self.heads)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(50), deadline=None)


def test_the_background_has_its_turns_while_no_request_has_anything_to_send() -> None:
    turns = Turns()
    for key in (1, 2):
        turns.join(key, "", background=True)
        turns.offer(key, FRAME, urgent=False)
    for key, tenant in ((3, ""), (4, "other")):
        turns.join(key, tenant)
        turns.offer(key, FRAME, urgent=False)
    assert serve(turns, 10) == {3: 5 * FRAME, 4: 5 * FRAME}
    turns.offer(3, 0, urgent=False)
    turns.offer(4, 0, urgent=False)
    assert serve(turns, 100) == {1: 50 * FRAME, 2: 50 * FRAME}
    for key in (3, 4):
        turns.offer(key, FRAME, urgent=False)
    assert serve(turns, 10) == {3: 5 * FRAME, 4: 5 * FRAME}, "its tenant's requests did not pay for the background"
