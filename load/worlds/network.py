"""Control messages as NATS promises them, and no more: at most once, in order per connection, requests with a deadline."""

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from load.worlds.clockwork import Clockwork, Future, Process
from prfaas.bus.errors import BusTimeoutError, NoRespondersError, RemoteError
from prfaas.contracts.codes import FailureCode

LOCAL_DELAY_S = 0.0005
SPIKE_SHARE = 0.02
SPIKE_S = 0.15
"""Longest pause that now and then comes on top of a delay."""
NO_RESPONDERS_S = 0.001


class UnansweredError(Exception):
    """Raised by a handler that gives no answer."""


@dataclass(slots=True)
class Link:
    """Both directions between two sites."""

    delay_s: float
    connection: int = 0
    """Number of the leaf connection: what an earlier one had under way is lost."""
    cut: bool = False
    silent: bool = False
    """True while the servers have not noticed yet that it is cut: a request over it has no answer instead of no responder."""
    stalled_until_s: float = 0.0
    slowness: float = 1.0


class Network:
    """Sites with a server each, links between them, and the processes at hand by name."""

    def __init__(self, clockwork: Clockwork, chance: random.Random) -> None:
        self.clockwork = clockwork
        self.processes: dict[str, Process] = {}
        """The process that has subscribed under each name, dead ones left out."""
        self._incarnations: dict[str, Process] = {}
        """The same under name and incarnation, for subjects that another process of the name does not have."""
        self.servers: dict[str, list[Process]] = {}
        """Processes that answer requests to a subject which any of several may serve."""
        self.subscriptions: dict[str, tuple[Process, Callable[[Any], Coroutine[Any, Any, None]]]] = {}
        """Process and handler of a subject of raw messages."""
        self.links: dict[frozenset[str], Link] = {}
        self.server_down: set[str] = set()
        self._chance = chance
        self._last_at_s: dict[tuple[Any, ...], float] = {}
        self.drops: dict[str, float] = {}
        """Share of control messages that the server drops on their way to a process, a slow consumer."""
        self.lost = 0

    def link_between(self, one: str, other: str) -> Link | None:
        """Returns None within a site."""
        return None if one == other else self.links[frozenset((one, other))]

    def reachable(self, one: str, other: str) -> bool:
        link = self.link_between(one, other)
        return (link is None or not link.cut) and one not in self.server_down and other not in self.server_down

    def carry(
        self,
        channel: tuple[Any, ...],
        source: Process | None,
        from_site: str,
        to_site: str,
        arrive: Callable[..., None],
        *args: Any,
    ) -> None:
        """Carries one message in the order of its channel. It is lost when a connection on its way breaks."""
        now_s = self.clockwork.now_s
        leaves_at_s = now_s
        if source is not None:
            if not source.alive:
                return
            if not source.connected:
                leaves_at_s = source.reconnects_at_s  # nats-py keeps what is published until it is connected again
        link = None if from_site == to_site else self.links[frozenset((from_site, to_site))]
        chance = self._chance.random
        delay_s = LOCAL_DELAY_S * (0.5 + chance())
        if link is not None:
            if link.cut:
                self.lost += 1
                return
            leaves_at_s = max(leaves_at_s, link.stalled_until_s)
            delay_s += link.delay_s * link.slowness * (1.0 + 0.2 * chance())
        if chance() < SPIKE_SHARE:
            delay_s += SPIKE_S * chance()
        at_s = max(leaves_at_s + delay_s, self._last_at_s.get(channel, 0.0) + 1e-7)
        self._last_at_s[channel] = at_s
        connections = (
            source.connection if source is not None and leaves_at_s == now_s else None,
            None if link is None else link.connection,
        )
        self.clockwork.call_at(at_s, None, self._arrived, source, link, connections, to_site, arrive, args)

    def tell(self, source: Process, target: str, method: str, *args: Any, lane: str = "") -> None:
        """Publishes a message to a process's subject, of which each has one per method."""
        site = self._site_of(target)
        if site is not None:
            self.carry((source, target, lane), source, source.site, site, self._deliver, target, method, args)

    async def ask(self, source: Process, target: str, method: str, *args: Any, timeout_s: float) -> Any:
        """Returns the handler's answer, the first one of several. Raises BusTimeoutError, NoRespondersError, RemoteError."""
        there = self._at(target)
        site = there[0].site if there else None
        answer: Future[Any] = Future()
        link = None if site is None else self.link_between(source.site, site)
        unheard = link is not None and link.cut and not link.silent
        if source.connected and (unheard or not any(process.connected for process in there)):
            await source.sleep(NO_RESPONDERS_S)
            raise NoRespondersError(target)
        if site is not None:
            self.carry((source, target, "ask"), source, source.site, site, self._serve, source, target, method, args, answer)
        if not await source.wait([answer], timeout_s):
            raise BusTimeoutError(f"{method} of {target}", timeout_s)
        return answer.result()

    def connect(self, process: Process, incarnation: str) -> None:
        self.processes[process.name] = process
        self._incarnations[f"{process.name}.{incarnation}"] = process

    def disconnect(self, process: Process) -> None:
        if self.processes.get(process.name) is process:
            del self.processes[process.name]
        self._incarnations = {name: other for name, other in self._incarnations.items() if other is not process}
        self.subscriptions = {subject: each for subject, each in self.subscriptions.items() if each[0] is not process}
        for subject in self.servers:
            self.cease(subject, process)

    def serve(self, subject: str, process: Process) -> None:
        """Lets a process answer requests to the subject, beside others that do."""
        self.servers.setdefault(subject, []).append(process)

    def cease(self, subject: str, process: Process) -> None:
        self.servers[subject] = [other for other in self.servers.get(subject, ()) if other is not process]

    def _at(self, target: str) -> list[Process]:
        """Processes that answer requests to a subject or a process's name."""
        if target in self.servers:
            return self.servers[target]
        found = self._find(target)
        return [] if found is None else [found]

    def _find(self, name: str) -> Process | None:
        return self.processes.get(name) or self._incarnations.get(name)

    def _site_of(self, name: str) -> str | None:
        process = self._find(name)
        return None if process is None else process.site

    def _arrived(
        self,
        source: Process | None,
        link: Link | None,
        connections: tuple[int | None, int | None],
        to_site: str,
        arrive: Callable[..., None],
        args: tuple[Any, ...],
    ) -> None:
        of_source, of_link = connections
        broken = (of_source is not None and source is not None and source.connection != of_source) or (
            link is not None and link.connection != of_link
        )
        if broken or to_site in self.server_down:
            self.lost += 1
            return
        arrive(*args)

    def _deliver(self, target: str, method: str, args: tuple[Any, ...]) -> None:
        process = self._find(target)
        if process is None or not process.connected or self._dropped(target):
            self.lost += 1
            return
        process.call_now(getattr(process, method), *args)

    def _dropped(self, target: str) -> bool:
        share = self.drops.get(target)
        return share is not None and self._chance.random() < share

    def _serve(self, source: Process, target: str, method: str, args: tuple[Any, ...], answer: Future[Any]) -> None:
        for process in self._at(target):
            if process.connected and not self._dropped(process.name):
                process.call_now(self._handle, source, process, method, args, answer)

    def _handle(self, source: Process, process: Process, method: str, args: tuple[Any, ...], answer: Future[Any]) -> None:
        tell: Callable[[Any], None] = answer.set
        try:
            reply: Any = getattr(process, method)(*args)
        except UnansweredError:
            return
        except RemoteError as error:
            reply, tell = error, answer.fail
        except Exception as error:
            self.clockwork.failed(process, error)
            reply, tell = RemoteError(FailureCode.INTERNAL, str(error)), answer.fail
        self.carry((process, source, "answer"), process, process.site, source.site, self._answered, source, tell, reply)

    def _answered(self, source: Process, tell: Callable[[Any], None], reply: Any) -> None:
        if source.connected:
            source.call_now(tell, reply)
