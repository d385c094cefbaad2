"""A real prefill worker whose prefix cache has a tier on disk: what it computes after a restart, ships and tells."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.engine.factory import EngineConfig
from prfaas.kvcache.blocks import block_hashes, unpack_hashes
from prfaas.process.runner import StartRefusedError
from prfaas.stack.nats_server import NatsServer
from prfaas_prefill_worker.config import PrefillWorkerConfig
from tests.prefill_worker.prefix_place import (
    BLOCK_TOKENS,
    DEADLINE_S,
    EMULATED,
    MODEL,
    SITE,
    WORKER,
    Place,
    prefill_worker,
    prompt,
)

# A block is read where that is sooner than computing it: on an instant engine neither is.
UNHURRIED = EngineConfig(
    engine="emulated", model=MODEL, chunk_tokens=BLOCK_TOKENS, emulated=msgspec.structs.replace(EMULATED, time_scale=10.0)
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats") as server:
        yield server


async def ask_at_boundaries(place: Place) -> list[int]:
    """Prompts that share a length around the end of a block with an earlier one; each answer's KV is checked byte for byte."""
    reports = []
    for blocks in (1, 2, 3):
        for around in (-1, 0, 1):
            shared = prompt(200)[: blocks * BLOCK_TOKENS + around]
            reports.append(await place.prefill(shared + prompt(30, seed=100 * blocks + around)))
    return [report.cached_tokens for report in reports]


async def test_a_restarted_worker_reads_what_it_had_and_ships_the_same(server: NatsServer, tmp_path: Path) -> None:
    keys = {"engine": UNHURRIED, "prefix_cache_disk_mib": 64, "prefix_cache_disk_directory": str(tmp_path / "kv")}
    async with prefill_worker(server, **keys) as place:
        assert (await place.prefill(prompt(200))).cached_tokens == 0
        expected = await ask_at_boundaries(place)
    async with prefill_worker(server, **keys) as place:
        changed = await asyncio.wait_for(place.changed.get(), DEADLINE_S)
        assert block_hashes(prompt(200), BLOCK_TOKENS)[-1] in unpack_hashes(changed.stored), "told before it is asked for"
        again = await place.prefill(prompt(200))
        assert again.cached_tokens == 192
        assert place.counted("prfaas_prefix_hit_tokens_total", tier="disk") == 192
        assert place.counted("prfaas_prefix_hit_tokens_total", tier="memory") == 0
        assert place.counted("prfaas_prefix_saved_seconds_total", tier="disk") > 0
        assert place.counted("prfaas_prefix_disk_files_total", result="damaged") == 0
        assert (
            place.counted("prfaas_prefix_held_bytes", tier="disk") > place.counted("prfaas_prefix_held_bytes", tier="memory") > 0
        )
        found = await ask_at_boundaries(place)
        assert all(more >= cached for more, cached in zip(found, expected, strict=True)) and sum(found) > 0
        assert place.counted("vllm:prefix_cache_hits_total") == 192 + sum(found)


async def test_damaged_files_cost_a_miss_and_no_byte(server: NatsServer, tmp_path: Path) -> None:
    keys = {"engine": UNHURRIED, "prefix_cache_disk_mib": 64, "prefix_cache_disk_directory": str(tmp_path / "kv")}
    async with prefill_worker(server, **keys) as place:
        await place.prefill(prompt(200))
    for path in (tmp_path / "kv").glob("model-*/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    async with prefill_worker(server, **keys) as place:
        assert (await place.prefill(prompt(200))).cached_tokens == 0
        assert place.counted("prfaas_prefix_disk_files_total", result="damaged") >= 1
        assert (await place.prefill(prompt(200))).cached_tokens == 192


async def test_two_workers_do_not_share_a_directory(server: NatsServer, tmp_path: Path) -> None:
    keys = {"engine": UNHURRIED, "prefix_cache_disk_mib": 64, "prefix_cache_disk_directory": str(tmp_path / "kv")}
    async with prefill_worker(server, **keys):
        with pytest.raises(StartRefusedError, match="another process uses the directory"):
            async with prefill_worker(server, **keys):
                pass


@pytest.mark.parametrize(
    ("keys", "missing"),
    [
        ({"prefix_cache_disk_mib": 64}, "needs a `prefix-cache-disk-directory`"),
        (
            {"prefix_cache_disk_mib": 64, "prefix_cache_disk_directory": "/tmp/kv", "prefix_cache_mib": 0},
            "needs a `prefix-cache-mib`",
        ),
    ],
)
def test_half_of_the_settings_is_refused(keys: dict[str, object], missing: str) -> None:
    endpoint = NatsEndpoint(url="nats://127.0.0.1:4222")
    with pytest.raises(ValueError, match=missing):
        PrefillWorkerConfig(site=SITE, name=WORKER, control=endpoint, bulk=endpoint, serves=(SITE,), **keys)  # type: ignore[arg-type]
