"""A worker that pulls a prefix ships the KV that it would have computed, and says how much of it was cached."""

from pathlib import Path

import pytest

from prfaas.sealing.config import SealingConfig
from prfaas.sealing.keys import PrivateKey
from prfaas.stack.nats_server import NatsServer
from prfaas.transfer.errors import TransferError
from tests.prefill_worker.prefix_place import BLOCK_TOKENS, SITE, prompt
from tests.prefill_worker.pulls.pair import Pair, pair, patient, server, source, two_workers

__all__ = ["pair", "patient", "server"]


async def test_a_prefix_is_pulled_and_counts_as_cached(pair: Pair) -> None:
    await pair.holder.prefill(prompt(200))
    report = await pair.puller.prefill(prompt(200)[:150] + prompt(60, seed=1), pull=source(128))
    assert report.cached_tokens == 128
    assert pair.pulls("done") == 1
    assert pair.puller.counted("prfaas_prefix_pulled_bytes_total", from_site=SITE) > 0
    assert pair.puller.counted("prfaas_prefix_hit_tokens_total", tier="pulled") == 128
    assert pair.puller.counted("prfaas_prefix_hit_tokens_total", tier="memory") == 0
    assert pair.puller.counted("prfaas_prefix_saved_seconds_total", tier="pulled") > 0
    await pair.until_sent()
    assert pair.sends("done", SITE) == 1
    assert pair.puller.counted("prfaas_prefilled_tokens_total") == 210 - 128
    assert pair.puller.worker._heartbeat().pull_bytes_per_s > 0
    # It is the puller's own now, and the holder's still.
    assert (await pair.puller.prefill(prompt(130), pull=source(128))).cached_tokens == 128
    assert pair.pulls("held") == 1 and pair.pulls("done") == 1
    assert pair.holder.worker._prefix_cache.pinned == pair.puller.worker._prefix_cache.pinned == 0


async def test_at_every_end_of_a_block_the_same_is_shipped(pair: Pair) -> None:
    """Place.prefill compares every byte."""
    for seed in (1, 2):
        await pair.holder.prefill(prompt(200, seed))
    await pair.puller.prefill(prompt(70, seed=1))  # it has the first block
    for around, end in ((-1, 3), (0, 3), (1, 3), (0, 1), (1, 2)):
        tokens = end * BLOCK_TOKENS
        asked = prompt(200, 2 - end % 2)[: tokens + around] + prompt(20, seed=100 + 10 * end + around)
        await pair.puller.prefill(asked, pull=source(tokens if around >= 0 else tokens - BLOCK_TOKENS))
    assert pair.pulls("failed") == 0 and pair.pulls("done") >= 2


async def test_a_prefix_on_disk_is_sent_too(server: NatsServer, patient: None, tmp_path: Path) -> None:
    keys = {"prefix_cache_disk_mib": 64, "prefix_cache_disk_directory": str(tmp_path / "kv")}
    async with two_workers(server, keys, {}) as pair:
        await pair.holder.prefill(prompt(200))
    async with two_workers(server, keys, {}) as pair:  # in memory there is nothing
        report = await pair.puller.prefill(prompt(200), pull=source(192))
        assert (report.cached_tokens, pair.pulls("done")) == (192, 1)
        assert pair.holder.counted("prfaas_prefix_held_bytes", tier="memory") == 0


async def test_what_is_pulled_while_the_holder_computes_comes_between_its_chunks(pair: Pair) -> None:
    await pair.holder.prefill(prompt(200))
    receiver, _ = await pair.holder.submit(prompt(4000, seed=5))
    report = await pair.puller.prefill(prompt(200), pull=source(192))
    assert report.cached_tokens == 192
    with pytest.raises(TransferError, match="not complete"):  # the holder, which takes seconds, is not through with its own
        await receiver.verified(0.001)
    await receiver.close()


async def test_no_pull_but_from_sites_that_the_configuration_names(pair: Pair) -> None:
    await pair.holder.prefill(prompt(200))
    report = await pair.puller.prefill(prompt(200), pull=source(192, site="elsewhere"))
    assert report.cached_tokens == 0
    assert pair.puller.counted("prfaas_prefix_pulls_total", from_site="elsewhere", result="done") == 0


async def test_switched_off_a_worker_neither_pulls_nor_sends(server: NatsServer) -> None:
    async with two_workers(server, {"cache_pulls": False}, {}) as pair:
        await pair.holder.prefill(prompt(200))
        assert (await pair.puller.prefill(prompt(200), pull=source(192))).cached_tokens == 0
        assert pair.pulls("failed") == 1
    async with two_workers(server, {}, {"cache_pulls": False}) as pair:
        await pair.holder.prefill(prompt(200))
        assert (await pair.puller.prefill(prompt(200), pull=source(192))).cached_tokens == 0
        assert pair.pulls("done") == 0
        assert not pair.puller.worker._heartbeat().pulls


async def test_workers_with_a_key_pull_sealed_and_never_in_clear(server: NatsServer, patient: None, tmp_path: Path) -> None:
    private = tmp_path / "site.key"
    private.write_text(PrivateKey.generate().line)
    sealed = {"sealing": SealingConfig(private_key_file=str(private))}
    async with two_workers(server, sealed, sealed) as pair:
        await pair.holder.prefill(prompt(200))
        assert (await pair.puller.prefill(prompt(200), pull=source(192))).cached_tokens == 192
    async with two_workers(server, sealed, {}) as pair:
        await pair.holder.prefill(prompt(200))
        assert (await pair.puller.prefill(prompt(200), pull=source(192))).cached_tokens == 0
        assert pair.pulls("refused") == 1 and pair.sends("bad") == 1
