"""Whatever a holder does, the worker that asked computes the prefix and ships the right KV; whatever is asked, a holder gives a
prefix to those only who know its tokens and its scope."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from prfaas.bus.bulk.bucket import chunk_subject
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_prefill import PrefixComing, PrefixRefused, SendPrefix, SendPrefixReply
from prfaas.kvcache.blocks import block_hashes, block_proofs, pack_hashes
from prfaas.kvcache.layout import KVPiece
from prfaas.link.link import Link
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from tests.prefill_worker.prefix_place import BLOCK_TOKENS, DEADLINE_S, SITE, Place, prompt
from tests.prefill_worker.pulls.pair import Pair, hasty, pair, patient, server, source

__all__ = ["hasty", "pair", "patient", "server"]

LIAR = "p9"
Lie = Callable[[Place, SendPrefix], Awaitable[SendPrefixReply]]


async def silent(place: Place, ask: SendPrefix) -> SendPrefixReply:
    await asyncio.sleep(DEADLINE_S)
    raise AssertionError("nobody waits for this")


async def promises(place: Place, ask: SendPrefix) -> SendPrefixReply:
    return PrefixComing()


async def garbage(place: Place, ask: SendPrefix) -> SendPrefixReply:
    for _ in range(3):
        noise = secrets.token_bytes(500)
        place.lane.publish(chunk_subject(ask.transfer.bucket, ask.transfer.nuid), [noise], len(noise))
    return PrefixComing()


async def _send(place: Place, transfer: KVTransfer, change: Callable[[KVPiece], KVPiece | None]) -> SendPrefixReply:
    """Sends what a right holder would, each piece changed or left out."""
    sender = KVSender(place.lane, transfer, place.engine.layout, Link(), SendOptions(timeout_s=10.0)).open()
    tokens = prompt(200)[: transfer.prefill_tokens]

    def put() -> None:
        for piece in place.whole(tokens):
            if (changed := change(piece)) is not None:
                sender.put(changed)
        sender.finish()

    with contextlib.suppress(Exception):
        await asyncio.to_thread(put)
    return PrefixComing()


async def other_model(place: Place, ask: SendPrefix) -> SendPrefixReply:
    return await _send(place, msgspec.structs.replace(ask.transfer, fingerprint="another"), lambda piece: piece)


async def half(place: Place, ask: SendPrefix) -> SendPrefixReply:
    return await _send(place, ask.transfer, lambda piece: piece if piece.range.start == 0 else None)


async def assert_lie_is_harmless(pair: Pair, lie: Lie, result: str) -> None:
    async def answer(ask: SendPrefix) -> SendPrefixReply:
        return await lie(pair.holder, ask)

    await pair.holder.bus.serve(subjects.send_prefix(SITE, LIAR, SITE), SendPrefix, answer)
    report = await pair.puller.prefill(prompt(200), pull=source(192, worker=LIAR))
    assert report.cached_tokens == 0
    assert pair.pulls(result) == 1
    assert pair.puller.counted("prfaas_prefix_pull_lost_seconds_total", from_site=SITE) > 0
    assert (await pair.puller.prefill(prompt(200))).cached_tokens == 192, "it was computed, and is cached as ever"


@pytest.mark.parametrize("lie", [silent, promises])
async def test_a_holder_that_sends_nothing_costs_some_time(hasty: Pair, lie: Lie) -> None:
    await assert_lie_is_harmless(hasty, lie, "late")


@pytest.mark.parametrize("lie", [garbage, other_model, half])
async def test_a_holder_that_sends_what_is_wrong_costs_no_byte(pair: Pair, lie: Lie) -> None:
    await assert_lie_is_harmless(pair, lie, "failed")


async def test_a_worker_that_is_gone_costs_hardly_anything(pair: Pair) -> None:
    assert (await pair.puller.prefill(prompt(200), pull=source(192, worker="nobody"))).cached_tokens == 0
    assert pair.pulls("failed") == 1


async def test_another_tenants_prefix_is_not_given(pair: Pair) -> None:
    await pair.holder.prefill(prompt(200), scope="a")
    for scope in ("b", ""):
        assert (await pair.puller.prefill(prompt(200), scope=scope, pull=source(192))).cached_tokens == 0
    assert pair.pulls("refused") == 2 and pair.sends("not_held") == 2
    assert (await pair.puller.prefill(prompt(200), scope="a", pull=source(192))).cached_tokens == 192


async def test_who_knows_a_hash_and_not_the_tokens_gets_nothing(pair: Pair) -> None:
    await pair.holder.prefill(prompt(200), scope="a")
    right = wanted(pair, scope="a")
    others: dict[str, dict[str, Any]] = {
        "proofs of other tokens": {"proofs": b"".join(block_proofs(prompt(192, seed=1), BLOCK_TOKENS, b"", "a"))},
        "proofs of another scope": {"proofs": b"".join(block_proofs(prompt(192), BLOCK_TOKENS, b"", "b"))},
        "no proofs": {"proofs": b""},
        "hashes that are none": {"hashes": right.hashes[:-1]},
        "another's name": {"asking_site": "elsewhere"},
        "another length": {"transfer": msgspec.structs.replace(right.transfer, prefill_tokens=128)},
        "a part of a block": {"transfer": msgspec.structs.replace(right.transfer, from_token=7)},
        "the bucket of answers": {"transfer": msgspec.structs.replace(right.transfer, bucket=subjects.kv_bucket(SITE, SITE))},
        "another model": {"transfer": msgspec.structs.replace(right.transfer, fingerprint="another")},
        "a seal": {"sealed": b"sealed"},
    }
    for what, change in others.items():
        answer = await asked(pair, msgspec.structs.replace(right, **change))
        assert isinstance(answer, PrefixRefused), what
    assert pair.sends("not_held") == 2 and pair.sends("bad") == len(others) - 2
    assert isinstance(await asked(pair, right), PrefixComing)
    await pair.until_sent()


def wanted(pair: Pair, scope: str) -> SendPrefix:
    return SendPrefix(
        transfer=KVTransfer(
            transfer_id="t",
            attempt=1,
            bucket=subjects.pull_bucket(SITE, SITE),
            nuid=secrets.token_hex(11),
            prefill_tokens=192,
            fingerprint=pair.holder.engine.describe().fingerprint,
        ),
        asking_site=SITE,
        hashes=pack_hashes(block_hashes(prompt(192), BLOCK_TOKENS, b"", scope)),
        proofs=b"".join(block_proofs(prompt(192), BLOCK_TOKENS, b"", scope)),
        timeout_s=DEADLINE_S,
    )


async def asked(pair: Pair, ask: SendPrefix) -> SendPrefixReply:
    subject = subjects.send_prefix(SITE, "p1", SITE)
    answer: SendPrefixReply = await pair.puller.bus.request(subject, ask, SendPrefixReply, DEADLINE_S)
    return answer
