import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from prfaas.bus import subscription as subscription_module
from prfaas.bus.connection import in_own_task
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import (
    BusTimeoutError,
    MessageTooLargeError,
    NoRespondersError,
    NotConnectedError,
    RemoteError,
)
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import PlaceRequest
from prfaas.contracts.wire import BadMessageError, encode
from prfaas.stack.nats_server import NatsServer
from tests.bus.conftest import Connect

DEADLINE_S = 60.0
PLACE = PlaceRequest(request_id="r1", model="m", prompt_tokens=7, max_tokens=1, ttft_deadline_s=30.0)
REFUSAL = Refusal(code="busy", message="later", retry_after_s=1.0)
PLACEMENT = Placement(
    transfer_id="t", prefill_site="a", decode_worker="d", outcome=Outcome.LOCAL_SHORT, reason="short", fallback_after_s=1.0
)


async def test_a_request_is_answered_by_one_of_a_union(connect: Connect) -> None:
    bus = await connect()
    answers: dict[str, Placement | Refusal] = {"r1": PLACEMENT, "r2": REFUSAL}

    async def place(request: PlaceRequest) -> Placement | Refusal:
        return answers[request.request_id]

    await bus.serve("place", PlaceRequest, place)
    assert await bus.request("place", PLACE, Placement | Refusal, DEADLINE_S) == PLACEMENT
    other = PlaceRequest(request_id="r2", model="m", prompt_tokens=7, max_tokens=1, ttft_deadline_s=30.0)
    assert await bus.request("place", other, Placement | Refusal, DEADLINE_S) == REFUSAL


async def test_requests_to_nobody_and_to_the_silent(connect: Connect) -> None:
    bus = await connect()
    with pytest.raises(NoRespondersError, match="nobody answers on place"):
        await bus.request("place", PLACE, Refusal, DEADLINE_S)
    await bus.client.subscribe("place", cb=_ignore)
    with pytest.raises(BusTimeoutError, match=r"a request to place got no answer within 0\.05 s"):
        await bus.request("place", PLACE, Refusal, 0.05)


async def _ignore(_message: object) -> None:
    pass


async def test_what_a_handler_raises_reaches_the_caller(connect: Connect) -> None:
    bus = await connect()

    async def fail(request: PlaceRequest) -> Refusal:
        if request.request_id == "r1":
            raise RemoteError("no_such_model", "m is not served here")
        if request.request_id == "r2":
            raise asyncio.CancelledError
        raise ZeroDivisionError("a bug\nin two lines")

    subscription = await bus.serve("place", PlaceRequest, fail)
    for request_id, code, text in (
        ("r1", "no_such_model", "m is not served here"),
        ("r2", "cancelled", "the handler of place was stopped"),
        ("r3", "internal", "ZeroDivisionError: a bug in two lines"),
    ):
        request = PlaceRequest(request_id=request_id, model="m", prompt_tokens=7, max_tokens=1, ttft_deadline_s=30.0)
        with pytest.raises(RemoteError, match=text) as caught:
            await bus.request("place", request, Refusal, DEADLINE_S)
        assert caught.value.code == code
    with pytest.raises(RemoteError, match="is no PlaceRequest") as caught:
        await bus.request("place", REFUSAL, Refusal, DEADLINE_S)
    assert caught.value.code == "bad_message"
    assert subscription.failed == 3
    answer = await bus.request_raw("place", b"", DEADLINE_S)  # asks whether anybody answers
    assert "an empty message is no request" in str(answer.headers)
    assert subscription.failed == 3


async def test_a_reply_of_the_wrong_type_is_an_error(connect: Connect) -> None:
    bus = await connect()

    async def place(_request: PlaceRequest) -> Refusal:
        return REFUSAL

    await bus.serve("place", PlaceRequest, place)
    with pytest.raises(BadMessageError, match="is no Placement"):
        await bus.request("place", PLACE, Placement, DEADLINE_S)


