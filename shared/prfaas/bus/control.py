"""The control bus of one process: typed requests, replies and messages in the control account, each with a deadline."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Self, TypeVar

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from opentelemetry.context import Context
from opentelemetry.trace import Span

from prfaas.bus.connection import Connection, in_own_task
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import (
    BusError,
    BusTimeoutError,
    MessageTooLargeError,
    NoRespondersError,
    NotConnectedError,
    RemoteError,
)
from prfaas.bus.reply_inbox import ReplyInbox
from prfaas.bus.subscription import Subscription
from prfaas.bus.trace_context import Headers, no_trace, trace_headers, trace_of
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.wire import BadMessageError, decode, encode
from prfaas.telemetry.logs import get_logger

if TYPE_CHECKING:
    from typing_extensions import TypeForm

Message = TypeVar("Message")
Reply = TypeVar("Reply")
_log = get_logger(__name__)
# How NATS services report errors (ADR-32), so that other tools read ours.
ERROR_CODE = "Nats-Service-Error-Code"
ERROR_TEXT = "Nats-Service-Error"
_NO_RESPONDERS = "503"
_HEADER_ROOM_BYTES = 64
_MAX_ERROR_CHARACTERS = 1000
_FLUSH_DEADLINE_S = 5
_MAX_PENDING_BYTES = 64 << 20


class ControlBus:
    """A connection to the own site's server. Survives its restarts; what was under way then ends in a BusTimeoutError."""

    def __init__(self, endpoint: NatsEndpoint, name: str) -> None:
        self._connection = Connection(endpoint, name, self._denied, self._slow)
        self._subscriptions: dict[int, Subscription] = {}
        self._handlers: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, set[asyncio.Future[BusError]]] = {}
        self._replies = ReplyInbox(endpoint.site, name)
        self.replicas = endpoint.replicas
        """Servers of the site's cluster that keep each stream."""

    @classmethod
    async def connect(cls, endpoint: NatsEndpoint, name: str, timeout_s: float = 10.0) -> Self:
        """`name` is what the server's monitoring shows. Raises NotConnectedError."""
        bus = cls(endpoint, name)
        await bus._connection.open(timeout_s)
        await bus._replies.open(bus.client)
        return bus

    @property
    def connected(self) -> bool:
        return self._connection.connected

    @property
    def losses(self) -> int:
        """Times that the connection broke, each counted before it is back."""
        return self._connection.losses

    @property
    def closed(self) -> asyncio.Event:
        """Set when the connection ended for good, by `drain` or by the server's refusal."""
        return self._connection.closed

    def reconnect_when(self, may_reconnect: Callable[[], bool]) -> None:
        """Has a new key wait for a moment in which no message is awaited: those of a reconnect's moment are lost. After
        `QUIET_WAIT_S` it waits no longer."""
        self._connection.may_reconnect = may_reconnect

    @property
    def client(self) -> Client:
        """nats-py's client, for what JetStream needs."""
        return self._connection.client

    def jetstream(self, timeout_s: float = 5.0) -> JetStreamContext:
        """JetStream of the own site."""
        return self.client.jetstream(timeout=timeout_s)

    async def publish(self, subject: str, message: Any, *, parent: Span | Context | None = None) -> None:
        """Sends at most once: without a listener, or over a link that breaks, the message is lost. It carries the trace context
        of `parent`, else the current one.

        Raises NotConnectedError, MessageTooLargeError."""
        await self.publish_raw(subject, encode(message), headers=trace_headers(parent))

    async def publish_raw(self, subject: str, payload: bytes, *, reply: str = "", headers: Headers | None = None) -> None:
        """Sends bytes of another protocol than ours, such as JetStream's. Raises as `publish`."""
        self._check_size(subject, payload, headers)
        try:
            await self.client.publish(subject, payload, reply, headers)
        except nats_errors.Error as error:
            raise self._not_connected(subject, error) from error

    async def request(
        self,
        subject: str,
        message: Any,
        reply_type: "TypeForm[Reply]",
        timeout_s: float,
        *,
        parent: Span | Context | None = None,
    ) -> Reply:
        """Raises BusTimeoutError, NoRespondersError, RemoteError (the handler's), PermissionDeniedError, NotConnectedError,
        MessageTooLargeError, BadMessageError."""
        reply = await self.request_raw(subject, encode(message), timeout_s, trace_headers(parent))
        if reply.headers and ERROR_CODE in reply.headers:
            raise RemoteError(reply.headers[ERROR_CODE], reply.headers.get(ERROR_TEXT, ""))
        return decode(reply.data, reply_type)

    async def request_raw(self, subject: str, payload: bytes, timeout_s: float, headers: Headers | None = None) -> Msg:
        """The plain request under `request`, also for a publish that JetStream acknowledges, in whatever site."""
        with self._denials(subject) as denied, self._replies.expect(subject) as (reply_to, answer):
            await self.publish_raw(subject, payload, reply=reply_to, headers=headers)
            waiting: list[asyncio.Future[Any]] = [answer, denied]
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if denied.done():
            raise denied.result()
        if not answer.done():
            raise BusTimeoutError(f"a request to {subject}", timeout_s)
        reply = answer.result()
        if reply.headers and reply.headers.get("Status") == _NO_RESPONDERS:
            raise NoRespondersError(subject)
        return reply

    async def serve(
        self,
        subject: str,
        request_type: "TypeForm[Message]",
        handler: Callable[[Message], Awaitable[Any]],
        *,
        max_running: int = 256,
        queue: str = "",
    ) -> Subscription:
        """Answers requests, up to `max_running` at once; more wait in the bounded queue, and beyond it are told `overloaded`.

        An empty message is answered with an error and noted nowhere: it asks whether anybody answers here.

        What the handler raises becomes the caller's RemoteError: a RemoteError with its own code, else `internal`. The caller's
        trace context is current while the handler runs. `queue` shares the subject among several processes."""
        room = asyncio.Semaphore(max_running)

        async def answer(message: Msg, subscription: Subscription) -> None:
            try:
                if not message.data:  # a caller asks whether this subject is answered: no fault to count or to log
                    await self._answer_error(message, BadMessageError("an empty message is no request"))
                    return
                reply = encode(await handler(decode(message.data, request_type)))
                if message.reply:
                    await self.publish_raw(message.reply, reply)
            except asyncio.CancelledError:
                await self._answer_error(message, RemoteError(FailureCode.CANCELLED, f"the handler of {subject} was stopped"))
                raise
            except RemoteError as error:
                subscription.failed += 1
                await self._answer_error(message, error)
            except Exception as error:
                subscription.fault(message.subject, error)
                await self._answer_error(message, error)

        def ended(task: asyncio.Task[None]) -> None:
            self._handlers.discard(task)
            room.release()

        async def start(message: Msg, subscription: Subscription) -> None:
            await room.acquire()
            with trace_of(message):  # a task copies the context that it is created in
                task = asyncio.get_running_loop().create_task(answer(message, subscription))
            self._handlers.add(task)
            # Not at the end of the handler: each of its ways out would have to remember the place.
            task.add_done_callback(ended)

        return await self._subscribe(subject, start, max_running, queue)

    async def subscribe(
        self,
        subject: str,
        message_type: "TypeForm[Message]",
        handler: Callable[[Message], Awaitable[None] | None],
        *,
        max_pending: int = 8192,
        queue: str = "",
    ) -> Subscription:
        """Calls `handler`, plain or async, with each message in order. Messages that do not decode and handlers that raise are
        logged and counted; the next message is handled all the same."""

        return await self.subscribe_raw(
            subject, lambda message: handler(decode(message.data, message_type)), max_pending=max_pending, queue=queue
        )

    async def subscribe_raw(
        self, subject: str, handler: Callable[[Msg], Awaitable[None] | None], *, max_pending: int = 8192, queue: str = ""
    ) -> Subscription:
        """The same for messages that are not ours, such as the server's advisories."""

        async def handle(message: Msg, subscription: Subscription) -> None:
            try:
                with trace_of(message):
                    result = handler(message)
                    if result is not None:
                        await result
            except (Exception, asyncio.CancelledError) as error:
                task = asyncio.current_task()
                if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                    raise
                # A cancelled wait inside the handler looks to nats-py like the subscription's own end.
                subscription.fault(message.subject, error)

        return await self._subscribe(subject, handle, max_pending, queue)

    async def drain(self, timeout_s: float = 10.0) -> None:
        """Ends all interest, lets running handlers finish and reply, sends what is buffered, closes."""
        try:
            async with asyncio.timeout(timeout_s):
                if self.connected:
                    await asyncio.gather(*(subscription.drain() for subscription in self._subscriptions.values()))
                while self._handlers:
                    await asyncio.wait(self._handlers)
                if self.connected:
                    await self.client.flush(_FLUSH_DEADLINE_S)
        except (TimeoutError, nats_errors.Error) as error:
            _log.warning("bus_drain_incomplete", timeout_s=timeout_s, handlers=len(self._handlers), error=repr(error))
        for task in self._handlers:
            task.cancel()
        if self._handlers:
            await asyncio.wait(self._handlers, timeout=1.0)
        await self._connection.close()

    async def _subscribe(
        self, subject: str, callback: Callable[[Msg, Subscription], Awaitable[None]], max_pending: int, queue: str
    ) -> Subscription:
        subscription = Subscription(subject)

        async def on_message(message: Msg) -> None:
            await callback(message, subscription)

        try:
            # Handlers run in a task that is made here, and copies the context: messages without a trace must find none.
            with self._denials(subject) as denied, no_trace():
                nats_subscription = await self.client.subscribe(
                    subject, queue, on_message, pending_msgs_limit=max_pending, pending_bytes_limit=_MAX_PENDING_BYTES
                )
                await self._flushed()  # from here on the server knows
        except nats_errors.TimeoutError:
            raise BusTimeoutError(f"a subscription to {subject}", 2 * _FLUSH_DEADLINE_S) from None
        except nats_errors.Error as error:
            raise self._not_connected(subject, error) from error
        if denied.done():
            raise denied.result()
        subscription.nats = nats_subscription
        self._subscriptions[nats_subscription._id] = subscription
        return subscription

    async def _flushed(self) -> None:
        """Returns when the server has read all that was sent. Asks twice: with a connection that breaks goes the answer too."""
        try:
            await in_own_task(self.client.flush(_FLUSH_DEADLINE_S))
        except nats_errors.TimeoutError:
            await in_own_task(self.client.flush(_FLUSH_DEADLINE_S))

    def _check_size(self, subject: str, payload: bytes, headers: Headers | None) -> None:
        # The server counts headers too, nats-py does not.
        in_headers = sum(len(name) + len(value) + 4 for name, value in headers.items()) + _HEADER_ROOM_BYTES if headers else 0
        if len(payload) + in_headers > self.client.max_payload:
            raise MessageTooLargeError(subject, len(payload) + in_headers, self.client.max_payload)

    async def _answer_error(self, request: Msg, error: Exception) -> None:
        if isinstance(error, RemoteError):
            code, text = error.code, error.message
        elif isinstance(error, BadMessageError):
            code, text = FailureCode.BAD_MESSAGE, str(error)
        else:
            code, text = FailureCode.INTERNAL, f"{type(error).__name__}: {error}"
        if not request.reply:
            return
        # One line: a line break in a header's value would end the header.
        headers = {ERROR_CODE: code, ERROR_TEXT: " ".join(text.split())[:_MAX_ERROR_CHARACTERS]}
        try:
            await self.publish_raw(request.reply, b"", headers=headers)
        except Exception as unsent:  # such as a reply subject that is none; the caller's deadline tells it
            _log.debug("bus_error_not_sent", subject=request.subject, reason=str(unsent))

    def _not_connected(self, subject: str, error: Exception) -> NotConnectedError:
        return NotConnectedError(f"nothing can be sent to {subject}: {str(error).removeprefix('nats: ') or repr(error)}")

    @contextlib.contextmanager
    def _denials(self, subject: str) -> Iterator[asyncio.Future[BusError]]:
        """A future that gets the server's refusal of this subject, which comes asynchronously and in lower case."""
        denied: asyncio.Future[BusError] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(subject.lower(), set())
        waiting.add(denied)
        try:
            yield denied
        finally:
            waiting.discard(denied)
            if not waiting:
                self._waiting.pop(subject.lower(), None)

    def _denied(self, subject: str, error: BusError) -> None:
        for waiting in self._waiting.get(subject, ()):
            if not waiting.done():
                waiting.set_result(error)

    async def _slow(self, error: nats_errors.SlowConsumerError) -> None:
        subscription = self._subscriptions.get(error.sid)
        if subscription is None:
            return
        subscription.dropped += 1
        if subscription.dropped & (subscription.dropped - 1) == 0:  # 1, 2, 4, 8 ...: a flood must not flood the log
            _log.error("bus_messages_dropped", subject=subscription.subject, dropped=subscription.dropped)
        if error.reply:
            text = f"{subscription.subject} has all its handlers busy and its queue full"
            with contextlib.suppress(BusError):
                await self.publish_raw(error.reply, b"", headers={ERROR_CODE: FailureCode.OVERLOADED, ERROR_TEXT: text})
