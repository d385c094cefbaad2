"""A bound on a process's HTTP connections. Those that ask for nothing give way to new ones."""

import resource
from collections import Counter
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

MAX_CONNECTIONS: Final = 8192
"""Connections at once, where the process may open enough files."""
RESERVED_FILES: Final = 96
"""Descriptors of the process that are kept for other things than its clients."""

Connection = TypeVar("Connection", bound=Hashable)


def connection_limit() -> int:
    """Returns the connections that the process can serve with the files that it may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, files - RESERVED_FILES))


class ConnectionPlaces(Generic[Connection]):
    """Places for `limit` connections. Pure.

    A connection is silent until its first whole head has come, busy until its answer is complete, and idle until its next head
    has come. In a full house the oldest silent one gives way, else the one that has been idle for longest. Busy ones never do."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.closed: Counter[str] = Counter()
        """Connections that the server closed, by why."""
        self._silent: dict[Connection, None] = {}  # the oldest first
        self._idle: dict[Connection, None] = {}  # the one idle for longest first
        self._busy: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._silent) + len(self._idle) + len(self._busy)

    def enter(self, connection: Connection) -> Connection | None:
        """Takes a connection, also beyond the limit. Returns the one that gives way to it, whose place is gone."""
        gives_way = None
        if len(self) >= self.limit:
            gives_way = next(iter(self._silent), None) or next(iter(self._idle), None)
            if gives_way is not None:
                self.closed["gave_way"] += 1
                self.leave(gives_way)
        self._silent[connection] = None
        return gives_way

    @property
    def excess(self) -> int:
        return len(self) - self.limit

    def head_came(self, connection: Connection) -> None:
        if self._has(connection):
            self.leave(connection)
            self._busy.add(connection)

    def answered(self, connection: Connection) -> None:
        if self._has(connection):
            self.leave(connection)
            self._idle[connection] = None

    def leave(self, connection: Connection) -> None:
        """Gives a place back; more than once is no error."""
        self._silent.pop(connection, None)
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def _has(self, connection: Connection) -> bool:
        return connection in self._silent or connection in self._idle or connection in self._busy
