"""The ways to move a KV cache between two processes that `make bench-kv` compares. Each is a sender and a receiver coroutine.

A sender connects, calls `ready`, waits for `go`, and returns (start, end) on the system's monotonic clock; a receiver calls
`ready` when it can take the first byte and returns (first byte, complete). All move the same bytes, from prepared memory into
prepared memory.
"""

import asyncio
import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import nats
import numpy as np
from nats.js.api import ConsumerConfig

from prfaas.bus.bulk import BulkLane
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.link.link import Link
from prfaas.sealing.author_seal import SECRET_BYTES
from prfaas.transfer.receiver import KVReceiver
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender

SITE = "near"
FAR = "far"
BUCKET = subjects.kv_bucket(SITE, FAR)
LAYERS = 32
_TOKEN_BYTES = 2 * 4 * 128 * 2
CHUNK_TOKENS = 512
LAYOUT = KVLayout(dtype="bfloat16", layers=tuple(LayerSpec(kind=LayerKind.FULL, kv_heads=4, head_dim=128) for _ in range(LAYERS)))
_DEADLINE_S = 120.0
_CONNECT_S = 5.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One measured run."""

    run: str = ""
    """Names the object; fresh for every run."""
    total_bytes: int
    send_endpoint: NatsEndpoint
    receive_endpoint: NatsEndpoint
    tcp_address: tuple[str, int] | None = None
    """Address that a plain TCP sender connects to; None: the receiver's own."""
    tcp_port: int = 0
    """Port on which a plain TCP receiver listens; 0 picks one."""
    transfers: int = 1
    """Number of transfers at once; together they have `total_bytes`."""
    object_digest: bool = False
    lossless: bool = False
    warm_bytes: int = 0
    """Sent before, by the same process: a worker that has shipped before knows its link."""
    sealed: bool = False
    """Frames are sealed end to end, instead of summed."""
    like_kv: bool = False
    """Numbers as in a real cache, which a codec can shrink, instead of a pattern."""
    pace_s: float = 0.0
    """Pause between two pieces, as a prefill that computes while it ships has it. 0: none."""

    @property
    def secret(self) -> bytes | None:
        return bytes(SECRET_BYTES) if self.sealed else None

    @property
    def tokens(self) -> int:
        """Tokens of each transfer."""
        return self.total_bytes // (self.transfers * LAYERS * _TOKEN_BYTES)

    @property
    def warm_tokens(self) -> int:
        return self.warm_bytes // (LAYERS * _TOKEN_BYTES)

    def transfer(self, name: str, tokens: int) -> KVTransfer:
        name = f"{self.run}{name}"
        return KVTransfer(transfer_id=name, attempt=1, bucket=BUCKET, nuid=name, prefill_tokens=tokens, fingerprint="bench")


class Signals(NamedTuple):
    ready: Callable[[Any], None]
    go: Callable[[], None]


Times = tuple[float, float]


