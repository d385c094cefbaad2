"""The tier on disk in any order of prompts, writes, restarts and damage: only right KV, always."""

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.budget import examples
from tests.worker.disk_tier.tier_at_hand import Worker

PROMPTS = st.lists(st.integers(1, 2), min_size=1, max_size=6)


class AnyOrder(RuleBasedStateMachine):
    """Prompts served in memory and on disk that hold a part of them."""

    spacing = 0

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.worker = self.opened()

    def opened(self) -> Worker:
        return Worker(self.directory, memory_blocks=7, disk_blocks=6, spacing=self.spacing)

    @rule(token_ids=PROMPTS)
    def serve(self, token_ids: list[int]) -> None:
        self.worker.serve(token_ids)

    @rule()
    def write(self) -> None:
        self.worker.written()

    @rule()
    def restart(self) -> None:
        self.worker.close()
        self.worker = self.opened()

    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        self.worker.written()
        if files := self.worker.files():
            path = data.draw(st.sampled_from(files))
            path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, 300))])

    @invariant()
    def holds(self) -> None:
        self.worker.hear()
        assert self.worker.cache.pinned == 0

    def teardown(self) -> None:
        self.worker.close()
        shutil.rmtree(self.directory)


class AnyOrderWithCheckpoints(AnyOrder):
    spacing = 2


SETTINGS = settings(max_examples=examples(50), stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = SETTINGS
TestAnyOrderWithCheckpoints = AnyOrderWithCheckpoints.TestCase
TestAnyOrderWithCheckpoints.settings = SETTINGS
