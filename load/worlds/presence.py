"""Model of the pd site's bucket of heartbeats: its watchers hear each put, and that a key has gone after TTL_S."""

from collections.abc import Callable

from load.worlds.clockwork import Clockwork, Process
from load.worlds.network import Network
from load.worlds.plan import HOME
from prfaas.bus.presence import TTL_S
from prfaas.contracts.to_scheduler import Heartbeat

LOOK_EVERY_S = TTL_S / 20


class Watch:
    """One process's view of the bucket, as presence.watch keeps it."""

    def __init__(self, process: Process, changed: Callable[[str, Heartbeat | None], None]) -> None:
        self._process = process
        self._changed = changed
        self._put_at: dict[str, float] = {}
        self._timer = False

    def hear(self, beat: Heartbeat) -> None:
        key = beat.key
        self._put_at.pop(key, None)
        self._put_at[key] = self._process.monotonic_s
        self._changed(key, beat)
        if not self._timer:
            self._timer = True
            self._process.call_later(TTL_S + LOOK_EVERY_S, self._expire)

    def _expire(self) -> None:
        """Looks at the oldest entry when it may have expired, and not in between."""
        self._timer = False
        now_s = self._process.monotonic_s
        while self._put_at:
            key, put_at = next(iter(self._put_at.items()))
            if now_s - put_at <= TTL_S:
                self._timer = True
                self._process.call_later(put_at + TTL_S + LOOK_EVERY_S - now_s, self._expire)
                return
            del self._put_at[key]
            self._changed(key, None)


class Watcher(Process):
    """A process that watches the bucket."""

    watch: Watch


class Presence:
    """The bucket at the server. A watcher that comes later reads what is in it."""

    def __init__(self, clockwork: Clockwork, network: Network, watchers: tuple[str, ...]) -> None:
        self._clockwork = clockwork
        self._network = network
        self._watchers = watchers
        self._entries: dict[str, tuple[float, Heartbeat]] = {}

    def put(self, process: Process, beat: Heartbeat) -> None:
        self._network.carry((process, "beat"), process, process.site, HOME, self._stored, beat)

    def read_all(self, watcher: Process) -> list[Heartbeat]:
        """Entries that have not expired."""
        now_s = self._clockwork.now_s
        return [beat for put_at_s, beat in self._entries.values() if now_s - put_at_s < TTL_S]

    def _stored(self, beat: Heartbeat) -> None:
        self._entries[beat.key] = self._clockwork.now_s, beat
        for watcher in self._watchers:
            process = self._network.processes.get(watcher)
            if isinstance(process, Watcher) and process.connected:
                process.call_now(process.watch.hear, beat)