def _pieces(job: Job, tokens: int) -> list[KVPiece]:
    """Each has memory of its own, as an engine's chunks have."""
    pieces = []
    noise = np.random.default_rng(0)
    for start in range(0, tokens, CHUNK_TOKENS):
        for layer in range(LAYERS):
            end = min(start + CHUNK_TOKENS, tokens)
            half = (end - start) * _TOKEN_BYTES // 2
            if job.like_kv:
                numbers = noise.standard_normal(half, np.float32).view(np.uint32) >> 16
                both = numbers.astype(np.uint16).view(np.uint8)
                keys, values = memoryview(both[:half].copy().data), memoryview(both[half:].copy().data)
            else:
                pattern = (start * 31 + layer).to_bytes(8, "little")
                keys, values = memoryview(pattern * (half // 8)), memoryview(pattern[::-1] * (half // 8))
            pieces.append(KVPiece(LayerRange(layer, start, end), keys, values))
    return pieces


async def lane_send(job: Job, signals: Signals) -> Times:
    lane = await BulkLane.connect(job.send_endpoint, name="bench", timeout_s=_CONNECT_S)
    pieces = _pieces(job, job.tokens)
    link = Link()
    if job.warm_bytes:
        await _lane_send_one(job, lane, link, _pieces(job, job.warm_tokens), job.transfer("warm", job.warm_tokens))
    signals.ready(None)
    signals.go()
    start = time.monotonic()
    transfers = [job.transfer(str(number), job.tokens) for number in range(job.transfers)]
    times = await asyncio.gather(*(_lane_send_one(job, lane, link, pieces, transfer) for transfer in transfers))
    await lane.close()
    return (min(times) if job.pace_s else start), time.monotonic()


async def _lane_send_one(job: Job, lane: BulkLane, link: Link, pieces: list[KVPiece], transfer: KVTransfer) -> float:
    """Returns when the last piece was put."""
    options = SendOptions(timeout_s=_DEADLINE_S, object_digest=job.object_digest, lossless=job.lossless, secret=job.secret)
    sender = KVSender(lane, transfer, LAYOUT, link, options).open()

    def put() -> float:
        at = 0.0
        for piece in pieces:
            if job.pace_s:
                time.sleep(job.pace_s)
            at = time.monotonic()
            sender.put(piece)
        return at

    last_at = await asyncio.to_thread(put)
    sender.finish()
    await sender.close()
    return last_at


async def lane_receive(job: Job, signals: Signals) -> Times:
    lane = await BulkLane.connect(job.receive_endpoint, name="bench", timeout_s=_CONNECT_S)
    warm = await _lane_open_receiver(lane, job.transfer("warm", job.warm_tokens), job.secret) if job.warm_bytes else None
    receivers = [
        await _lane_open_receiver(lane, job.transfer(str(number), job.tokens), job.secret) for number in range(job.transfers)
    ]
    signals.ready(None)
    if warm is not None:
        await warm.verified(_DEADLINE_S)
        await warm.close()
    await asyncio.gather(*(receiver.verified(_DEADLINE_S) for receiver in receivers))
    for receiver in receivers:
        await receiver.close()
    await lane.close()
    return min(receiver.first_frame_at for receiver in receivers), max(receiver.last_frame_at for receiver in receivers)


async def _lane_open_receiver(lane: BulkLane, transfer: KVTransfer, secret: bytes | None) -> KVReceiver:
    half = transfer.prefill_tokens * _TOKEN_BYTES // 2
    keys = [memoryview(bytearray(b"\1" * half)) for _ in range(LAYERS)]
    values = [memoryview(bytearray(b"\1" * half)) for _ in range(LAYERS)]

    def install(piece: KVPiece) -> None:
        layer, start, end = piece.range
        low, high = start * _TOKEN_BYTES // 2, end * _TOKEN_BYTES // 2
        keys[layer][low:high] = piece.keys
        values[layer][low:high] = piece.values

    return await KVReceiver(lane, transfer, LAYOUT, install, timeout_s=_DEADLINE_S, secret=secret).open()


class _Sink(asyncio.BufferedProtocol):
    def __init__(self, target: memoryview, done: "asyncio.Future[Times]") -> None:
        self._target, self._fill, self._done, self._first = target, 0, done, 0.0

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._target[self._fill :] or memoryview(bytearray(1))  # for the end of the stream

    def buffer_updated(self, nbytes: int) -> None:
        self._first = self._first or time.monotonic()
        self._fill += nbytes
        if self._fill == len(self._target):
            self._done.set_result((self._first, time.monotonic()))


class _Source(asyncio.Protocol):
    def __init__(self) -> None:
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.transport.set_write_buffer_limits(high=1 << 20)

    def pause_writing(self) -> None:
        self._resumed.clear()

    def resume_writing(self) -> None:
        self._resumed.set()

    async def send(self, parts: list[memoryview]) -> None:
        self.transport.writelines(parts)
        await self._resumed.wait()

    async def close(self) -> None:
        """Returns when everything has left."""
        self.transport.close()
        await self._lost.wait()


async def tcp_send(job: Job, signals: Signals) -> Times:
    assert job.tcp_address is not None
    _, source = await asyncio.get_running_loop().create_connection(_Source, *job.tcp_address)
    pieces = _pieces(job, job.tokens)
    signals.ready(None)
    signals.go()
    start = last_at = time.monotonic()
    for piece in pieces:
        if job.pace_s:
            await asyncio.sleep(job.pace_s)
        last_at = time.monotonic()
        await source.send([piece.keys, piece.values])
    await source.close()
    return (last_at if job.pace_s else start), time.monotonic()


async def tcp_receive(job: Job, signals: Signals) -> Times:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Times] = loop.create_future()
    target = memoryview(bytearray(b"\1" * (job.tokens * LAYERS * _TOKEN_BYTES)))
    server = await loop.create_server(lambda: _Sink(target, done), "127.0.0.1", job.tcp_port)
    signals.ready(server.sockets[0].getsockname()[1])
    times = await done
    server.close()
    return times


async def streams_send(job: Job, signals: Signals) -> Times:
    assert job.tcp_address is not None
    _, writer = await asyncio.open_connection(*job.tcp_address)
    pieces = _pieces(job, job.tokens)
    signals.ready(None)
    signals.go()
    start = time.monotonic()
    for piece in pieces:
        writer.write(piece.keys)
        writer.write(piece.values)
        await writer.drain()
    end = time.monotonic()
    writer.close()
    await writer.wait_closed()
    return start, end


async def streams_receive(job: Job, signals: Signals) -> Times:
    done: asyncio.Future[Times] = asyncio.get_running_loop().create_future()
    target = memoryview(bytearray(b"\1" * (job.tokens * LAYERS * _TOKEN_BYTES)))

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fill, first = 0, 0.0
        while fill < len(target):
            data = await reader.read(1 << 20)
            first = first or time.monotonic()
            target[fill : fill + len(data)] = data
            fill += len(data)
        done.set_result((first, time.monotonic()))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", job.tcp_port, limit=1 << 20)
    signals.ready(server.sockets[0].getsockname()[1])
    times = await done
    server.close()
    return times


async def _nats(endpoint: NatsEndpoint) -> Any:
    seed = None if endpoint.nkey_seed_file is None else str(Path(endpoint.nkey_seed_file))
    return await nats.connect(endpoint.url, nkeys_seed=seed, pending_size=64 << 20)


async def object_store_send(job: Job, signals: Signals) -> Times:
    client = await _nats(job.send_endpoint)
    store = await client.jetstream().object_store(BUCKET)
    data = b"".join(part for piece in _pieces(job, job.tokens) for part in (piece.keys, piece.values))
    signals.ready(None)
    signals.go()
    start = time.monotonic()
    await store.put(job.run, data)
    end = time.monotonic()
    await client.close()
    return start, end


async def object_store_receive(job: Job, signals: Signals) -> Times:
    """Learns over core NATS when the put is done: get() has no way to begin sooner."""
    client = await _nats(job.receive_endpoint)
    store = await client.jetstream().object_store(BUCKET)
    signals.ready(None)
    while True:
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await store.get_info(job.run)
            break
        await asyncio.sleep(0.001)
    first = time.monotonic()
    sink = io.BytesIO(bytes(job.total_bytes))
    await store.get(job.run, writeinto=sink)
    end = time.monotonic()
    await store.delete(job.run)
    await client.close()
    return first, end


_ASYNC_CHUNK_BYTES = 512 << 10


async def nats_async_send(job: Job, signals: Signals) -> Times:
    client = await _nats(job.send_endpoint)
    stream = client.jetstream(publish_async_max_pending=16)
    data = memoryview(b"".join(part for piece in _pieces(job, job.tokens) for part in (piece.keys, piece.values)))
    signals.ready(None)
    signals.go()
    start = time.monotonic()
    for offset in range(0, len(data), _ASYNC_CHUNK_BYTES):
        chunk = bytes(data[offset : offset + _ASYNC_CHUNK_BYTES])
        await stream.publish_async(f"$O.{BUCKET}.C.{job.run}", chunk, wait_stall=_DEADLINE_S)
    await stream.publish_async_completed()
    end = time.monotonic()
    await client.close()
    return start, end


async def nats_async_receive(job: Job, signals: Signals) -> Times:
    client = await _nats(job.receive_endpoint)
    target = memoryview(bytearray(b"\1" * job.total_bytes))
    done: asyncio.Future[Times] = asyncio.get_running_loop().create_future()
    fill, first = 0, 0.0

    async def take(message: Any) -> None:
        nonlocal fill, first
        first = first or time.monotonic()
        target[fill : fill + len(message.data)] = message.data
        fill += len(message.data)
        if fill == job.total_bytes:
            done.set_result((first, time.monotonic()))

    config = ConsumerConfig(idle_heartbeat=0.5)
    await client.jetstream().subscribe(f"$O.{BUCKET}.C.{job.run}", cb=take, ordered_consumer=True, config=config)
    signals.ready(None)
    times = await done
    await client.jetstream().purge_stream(f"OBJ_{BUCKET}", subject=f"$O.{BUCKET}.C.{job.run}")
    await client.close()
    return times


METHODS = {
    "tcp": (tcp_send, tcp_receive),
    "streams": (streams_send, streams_receive),
    "object store": (object_store_send, object_store_receive),
    "nats-py async": (nats_async_send, nats_async_receive),
    "lane": (lane_send, lane_receive),
}
