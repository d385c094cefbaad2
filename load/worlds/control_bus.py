"""Model of ControlBus for the real Leadership and RevisedEntry: raw requests to the site's server, and the bucket there."""

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import msgspec

from load.worlds.clockwork import Future, Process
from load.worlds.network import Network
from prfaas.bus.errors import BusTimeoutError, NoRespondersError

WRONG_REVISION = 10071
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
NOT_FOUND = {"Status": "404"}


class Reply(NamedTuple):
    data: bytes
    headers: dict[str, str]


class Asked(NamedTuple):
    """A request as the process hears it that answers."""

    reply: "Callable[[bytes], None]"


class LeaseBucket:
    """A bucket of one entry, in the memory of the site's server. It is there when it is asked for, as `ensure` would have it."""

    def __init__(self) -> None:
        self._value = b""
        self._revision = 0
        self.losses = 0
        """Times that the server has lost it."""

    def lose_memory(self) -> None:
        self._value, self._revision = b"", 0
        self.losses += 1

    def read(self) -> Reply:
        return Reply(self._value, {"Nats-Sequence": str(self._revision)} if self._revision else NOT_FOUND)

    def store(self, value: bytes, expected_revision: int) -> Reply:
        if expected_revision != self._revision:
            refusal = {"error": {"err_code": WRONG_REVISION, "description": "wrong last sequence"}}
            return Reply(msgspec.json.encode(refusal), {})
        self._value, self._revision = value, self._revision + 1
        return Reply(msgspec.json.encode({"seq": self._revision}), {})


class ControlBusModel:
    """One process's connection."""

    def __init__(self, process: Process, network: Network, bucket: LeaseBucket) -> None:
        self._process = process
        self._network = network
        self._bucket = bucket

    @property
    def losses(self) -> int:
        return self._process.connection

    async def subscribe_raw(self, subject: str, handler: Callable[[Asked], Coroutine[Any, Any, None]]) -> None:
        self._network.subscriptions[subject] = self._process, handler

    async def publish_raw(self, reply: Callable[[bytes], None], payload: bytes) -> None:
        reply(payload)

    async def request_raw(self, subject: str, payload: bytes, timeout_s: float, headers: dict[str, str] | None = None) -> Reply:
        """Raises NoRespondersError, BusTimeoutError."""
        process, answer = self._process, Future[Reply]()
        self._network.carry(
            (process, "raw"), process, process.site, process.site, self._at_server, subject, payload, headers or {}, answer
        )
        if not await process.wait([answer], timeout_s):
            raise BusTimeoutError(f"a request to {subject}", timeout_s)
        return answer.result()

    def _at_server(self, subject: str, payload: bytes, headers: dict[str, str], answer: Future[Reply]) -> None:
        if subject.startswith("$JS.API.DIRECT.GET."):
            self._answer(answer.set, self._bucket.read())
        elif EXPECTED in headers:
            self._answer(answer.set, self._bucket.store(payload, int(headers[EXPECTED])))
        else:
            self._ask(subject, answer)

    def _ask(self, subject: str, answer: Future[Reply]) -> None:
        process, handler = self._network.subscriptions.get(subject, (None, None))
        if process is None or handler is None or not process.connected:
            self._answer(answer.fail, NoRespondersError(subject))
            return
        asked = Asked(lambda data: self._answer(answer.set, Reply(data, {}), process))
        process.call_now(lambda: process.spawn(handler(asked)))

    def _answer(self, tell: Callable[[Any], None], reply: Reply | NoRespondersError, by: Process | None = None) -> None:
        """Carries an answer of the server, or of the process `by`, back to the one that asked."""
        process = self._process
        channel = (by or self, process, "raw answer")
        self._network.carry(channel, by, process.site, process.site, self._arrived, tell, reply)

    def _arrived(self, tell: Callable[[Any], None], reply: Reply | NoRespondersError) -> None:
        if self._process.connected:
            self._process.call_now(tell, reply)
