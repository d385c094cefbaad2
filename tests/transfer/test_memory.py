"""Memory of sender and receiver stays bounded however long a transfer is: in processes of their own, over a real server."""

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from prfaas.bus.bulk import BulkLane
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.link.link import Link
from prfaas.stack.nats_server import NatsServer
from prfaas.transfer.receiver import KVReceiver
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from tests.kvcache.kv import make_transfer

LAYOUT = KVLayout(dtype="bfloat16", layers=(LayerSpec(kind=LayerKind.FULL, kv_heads=8, head_dim=128),))
CHUNK_TOKENS = 256
CHUNKS = 256
"""Number of chunks; each has 1 MiB of KV."""
LIMIT_MIB = 128
_CONTEXT = multiprocessing.get_context("spawn")
_DEADLINE_S = 100.0


def growth_mib(before: int) -> float:
    """Growth of this process's peak over `before`. ru_maxrss would begin at the peak of the parent that forked it."""
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return (int(peak.split()[1]) - before / 1024) / 1024


def rss_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def receive(url: str, transfer: KVTransfer, pipe: Connection) -> None:
    async def main() -> float:
        lane = await BulkLane.connect(NatsEndpoint(url=url), name="receiver", timeout_s=60)
        before = rss_bytes()
        receiver = await KVReceiver(lane, transfer, LAYOUT, lambda piece: None, timeout_s=_DEADLINE_S).open()
        pipe.send("ready")
        await receiver.verified(_DEADLINE_S)
        await receiver.close()
        await lane.close()
        return growth_mib(before)

    pipe.send(asyncio.run(main()))


def send(url: str, transfer: KVTransfer, pipe: Connection) -> None:
    async def main() -> float:
        lane = await BulkLane.connect(NatsEndpoint(url=url), name="sender", timeout_s=60)
        half_bytes = LAYOUT.token_bytes(0) // 2 * CHUNK_TOKENS
        before = rss_bytes()
        sender = KVSender(lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=_DEADLINE_S)).open()

        def put() -> None:
            for start in range(0, CHUNKS * CHUNK_TOKENS, CHUNK_TOKENS):
                # Memory of its own for each piece, as an engine's: what is kept too long shows.
                keys, values = memoryview(b"k" * half_bytes), memoryview(b"v" * half_bytes)
                sender.put(KVPiece(LayerRange(0, start, start + CHUNK_TOKENS), keys, values))

        await asyncio.to_thread(put)
        sender.finish()
        await sender.close()
        await lane.close()
        return growth_mib(before)

    pipe.send(asyncio.run(main()))


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_peak_memory_does_not_grow_with_the_transfer(lane: BulkLane, server: NatsServer) -> None:
    transfer = make_transfer(CHUNKS * CHUNK_TOKENS)
    growth = {}
    pipes = {}
    processes = []
    for side in (receive, send):
        pipes[side.__name__], theirs = _CONTEXT.Pipe()
        processes.append(_CONTEXT.Process(target=side, args=(server.client_url, transfer, theirs), daemon=True))
        processes[-1].start()
        if side is receive:
            assert await asyncio.to_thread(pipes["receive"].poll, _DEADLINE_S)
            assert pipes["receive"].recv() == "ready"
    for name, pipe in pipes.items():
        assert await asyncio.to_thread(pipe.poll, _DEADLINE_S)
        growth[name] = pipe.recv()
    for process in processes:
        await asyncio.to_thread(process.join, 10)
    assert growth["receive"] < LIMIT_MIB
    assert growth["send"] < LIMIT_MIB
