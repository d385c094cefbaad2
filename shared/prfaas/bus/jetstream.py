"""Calls of JetStream that the job queue and the presence buckets need, with errors as sentences."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import APIError

from prfaas.bus.connection import in_own_task
from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusTimeoutError, NotConnectedError, StreamError, StreamFullError
from prfaas.bus.trace_context import Headers
from prfaas.contracts.wire import BadMessageError, decode_json

API_TIMEOUT_S = 5.0
_STREAM_EXISTS_DIFFERENTLY = 10058
_STORE_FAILED = 10077
T = TypeVar("T")


@contextmanager
def _as_bus_errors(what: str) -> Iterator[None]:
    try:
        yield
    except APIError as error:
        raise StreamError(f"{what}: JetStream refused: {error.description} ({error.err_code})", error.err_code or 0) from error
    except nats_errors.TimeoutError:
        raise BusTimeoutError(what, API_TIMEOUT_S) from None
    except nats_errors.NoRespondersError:
        raise StreamError(f"{what}: JetStream is not enabled for this account, or is still starting") from None
    except nats_errors.Error as error:
        raise NotConnectedError(f"{what}: {str(error).removeprefix('nats: ') or repr(error)}") from error


async def call(bus: ControlBus, what: str, use: Callable[[JetStreamContext], Coroutine[Any, Any, T]]) -> T:
    """Raises StreamError, BusTimeoutError, NotConnectedError; `what` begins their sentence."""
    with _as_bus_errors(what):
        return await in_own_task(use(bus.jetstream(API_TIMEOUT_S)))


async def ensure_stream(bus: ControlBus, config: StreamConfig) -> None:
    """Creates the stream in the own site, or brings it to this configuration. One that is there keeps its storage, which no
    server changes. As many servers keep it as the endpoint says.

    Raises the errors of `call`."""
    config = config.evolve(num_replicas=bus.replicas)

    async def create(jetstream: JetStreamContext) -> None:
        try:
            await jetstream.add_stream(config)
        except APIError as error:
            if error.err_code != _STREAM_EXISTS_DIFFERENTLY:
                raise
            known = await jetstream.stream_info(str(config.name))
            await jetstream.update_stream(config.evolve(storage=known.config.storage))

    await call(bus, f"the stream {config.name} cannot be made", create)


async def publish_acknowledged(
    bus: ControlBus, subject: str, payload: bytes, timeout_s: float, headers: Headers | None = None
) -> bool:
    """Stores a message in the stream that listens on the subject, in whatever site. Returns whether the stream had it already
    (Nats-Msg-Id). Raises as `store`."""
    return (await _publish(bus, subject, payload, timeout_s, headers)).duplicate


async def store(bus: ControlBus, subject: str, payload: bytes, timeout_s: float, headers: Headers | None = None) -> int:
    """Stores a message in the stream that listens on the subject, and returns its sequence number there.

    Raises StreamError when the stream refused it, and the errors of `ControlBus.request_raw`."""
    return (await _publish(bus, subject, payload, timeout_s, headers)).seq


async def _publish(bus: ControlBus, subject: str, payload: bytes, timeout_s: float, headers: Headers | None) -> "_PublishAnswer":
    reply: Msg = await bus.request_raw(subject, payload, timeout_s, headers)
    try:
        answer = decode_json(reply.data, _PublishAnswer)
    except BadMessageError:
        raise StreamError(f"{subject} answered with something that is no acknowledgement: {reply.data[:100]!r}") from None
    if error := answer.error:
        text = f"the stream of {subject} refused a message: {error.description} ({error.err_code})"
        full = error.err_code == _STORE_FAILED and error.description.startswith("maximum")
        raise (StreamFullError if full else StreamError)(text, error.err_code)
    return answer


class _ApiError(msgspec.Struct):
    description: str = ""
    err_code: int = 0


class _PublishAnswer(msgspec.Struct):
    error: _ApiError | None = None
    duplicate: bool = False
    seq: int = 0