async def test_requests_run_beside_one_another_and_beyond_the_bound_are_told_so(connect: Connect) -> None:
    bus = await connect()
    running = 0
    two_run, finish = asyncio.Event(), asyncio.Event()

    async def slow(_request: PlaceRequest) -> Refusal:
        nonlocal running
        running += 1
        if running == 2:
            two_run.set()
        await finish.wait()
        return REFUSAL

    subscription = await bus.serve("place", PlaceRequest, slow, max_running=2)
    asked = [asyncio.create_task(bus.request("place", PLACE, Refusal, DEADLINE_S)) for _ in range(20)]
    await asyncio.wait_for(two_run.wait(), DEADLINE_S)
    async with asyncio.timeout(DEADLINE_S):
        while subscription.dropped == 0:
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    finish.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    overloaded = [result for result in results if isinstance(result, RemoteError) and result.code == "overloaded"]
    assert len(overloaded) == subscription.dropped > 0
    assert [result for result in results if result not in overloaded] == [REFUSAL] * (20 - len(overloaded))


async def test_no_way_in_which_a_request_ends_keeps_its_place(connect: Connect) -> None:
    bus, asker = await connect(), await connect("asker")
    ends: list[Exception | asyncio.CancelledError | None] = [None, ZeroDivisionError(), RemoteError("busy", "later")]
    ends.append(asyncio.CancelledError())
    asked = 0

    async def place(_: PlaceRequest) -> Refusal:
        nonlocal asked
        asked += 1
        if (end := ends[asked % len(ends)]) is not None:
            raise end
        return REFUSAL

    subscription = await bus.serve("place", PlaceRequest, place, max_running=2)
    for payload in [b"", b"no message", encode(PLACE)] * 12:
        await asker.request_raw("place", payload, DEADLINE_S)
    assert (asked, subscription.dropped) == (12, 0)


async def test_messages_are_handled_in_order_past_bad_ones(connect: Connect) -> None:
    bus = await connect()
    seen: list[str] = []
    last = asyncio.Event()

    def handle(message: Refusal) -> None:
        seen.append(message.code)
        if message.code == "2":
            raise ZeroDivisionError
        if message.code == "9":
            last.set()

    subscription = await bus.subscribe("events", Refusal, handle)
    await bus.publish("events", PLACE)
    for number in range(10):
        await bus.publish("events", Refusal(code=str(number), message="", retry_after_s=0))
    await asyncio.wait_for(last.wait(), DEADLINE_S)
    assert seen == [str(number) for number in range(10)]
    assert subscription.failed == 2
    assert subscription.dropped == 0


async def test_a_cancellation_inside_a_handler_does_not_end_the_subscription(connect: Connect) -> None:
    bus = await connect()
    done = asyncio.Event()

    async def handle(message: Refusal) -> None:
        if message.code == "first":
            raise asyncio.CancelledError
        done.set()

    subscription = await bus.subscribe("events", Refusal, handle)
    for code in ("first", "second"):
        await bus.publish("events", Refusal(code=code, message="", retry_after_s=0))
    await asyncio.wait_for(done.wait(), DEADLINE_S)
    assert subscription.failed == 1


async def test_a_full_queue_drops_and_counts(connect: Connect) -> None:
    bus = await connect()
    handled = 0
    go_on = asyncio.Event()

    async def slow(_message: Refusal) -> None:
        nonlocal handled
        await go_on.wait()
        handled += 1

    subscription = await bus.subscribe("events", Refusal, slow, max_pending=4)
    for _ in range(100):
        await bus.publish("events", REFUSAL)
    await bus.client.flush()
    await bus.request_raw("$SYS.REQ.USER.INFO", b"", DEADLINE_S)  # all messages before its reply have been read
    go_on.set()
    await subscription.drain()
    assert subscription.dropped > 0
    assert handled + subscription.dropped == 100


async def test_trace_context_crosses_and_does_not_stick(connect: Connect) -> None:
    bus = await connect()
    seen: list[int] = []

    async def note(_request: PlaceRequest) -> Refusal:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        return REFUSAL

    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))
    with trace.use_span(span):
        await bus.serve("place", PlaceRequest, note)
        await bus.request("place", PLACE, Refusal, DEADLINE_S)
    await bus.request("place", PLACE, Refusal, DEADLINE_S, parent=span)
    await bus.request("place", PLACE, Refusal, DEADLINE_S)
    assert seen == [0xABC, 0xABC, 0]


async def test_no_trace_headers_without_a_trace(connect: Connect) -> None:
    bus = await connect()
    subscription = await bus.client.subscribe("events")
    await bus.publish("events", REFUSAL)
    assert (await subscription.next_msg(DEADLINE_S)).headers is None


