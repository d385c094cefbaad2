"""Schedules: moments at which the requests of a run are due. The pure part of the load generator.

Time comes in with each call, in seconds after the run's start. Without users, requests are due at their stamps, and a turn of a
session not before the answer to the one before it and its pause. With users, each works through one session after the other.
"""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from itertools import groupby
from typing import NamedTuple

from prfaas.replay.arrival import Arrival


class Due(NamedTuple):
    due_s: float
    number: int
    """Place in the workload, from 0."""
    arrival: Arrival
    chain: str
    """Name of the turns that follow one another; empty for a request on its own."""


class TimedSchedule:
    """Requests at the trace's stamps, read as late as possible: a workload may be long, or end while it is replayed."""

    def __init__(self, arrivals: Iterable[tuple[int, Arrival]], *, fixed: bool = False) -> None:
        """`arrivals`: (index, arrival) in order of arrival. `fixed`: turns do not wait for answers."""
        self._arrivals = iter(arrivals)
        self._fixed = fixed
        self._due: list[Due] = []
        self._read_s = float("-inf")
        self._ended = False
        self._waiting: dict[str, deque[tuple[int, Arrival]]] = {}
        """Turns behind one that is not answered yet, by session; an entry means that there is such a one."""
        self._answered_s: dict[str, float] = {}

    def peek(self) -> Due | None:
        """Returns the next request that is known; None when an answer has to come first, or nothing is left."""
        while not self._ended and (not self._due or self._due[0].due_s > self._read_s):
            self._read()
        return self._due[0] if self._due else None

    def pop(self) -> Due:
        return heappop(self._due)

    def answered(self, due: Due, now_s: float) -> None:
        """Says that a request is over, well or badly."""
        if not due.chain:
            return
        waiting = self._waiting[due.chain]
        if waiting:
            index, arrival = waiting.popleft()
            self._push(index, arrival, max(arrival.arrival_s, now_s + arrival.think_s))
        else:
            del self._waiting[due.chain]
            self._answered_s[due.chain] = now_s

    def _read(self) -> None:
        found = next(self._arrivals, None)
        if found is None:
            self._ended = True
            return
        index, arrival = found
        self._read_s = arrival.arrival_s
        session = "" if self._fixed else arrival.session
        if session and session in self._waiting:
            self._waiting[session].append((index, arrival))
            return
        due_s = arrival.arrival_s
        if session:
            self._waiting[session] = deque()
            answered_s = self._answered_s.pop(session, None)
            due_s = due_s if answered_s is None else max(due_s, answered_s + arrival.think_s)
        self._push(index, arrival, due_s)

    def _push(self, index: int, arrival: Arrival, due_s: float) -> None:
        heappush(self._due, Due(due_s, index, arrival, "" if self._fixed else arrival.session))


class _Session:
    """One user's session under way: an agent and its sub-agents are chains of their own."""

    def __init__(self, start_s: float, first_s: float) -> None:
        self.start_s = start_s
        self.first_s = first_s
        self.waiting: dict[str, deque[tuple[int, Arrival]]] = {}
        self.open = 0
        """Requests that are due or under way."""


class UserSchedule:
    """A fixed number of users. A user begins the next session of the workload when the last one is over."""

    def __init__(
        self, sessions: Iterator[list[tuple[int, Arrival]]], *, starts_s: Iterable[float], one_clock: bool, end_s: float | None
    ) -> None:
        """`starts_s`: when each user begins. `one_clock`: a turn also waits for its stamp, counted from its session's start; else
        the answer before it and its pause are all that it waits for. `end_s`: nothing is due from here on."""
        self._sessions = sessions
        self._one_clock = one_clock
        self._end_s = float("inf") if end_s is None else end_s
        self._due: list[Due] = []
        self._of: dict[str, _Session] = {}
        """Chain -> the session that it belongs to."""
        for start_s in starts_s:
            self._begin(start_s)

    def peek(self) -> Due | None:
        return self._due[0] if self._due and self._due[0].due_s < self._end_s else None

    def pop(self) -> Due:
        return heappop(self._due)

    def answered(self, due: Due, now_s: float) -> None:
        session = self._of[due.chain]
        session.open -= 1
        if waiting := session.waiting[due.chain]:
            index, arrival = waiting.popleft()
            due_s = now_s + arrival.think_s
            if self._one_clock:
                due_s = max(due_s, session.start_s + arrival.arrival_s - session.first_s)
            self._push(session, Due(due_s, index, arrival, due.chain))
        elif not session.open:
            for chain in session.waiting:
                del self._of[chain]
            self._begin(now_s)

    def _begin(self, start_s: float) -> None:
        if start_s >= self._end_s or (turns := next(self._sessions, None)) is None:
            return
        session = _Session(start_s, turns[0][1].arrival_s)
        for index, arrival in turns:
            chain = arrival.session or f"#{index}"
            if chain in session.waiting:
                session.waiting[chain].append((index, arrival))
                continue
            session.waiting[chain] = deque()
            self._of[chain] = session
            self._push(session, Due(start_s + arrival.arrival_s - session.first_s, index, arrival, chain))

    def _push(self, session: _Session, due: Due) -> None:
        session.open += 1
        heappush(self._due, due)


Schedule = TimedSchedule | UserSchedule


def sessions_of(arrivals: Iterable[tuple[int, Arrival]], *, one_clock: bool) -> Iterator[list[tuple[int, Arrival]]]:
    """Yields each session's requests in order, sub-agents' with those of their agent; a request without a session is one itself.

    Without a common clock the sessions stand one after the other and are read one by one; else all are held."""
    if not one_clock:
        for _, turns in groupby(arrivals, key=_root):
            yield list(turns)
        return
    found: dict[str, list[tuple[int, Arrival]]] = {}
    for each in arrivals:
        found.setdefault(_root(each), []).append(each)
    yield from found.values()


def shard(arrivals: Iterable[Arrival], part: int, parts: int) -> Iterator[tuple[int, Arrival]]:
    """Yields (index, arrival) of one of `parts` clients; a session stays with one client."""
    for index, arrival in enumerate(arrivals):
        key = hash_of(_root((index, arrival)))
        if key % parts == part:
            yield index, arrival


def hash_of(text: str) -> int:
    """Returns the same number in every process, unlike hash()."""
    return zlib.crc32(text.encode())


def _root(each: tuple[int, Arrival]) -> str:
    index, arrival = each
    return arrival.session.partition("/")[0] or f"#{index}"
