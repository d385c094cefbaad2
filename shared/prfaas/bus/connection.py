"""One NATS connection of the control account, with settings that neither hang, nor give up, nor hide errors."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from nats import errors as nats_errors
from nats.aio.client import Client

from prfaas.bus.closing_transport import ClosingTransport
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import BusError, NotConnectedError, PermissionDeniedError
from prfaas.bus.reply_inbox import subject_token
from prfaas.bus.seed_file import LOOK_EVERY_S, SeedFile
from prfaas.contracts import subjects
from prfaas.telemetry.logs import get_logger

_log = get_logger(__name__)
RECONNECT_WAIT_S = 0.2
_PING_INTERVAL_S = 5
"""Interval of pings, of which 2 may be outstanding: a server that stopped answering is noticed within 15 s."""
_FLUSH_S = 5
QUIET_WAIT_S = 20.0
"""Time that a new key waits for a moment in which no message is awaited. Then it is taken all the same."""
_PENDING_BYTES = 4 << 20
"""Bytes buffered while reconnecting; a publish beyond them fails."""
_FATAL = ("authorization", "nkey", "maximum connections", "user authentication")
_DENIED = re.compile(r'permissions violation for (?:publish to|subscription to) "([^"]+)"')

Result = TypeVar("Result")
Denied = Callable[[str, BusError], None]
Slow = Callable[[nats_errors.SlowConsumerError], Awaitable[None]]


class Connection:
    """Owns a nats-py client and turns its callbacks into state, logs and calls."""

    def __init__(self, endpoint: NatsEndpoint, name: str, on_denied: Denied, on_slow: Slow) -> None:
        self.endpoint = endpoint
        self.client = Client()
        self.client._transport = ClosingTransport()  # type: ignore[no-untyped-call]
        self.closed = asyncio.Event()
        """Set when the connection ended for good: drained, or refused by the server."""
        self.last_error: Exception | None = None
        self.losses = 0
        """Times that the connection broke, each counted before it is back."""
        self._name = name
        self._on_denied = on_denied
        self._on_slow = on_slow
        self._fatal: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._lost = False
        self._told = ""
        """Error that the log has, until the next reconnect."""
        self._seed = SeedFile(endpoint.nkey_seed_file)
        self._watching: asyncio.Task[None] | None = None
        self.may_reconnect: Callable[[], bool] = lambda: True
        """True when messages that come in the moment of a reconnect may be lost. A new key waits for that, `QUIET_WAIT_S` at
        most."""

    @property
    def connected(self) -> bool:
        return bool(self.client.is_connected)

    async def open(self, timeout_s: float) -> None:
        """Connects, and tries again until it succeeds.

        Raises NotConnectedError at the deadline, or at once when the server refuses this user."""
        url, site = self.endpoint.url, self.endpoint.site
        connecting = asyncio.create_task(
            self.client.connect(
                self.endpoint.urls,
                name=self._name,
                inbox_prefix=subjects.replies(site, site, subject_token(self._name)),  # for what nats-py asks of JetStream
                nkeys_seed_str=self._take_seed(),
                tls=ssl.create_default_context(cafile=self.endpoint.tls_ca_file) if url.startswith("tls://") else None,
                tls_handshake_first=url.startswith("tls://"),
                reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # it sleeps for it
                max_reconnect_attempts=-1,
                ping_interval=_PING_INTERVAL_S,
                max_outstanding_pings=2,
                pending_size=_PENDING_BYTES,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
            )
        )
        try:
            waiting: list[asyncio.Future[Any]] = [connecting, self._fatal]
            await asyncio.wait(waiting, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
                self._watching = asyncio.create_task(self._watch_seed(), name=f"key of {self._name}")
                return
            why = self._fatal.result() if self._fatal.done() else self.last_error
            wanted = "" if self._fatal.done() else f" within {timeout_s:g} s"
            raise NotConnectedError(f"no connection to NATS at {url}{wanted}: {why or 'no answer'}") from why
        except NotConnectedError:
            raise
        except Exception as error:  # also what the nkeys library raises for a bad seed
            raise NotConnectedError(f"no connection to NATS at {url}: {error}") from error
        finally:
            if not connecting.done():
                connecting.cancel()
                await asyncio.wait([connecting])
                await self.client.close()

    def _take_seed(self) -> str | None:
        """Raises NotConnectedError."""
        try:
            return self._seed.take()
        except OSError as error:
            path = self.endpoint.nkey_seed_file
            raise NotConnectedError(f"the nkey seed file {path} cannot be read: {error.strerror}") from error

    async def _watch_seed(self) -> None:
        """Connects again when the seed has been replaced. What is sent meanwhile waits; what was sent before has left."""
        loop = asyncio.get_running_loop()
        until_at: float | None = None
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                if not self._seed.changed():
                    until_at = None
                    continue
                until_at = until_at or loop.time() + QUIET_WAIT_S
                if self.connected and (self.may_reconnect() or loop.time() >= until_at):
                    await self.client.flush(_FLUSH_S)
                    self._use_new_seed()
                    await self.client.force_reconnect()
            except Exception as error:  # tried again: the old key is good until it is taken out of the server
                _log.warning("key_not_taken", connection=self._name, reason=repr(error))

    def _use_new_seed(self) -> None:
        if self._seed.changed():
            # nats-py reads a seed once, when it connects first.
            self.client._nkeys_seed_str = self._seed.take()
            self.client._setup_nkeys_connect()
            _log.info("key_taken", connection=self._name)

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if not self.client.is_connected:
            # nats-py would write what it has buffered to the lost connection, which uvloop answers with a RuntimeError.
            self.client._pending = []
            self.client._pending_data_size = 0
        if not self.client.is_closed:
            await self.client.close()
        self.closed.set()

    async def _on_error(self, error: Exception) -> None:
        # An exception out of here would end nats-py's read loop for good.
        self.last_error = error
        text = str(error)
        if isinstance(error, nats_errors.SlowConsumerError):
            await self._on_slow(error)
        elif denied := _DENIED.search(text):
            _log.error("bus_permission_denied", connection=self._name, error=text)
            self._on_denied(denied.group(1), PermissionDeniedError(f"the server refused: {text.removeprefix('nats: ')}"))
        elif any(word in text.lower() for word in _FATAL):
            if not self._fatal.done():
                self._fatal.set_result(error)
                _log.error("bus_refused", connection=self._name, url=self.endpoint.url, error=text)
        elif not self._lost and text != self._told:  # while no server answers there would be one every 0.2 s
            self._told = text
            _log.warning("bus_error", connection=self._name, url=self.endpoint.url, error=text or repr(error))

    async def _on_disconnected(self) -> None:
        self.losses += 1
        if not self.client.is_closed:
            self._use_new_seed()
            self._lost = True
            _log.warning("bus_disconnected", connection=self._name, url=self.endpoint.url, error=repr(self.last_error))

    async def _on_reconnected(self) -> None:
        self._lost, self._told = False, ""
        _log.info("bus_reconnected", connection=self._name, url=self.endpoint.url)

    async def _on_closed(self) -> None:
        self.closed.set()


async def in_own_task(work: Coroutine[Any, Any, Result]) -> Result:
    """Awaits nats-py such that a cancellation is never lost: `asyncio.wait_for` of Python 3.11, on which nats-py waits, returns
    normally when it is cancelled in the moment in which its result comes, and the caller's loop would go on for ever."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task])
        return task.result()
    finally:
        task.cancel()
