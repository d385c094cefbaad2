"""The figure of a turn's bytes over the link: its increment counts every token once, and the state."""

import msgspec

from load.bench.increment import BYTE_SCALE, CHUNK_TOKENS, RATE_MBIT, Increment, description, layout, summary
from load.emulated_stack import MODEL
from prfaas.capacity.builtin import builtin_profile
from prfaas.engine.emulated import EmulatedEngine
from prfaas.engine.emulated_model import kv_line
from prfaas.engine.factory import EngineConfig
from prfaas.site.sites import Role


def test_the_increment_is_the_new_tokens_kv_and_the_state() -> None:
    state_bytes, token_bytes = kv_line(builtin_profile("paper-1t-h200"))
    found = layout().total_bytes(30_000, 26_000) * BYTE_SCALE
    assert abs(found / (state_bytes + 4_000 * token_bytes) - 1) < 0.01


def test_the_summary_weighs_turns_by_their_bytes() -> None:
    turns = [Increment(100, 10, 1000, 1000, 1100), Increment(200, 20, 3000, 3100, 3100)]
    assert summary(turns) == {"bytes_over_increment": 4200 / 4000, "frame_bytes_over_increment": 4100 / 4000}


def test_every_prompt_goes_over_the_link_and_caches_are_on() -> None:
    found = description()
    found.validate()
    assert [link.rate_mbit for link in found.links] == [RATE_MBIT]
    for service in found.services:
        if service.role in (Role.PREFILL_WORKER, Role.DECODE_WORKER):
            assert service.config["prefix-cache-mib"] > 0
            assert service.config["engine"]["chunk-tokens"] == CHUNK_TOKENS
            assert service.config["engine"]["emulated"]["token-scale"] == 1.0


def test_the_layout_is_that_of_the_engines() -> None:
    worker = next(service for service in description().services if service.role is Role.PREFILL_WORKER)
    keys = msgspec.convert(worker.config["engine"], EngineConfig)
    engine = EmulatedEngine(MODEL, keys.emulated, chunk_tokens=keys.chunk_tokens)
    assert engine.describe().layout == layout()
