import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from prfaas.process.child import end_with_parent
from prfaas.wan import LinkChange, LinkShape, LinkState, WanProxy, change_link
from prfaas.wan.control import LinkControlError

DEADLINE_S = 60.0
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def link(shape: LinkShape, handler: Handler = echo) -> AsyncIterator[WanProxy]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with asyncio.timeout(DEADLINE_S), WanProxy(("127.0.0.1", server.sockets[0].getsockname()[1]), shape) as proxy:
        yield proxy
    server.close()


async def dial(proxy: WanProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.mark.parametrize(
    "shape",
    [
        LinkShape(),
        LinkShape(rtt_ms=4),
        LinkShape(rate_mbit=400, rtt_ms=4, jitter_ms=3, loss=0.001),
        LinkShape(rate_mbit=100, queue_ms=1),
    ],
)
async def test_every_byte_arrives_in_order_and_the_end_too(shape: LinkShape) -> None:
    sent = random.Random(0).randbytes(3_000_001)
    async with link(shape) as proxy:
        reader, writer = await dial(proxy)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read(-1) == sent
        await hang_up(writer)
        assert proxy.delivered_bytes == (len(sent), len(sent))


async def test_a_shaped_link_pushes_back_on_the_sender_and_holds_little() -> None:
    received = 0

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while data := await reader.read(1 << 16):
            received += len(data)
        writer.close()

    async with link(LinkShape(rate_mbit=80, rtt_ms=10), sink) as proxy:
        _, writer = await dial(proxy)
        sent = 0
        while sent < 4_000_000:  # 0.4 s of the link
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000
        # The link's queue and delay hold 30 ms, on a busy machine twice that; the rest is in the kernel's socket buffers.
        forward = proxy._forward  # what is admitted and has not arrived
        assert sum(len(item[3]) for item in forward._on_the_way) <= sent / 4
        await hang_up(writer)


async def test_a_reader_that_stops_reading_stops_the_sender() -> None:
    go_on = asyncio.Event()

    async def lazy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await echo(reader, writer)

    async with link(LinkShape(rtt_ms=1), lazy) as proxy:
        reader, writer = await dial(proxy)
        block = bytes(1 << 20)
        writer.transport.set_write_buffer_limits(high=1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1 << 30:
                writer.write(block)
                sent += len(block)
                await asyncio.wait_for(writer.drain(), 1.0)
        assert sent < 200 << 20, "only the proxy's and the kernel's bounded buffers may fill"
        go_on.set()
        await reader.readexactly(sent)
        await hang_up(writer)


async def test_cut_resets_and_refuses_until_restored() -> None:
    async with link(LinkShape(rtt_ms=1)) as proxy:
        reader, writer = await dial(proxy)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        port = proxy.port
        await proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await dial(proxy)
        await hang_up(writer)
        await proxy.restore()
        assert proxy.port == port
        reader, writer = await dial(proxy)
        writer.write(b"y")
        assert await reader.readexactly(1) == b"y"
        await hang_up(writer)


async def test_half_open_accepts_and_swallows_then_resets() -> None:
    async with link(LinkShape(rtt_ms=1)) as proxy:
        old_reader, old_writer = await dial(proxy)
        old_writer.write(b"x")
        assert await old_reader.readexactly(1) == b"x"
        await proxy.half_open()
        new_reader, new_writer = await dial(proxy)
        delivered = proxy.delivered_bytes
        for writer in (old_writer, new_writer):
            writer.write(bytes(1 << 20))
            await writer.drain()
        for reader in (old_reader, new_reader):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readexactly(1), 0.1)
        assert proxy.delivered_bytes == delivered
        await proxy.restore()
        for reader in (old_reader, new_reader):
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        for writer in (old_writer, new_writer):
            await hang_up(writer)


async def test_a_stall_loses_nothing() -> None:
    async with link(LinkShape(rate_mbit=800, rtt_ms=2)) as proxy:
        reader, writer = await dial(proxy)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        proxy.stall()
        sent = random.Random(1).randbytes(2_000_000)
        writer.write(sent)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(1), 0.1)
        proxy.stall(0.01)
        assert await reader.readexactly(len(sent)) == sent
        assert not proxy.stalled
        await hang_up(writer)


async def test_a_target_that_is_not_there_resets_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    async with asyncio.timeout(DEADLINE_S), WanProxy(("127.0.0.1", 1), LinkShape()) as proxy:
        reader, writer = await dial(proxy)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        await hang_up(writer)
    assert "cannot reach 127.0.0.1:1" in caplog.text


async def test_reshape_takes_effect_and_is_checked() -> None:
    async with link(LinkShape(rate_mbit=1, rtt_ms=1)) as proxy:
        proxy.reshape(rate_mbit=None)
        reader, writer = await dial(proxy)
        writer.write(bytes(50_000_000))  # 400 s at 1 Mbit/s
        await reader.readexactly(50_000_000)
        await hang_up(writer)
        with pytest.raises(ValueError, match="rtt-ms is -1"):
            proxy.reshape(rtt_ms=-1)


async def test_the_process_is_changed_over_its_control_port() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "prfaas.wan", "--connect", f"127.0.0.1:{target}", "--rate-mbit", "200", "--rtt-ms", "2"),
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=end_with_parent(),
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert process.stdout is not None
            ports = json.loads(await process.stdout.readline())
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["port"])
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            status = await change_link("127.0.0.1", ports["control-port"], LinkChange(rate_mbit=None, rtt_ms=4))
            assert status.shape == LinkShape(rate_mbit=None, rtt_ms=4)
            assert (status.forward_bytes, status.backward_bytes, status.connections) == (5, 5, 2)
            with pytest.raises(LinkControlError, match="rtt-ms is -4"):
                await change_link("127.0.0.1", ports["control-port"], LinkChange(rtt_ms=-4))
            status = await change_link("127.0.0.1", ports["control-port"], LinkChange(state=LinkState.CUT))
            assert (status.state, status.connections) == (LinkState.CUT, 0)
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            await hang_up(writer)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        server.close()
