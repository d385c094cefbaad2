"""The ways to move a KV cache between two processes that `make bench-kv` compares. Each is a sender and a receiver coroutine.

A sender connects, calls `ready`, waits for `go`, and returns (start, end) on the system's monotonic clock; a receiver calls `ready`
when it can take the first byte and returns (first byte, complete). All move the same bytes, from prepared memory into prepared memory.
"""

import asyncio
import contextlib
import io
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import msgspec
import nats
from nats.js.api import ConsumerConfig

from prfaas.bus.bulk import BulkLane
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.kvcache.link import Link, LinkConfig
from prfaas.kvcache.reader import KVReader
from prfaas.kvcache.writer import KVWriter

LAYERS = 32
_TOKEN_BYTES = 2 * 4 * 128 * 2
CHUNK_TOKENS = 512
LAYOUT = KVLayout(dtype="bfloat16", layers=tuple(LayerSpec(kind=LayerKind.FULL, kv_heads=4, head_dim=128) for _ in range(LAYERS)))
_DEADLINE_S = 120.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One measured run. `index` tells several transfers of one run apart."""

    run: str
    total_bytes: int
    send_url: str
    receive_url: str
    storage: str = "memory"
    object_digest: bool = True
    pace_s: float = 0.0
    """Between two pieces: prefill computes as it ships. 0: as fast as it goes."""
    options: dict[str, Any] = {}

    @property
    def tokens(self) -> int:
        return self.total_bytes // (LAYERS * _TOKEN_BYTES)

    @property
    def transfer(self) -> KVTransfer:
        return KVTransfer(
            transfer_id=self.run, attempt=1, bucket="kv-bench", nuid=self.run, prefill_tokens=self.tokens, fingerprint="bench"
        )


class Signals(NamedTuple):
    ready: Callable[[Any], None]
    go: Callable[[], None]


Times = tuple[float, float]


def _pieces(job: Job) -> list[KVPiece]:
    """Each has memory of its own, as an engine's chunks have, with bytes that are not all the same."""
    pieces = []
    for start in range(0, job.tokens, CHUNK_TOKENS):
        for layer in range(LAYERS):
            end = min(start + CHUNK_TOKENS, job.tokens)
            half = (end - start) * _TOKEN_BYTES // 2
            pattern = (start * 31 + layer).to_bytes(8, "little")
            keys, values = bytearray(pattern * (half // 8)), bytearray(pattern[::-1] * (half // 8))
            pieces.append(KVPiece(LayerRange(layer, start, end), memoryview(keys), memoryview(values)))
    return pieces


async def lane_send(job: Job, signals: Signals) -> Times:
    lane = await BulkLane.connect(NatsEndpoint(url=job.send_url), name="bench", deadline_s=5)
    pieces = _pieces(job)
    link = Link(LinkConfig(**job.options.get("link", {})))
    signals.ready(None)
    signals.go()
    start = time.monotonic()
    writer = await KVWriter.open(lane, job.transfer, LAYOUT, deadline_s=_DEADLINE_S, link=link, object_digest=job.object_digest, lossless=False)

    def put() -> None:
        for piece in pieces:
            writer.put(piece)
            if job.pace_s:
                time.sleep(job.pace_s)

    await asyncio.to_thread(put)
    put_at = time.monotonic()
    await writer.close()
    end = time.monotonic()
    await lane.close()
    return (put_at if job.pace_s else start), end


async def lane_receive(job: Job, signals: Signals) -> Times:
    lane = await BulkLane.connect(NatsEndpoint(url=job.receive_url), name="bench", deadline_s=5)
    half = job.tokens * _TOKEN_BYTES // 2
    keys = [bytearray(b"\1" * half) for _ in range(LAYERS)]
    values = [bytearray(b"\1" * half) for _ in range(LAYERS)]

    def install(piece: KVPiece) -> None:
        layer, start, end = piece.range
        low, high = start * _TOKEN_BYTES // 2, end * _TOKEN_BYTES // 2
        memoryview(keys[layer])[low:high] = piece.keys
        memoryview(values[layer])[low:high] = piece.values

    reader = await KVReader.open(lane, job.transfer, LAYOUT, install, deadline_s=_DEADLINE_S)
    signals.ready(None)
    report = await reader.verified(_DEADLINE_S)
    await reader.close()
    await lane.close()
    return report.first_frame_at, report.last_frame_at


class _Sink(asyncio.BufferedProtocol):
    def __init__(self, target: memoryview, done: "asyncio.Future[Times]") -> None:
        self._target, self._fill, self._done, self._first = target, 0, done, 0.0

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._target[self._fill :]

    def buffer_updated(self, nbytes: int) -> None:
        self._first = self._first or time.monotonic()
        self._fill += nbytes
        if self._fill == len(self._target):
            self._done.set_result((self._first, time.monotonic()))


class _Source(asyncio.Protocol):
    def __init__(self) -> None:
        self._resumed = asyncio.Event()
        self._resumed.set()

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


async def tcp_send(job: Job, signals: Signals) -> Times:
    host, port = job.options["tcp"]
    _, source = await asyncio.get_running_loop().create_connection(_Source, host, port)
    pieces = _pieces(job)
    signals.ready(None)
    signals.go()
    start = put_at = time.monotonic()
    for piece in pieces:
        await source.send([piece.keys, piece.values])
        if job.pace_s:
            put_at = time.monotonic() + job.pace_s
            await asyncio.sleep(job.pace_s)
    end = time.monotonic()
    source.transport.close()
    return (put_at if job.pace_s else start), end


async def tcp_receive(job: Job, signals: Signals) -> Times:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Times] = loop.create_future()
    target = memoryview(bytearray(b"\1" * (job.tokens * LAYERS * _TOKEN_BYTES)))
    server = await loop.create_server(lambda: _Sink(target, done), "127.0.0.1", job.options.get("port", 0))
    signals.ready(server.sockets[0].getsockname()[1])
    times = await done
    server.close()
    return times


async def streams_send(job: Job, signals: Signals) -> Times:
    _, writer = await asyncio.open_connection(*job.options["tcp"])
    pieces = _pieces(job)
    signals.ready(None)
    signals.go()
    start = time.monotonic()
    for piece in pieces:
        writer.write(piece.keys)
        writer.write(piece.values)
        await writer.drain()
    end = time.monotonic()
    writer.close()
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

    server = await asyncio.start_server(accept, "127.0.0.1", job.options.get("port", 0), limit=1 << 20)
    signals.ready(server.sockets[0].getsockname()[1])
    times = await done
    server.close()
    return times


async def object_store_send(job: Job, signals: Signals) -> Times:
    client = await nats.connect(job.send_url)
    store = await client.jetstream().object_store("kv-bench")
    data = b"".join(part for piece in _pieces(job) for part in (piece.keys, piece.values))
    signals.ready(None)
    signals.go()
    start = time.monotonic()
    await store.put(job.run, data)
    end = time.monotonic()
    await client.close()
    return start, end


async def object_store_receive(job: Job, signals: Signals) -> Times:
    """Learns over core NATS when the put is done: get() has no way to begin sooner."""
    client = await nats.connect(job.receive_url)
    store = await client.jetstream().object_store("kv-bench")
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
    client = await nats.connect(job.send_url, pending_size=64 << 20)
    stream = client.jetstream(publish_async_max_pending=16)
    data = memoryview(b"".join(part for piece in _pieces(job) for part in (piece.keys, piece.values)))
    signals.ready(None)
    signals.go()
    start = time.monotonic()
    for offset in range(0, len(data), _ASYNC_CHUNK_BYTES):
        chunk = bytes(data[offset : offset + _ASYNC_CHUNK_BYTES])
        await stream.publish_async(f"$O.kv-bench.C.{job.run}", chunk, wait_stall=_DEADLINE_S)
    await stream.publish_async_completed()
    end = time.monotonic()
    await client.close()
    return start, end


async def nats_async_receive(job: Job, signals: Signals) -> Times:
    client = await nats.connect(job.receive_url)
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
    await client.jetstream().subscribe(f"$O.kv-bench.C.{job.run}", cb=take, ordered_consumer=True, config=config)
    signals.ready(None)
    times = await done
    await client.jetstream().purge_stream("OBJ_kv-bench", subject=f"$O.kv-bench.C.{job.run}")
    await client.close()
    return times


METHODS = {
    "raw TCP": (tcp_send, tcp_receive),
    "asyncio streams": (streams_send, streams_receive),
    "nats-py ObjectStore": (object_store_send, object_store_receive),
    "nats-py async + ordered": (nats_async_send, nats_async_receive),
    "lane": (lane_send, lane_receive),
}