async def test_too_large_a_message_is_refused_before_it_costs_the_connection(connect: Connect) -> None:
    bus = await connect()
    with pytest.raises(MessageTooLargeError, match="exceeds the server's limit of"):
        await bus.publish("events", Refusal(code="x" * bus.client.max_payload, message="", retry_after_s=0))
    assert bus.connected


async def test_a_server_restart_is_survived(server: NatsServer, connect: Connect) -> None:
    bus, other = await connect("one"), await connect("two")

    async def place(_request: PlaceRequest) -> Refusal:
        return REFUSAL

    await bus.serve("place", PlaceRequest, place)
    server.kill()
    with pytest.raises(BusTimeoutError):
        await other.request("place", PLACE, Refusal, 0.3)
    await server.restart()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                assert await other.request("place", PLACE, Refusal, 1.0) == REFUSAL
                break
            except (BusTimeoutError, NoRespondersError):
                continue
    assert not bus.closed.is_set()


async def test_drain_finishes_what_runs_and_replies(connect: Connect) -> None:
    bus, caller = await connect("server"), await connect("caller")
    started, finish = asyncio.Event(), asyncio.Event()

    async def slow(_request: PlaceRequest) -> Refusal:
        started.set()
        await finish.wait()
        return REFUSAL

    await bus.serve("place", PlaceRequest, slow)
    asked = asyncio.create_task(caller.request("place", PLACE, Refusal, DEADLINE_S))
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    draining = asyncio.create_task(bus.drain())
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await caller.request("place", PLACE, Refusal, 0.2)
            except NoRespondersError:
                break
            except BusTimeoutError:
                continue
    finish.set()
    assert await asked == REFUSAL
    await draining
    assert bus.closed.is_set()
    with pytest.raises(NotConnectedError):
        await bus.publish("events", REFUSAL)


async def test_a_handler_that_does_not_end_is_stopped_at_the_deadline_and_its_caller_told(connect: Connect) -> None:
    bus, caller = await connect("server"), await connect("caller")
    started = asyncio.Event()

    async def hang(_request: PlaceRequest) -> Refusal:
        started.set()
        await asyncio.Event().wait()
        return REFUSAL

    await bus.serve("place", PlaceRequest, hang)
    asked = asyncio.create_task(caller.request("place", PLACE, Refusal, DEADLINE_S))
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    await bus.drain(timeout_s=0.1)
    with pytest.raises(RemoteError, match="was stopped"):
        await asked


async def test_a_cancellation_that_comes_with_the_result_is_not_lost() -> None:
    result = asyncio.get_running_loop().create_future()

    async def wait_as_nats_py_does() -> None:
        await asyncio.wait_for(result, DEADLINE_S)

    async def work() -> str:
        await in_own_task(wait_as_nats_py_does())
        return "went on"

    task = asyncio.create_task(work())
    for _ in range(5):
        await asyncio.sleep(0)
    result.set_result(None)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_drain_does_not_wait_for_a_server_that_is_gone(
    tmp_path: Path, run: Callable[[Coroutine[None, None, None]], None]
) -> None:
    async def lose_the_server() -> None:
        async with asyncio.timeout(DEADLINE_S), NatsServer(tmp_path) as server:
            bus = await ControlBus.connect(NatsEndpoint(url=server.client_url), "test")
            await bus.subscribe("events", Refusal, lambda _message: None)
            server.kill()
            with pytest.raises(BusTimeoutError):
                await bus.request("place", PLACE, Refusal, 0.1)
            await bus.publish("events", REFUSAL)  # buffered until it reconnects, which it never will
            await bus.drain(timeout_s=10 * DEADLINE_S)
            assert bus.closed.is_set()

    run(lose_the_server())


async def test_a_subscription_ends_while_the_server_stands_still_and_is_not_renewed_when_it_is_back(
    server: NatsServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "DRAIN_S", 0.1)
    bus, other = await connect(), await connect()
    heard: list[Refusal] = []
    subscription = await bus.subscribe("events", Refusal, heard.append)
    await bus.client.flush()
    server.pause()
    try:
        async with asyncio.timeout(DEADLINE_S):
            await subscription.drain()
    finally:
        server.resume()
    await bus.client.force_reconnect()
    await other.publish("events", REFUSAL)
    await other.client.flush()
    await bus.client.flush()
    assert heard == [] and subscription.nats is not None and subscription.nats._id not in bus.client._subs
