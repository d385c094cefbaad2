"""The KV that arrives over the link is, bit for bit, the KV that a local prefill makes: a real model, two joined sites."""

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.engine.factory import EngineConfig, build_engine
from prfaas.engine.protocol import Engine
from prfaas.kvcache.layout import KVPiece
from prfaas.link.link import Link
from prfaas.site.sites import load_description
from prfaas.stack.launch import DEMO
from prfaas.stack.running_sites import RunningSites
from prfaas.transfer.receiver import KVReceiver
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from tests.e2e.asking import tokens_of

LENGTHS = (1, 511, 512, 513, 3000)
LONG_TOKENS = 8000
"""The hybrid model only: two prefills of that length take the dense one three minutes, and the same-answer tests ask it."""
DEADLINE_S = 200.0

Cache = dict[int, list[tuple[int, int, bytes, bytes]]]
"""Layer -> start, end, keys, values."""


def keep(cache: Cache, piece: KVPiece) -> None:
    """Joined with the piece before it: where a transfer is cut into frames must not matter."""
    pieces = cache.setdefault(piece.range.layer, [])
    if pieces and pieces[-1][1] == piece.range.start:
        start, _, keys, values = pieces.pop()
        pieces.append((start, piece.range.end, keys + bytes(piece.keys), values + bytes(piece.values)))
    else:
        pieces.append((piece.range.start, piece.range.end, bytes(piece.keys), bytes(piece.values)))


def prefill(engine: Engine, tokens: list[int], on_piece: Callable[[KVPiece], None]) -> None:
    engine.prefill(tokens, on_piece, lambda: False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("model", "lengths"), [("gemma-3-270m", (*LENGTHS, LONG_TOKENS)), ("smollm2-135m", LENGTHS)])
async def test_kv_over_the_link_is_local_kv(model: str, lengths: tuple[int, ...], tmp_path: Path) -> None:
    engine = build_engine(EngineConfig(model=model))
    description = engine.describe()
    async with RunningSites(load_description(DEMO), tmp_path) as sites:
        far = await BulkLane.connect(sites.endpoint("remote", "bulk"), name="sender", timeout_s=60)
        near = await BulkLane.connect(sites.endpoint("local", "bulk"), name="receiver", timeout_s=60)
        await ensure_kv_bucket(near, subjects.kv_bucket("local", "remote"), max_bytes=1 << 30, ttl_s=300)
        link = Link()
        for length in lengths:
            tokens = tokens_of(length)
            transfer = KVTransfer(
                transfer_id=f"t{length}",
                attempt=1,
                bucket=subjects.kv_bucket("local", "remote"),
                nuid=secrets.token_hex(11),
                prefill_tokens=length,
                fingerprint=description.fingerprint,
            )
            arrived: Cache = {}
            local: Cache = {}
            receiver = await KVReceiver(near, transfer, description.layout, partial(keep, arrived), timeout_s=DEADLINE_S).open()
            sender = KVSender(far, transfer, description.layout, link, SendOptions(timeout_s=DEADLINE_S)).open()
            await asyncio.to_thread(prefill, engine, tokens, sender.put)
            sender.finish()
            closing = asyncio.create_task(sender.close())
            report = await receiver.verified(DEADLINE_S)
            await closing
            await receiver.close()
            await asyncio.to_thread(prefill, engine, tokens, partial(keep, local))
            assert report.bytes == description.layout.total_bytes(length)
            assert arrived == local, f"{length} tokens"
        await far.close()
        await near.close()
