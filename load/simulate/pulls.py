"""Pulls of cached prefixes between prefill workers, as live ones do them: behind all requests' KV, and given up when late."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

from load.simulate.clock import Clock
from load.simulate.link import Link
from load.simulate.prefill_job import Job
from load.simulate.scenario import LinkSpec
from prfaas.kvcache.pinned_prefix import PinnedPrefix
from prfaas_prefill_worker.pulls.holder import MAX_SENDING
from prfaas_prefill_worker.pulls.pull_clock import BEGIN_S, PullClock
from prfaas_prefill_worker.pulls.puller import NEWEST

if TYPE_CHECKING:  # a station is told of pulls when it is made
    from load.simulate.prefill import PrefillStation, PrefillWorker

NEAR = LinkSpec(rates=((0.0, 100e9 / 8),), rtt_s=0.0002)
"""Way out of a node to the others of its site."""
PIECE_S = 0.05
"""Time that a piece of a pull takes on an idle link: so long may a request's KV wait for it."""


class Pulls:
    def __init__(
        self,
        clock: Clock,
        stations: Mapping[str, "PrefillStation"],
        links: Mapping[tuple[str, str], Link],
        control_s: float,
    ) -> None:
        """`links`: by (source, destination). `control_s`: delay of a message within a site."""
        self._clock = clock
        self._stations = stations
        self._links = links
        self._control_s = control_s
        self._ways: dict[tuple[str, str], _Background] = {}
        self.results: Counter[str] = Counter()
        """Number of pulls by `<source site> <result>`."""
        self.sent_bytes: defaultdict[str, float] = defaultdict(float)
        """Bytes by source site."""

    def begin(self, station: "PrefillStation", worker: "PrefillWorker", job: Job, done: Callable[[], None]) -> None:
        """Fetches a job's prefix into its worker's cache. Calls back when it is there or given up."""
        source, prompt = job.pull, job.prompt
        assert source is not None
        count = source.tokens // prompt.block_tokens
        have = worker.cache.cached(prompt.blocks[:count])
        if have >= count or (source.site, source.worker) == (station.site, worker.name):
            self.results[f"{source.site} held"] += 1
            done()
            return
        compute_s = station.chunks_s(have * prompt.block_tokens, count * prompt.block_tokens)
        limit_s = min(source.timeout_s, compute_s, (job.expires_at - self._clock.now_s) / 2)
        way = self._way(source.site, source.worker, station.site)
        size_bytes = worker.cache.pulled_bytes(count - have)

        def ended(result: str, received_bytes: float) -> None:
            self.results[f"{source.site} {result}"] += 1
            self.sent_bytes[source.site] += received_bytes
            if result == "done":
                near = source.site == station.site
                if near:
                    rate = size_bytes / (self._clock.now_s - pull.asked_at)
                    station.pull_bytes_per_s += (rate - station.pull_bytes_per_s) * (NEWEST if station.pull_bytes_per_s else 1.0)
                changed = worker.cache.take(prompt.blocks[:count], "" if near else source.site)
                if changed is not None:
                    station.announce(changed)
            done()

        pull = _Pull(self._clock, way, job, size_bytes, limit_s, ended)
        holding = self._stations[source.site]
        holder = holding.worker(source.worker)
        asked_s = self._control_s + way.link.rtt_s / 2
        # It looks between two chunks of what it computes.
        chunk_s = holding.chunks_s(0, prompt.block_tokens) if holder is not None and holder.busy else 0.0
        self._clock.after(asked_s + chunk_s, self._answer, holder, prompt.blocks[:count], pull, asked_s)

    def _answer(self, holder: "PrefillWorker | None", blocks: Sequence[int], pull: "_Pull", answer_s: float) -> None:
        held = None
        if holder is not None and not holder.has_left and holder.sending < MAX_SENDING and not pull.over:
            held = holder.cache.held(blocks)
        if held is None or holder is None:
            self._clock.after(answer_s, pull.refuse)
            return
        holder.sending += 1
        pull.send(held, lambda: self._sent(holder))

    def _sent(self, holder: "PrefillWorker") -> None:
        holder.sending -= 1

    def _way(self, site: str, worker: str, to_site: str) -> "_Background":
        key = (f"{site}.{worker}" if site == to_site else site, to_site)
        if key not in self._ways:
            link = Link(NEAR) if site == to_site else self._links[site, to_site]
            self._ways[key] = _Background(self._clock, link)
        return self._ways[key]


class _Pull:
    """One prefix on its way, until it is there, late or refused."""

    def __init__(
        self,
        clock: Clock,
        way: "_Background",
        job: Job,
        size_bytes: int,
        limit_s: float,
        ended: Callable[[str, float], None],
    ) -> None:
        """`ended` gets the result and the bytes that were sent."""
        self.over = False
        self.asked_at = clock.now_s
        self._clock, self._way, self._job, self._ended = clock, way, job, ended
        self._late = PullClock(clock.now_s, limit_s, size_bytes)
        self._size_bytes = size_bytes
        self._left_bytes = float(size_bytes)
        self._received_bytes = self._sent_bytes = 0.0
        self._frames = 0
        self._release: Callable[[], None] = lambda: None
        for after_s in (min(BEGIN_S, limit_s), limit_s):
            clock.after(after_s, self._look)

    def refuse(self) -> None:
        self._end("refused")

    def send(self, held: PinnedPrefix, sent: Callable[[], None]) -> None:
        """`sent`: called when the holder has done with it."""

        def release() -> None:
            with held:
                sent()

        self._release = release
        self._way.add(self)

    def next_bytes(self) -> float:
        """Returns the size of the piece to send now; 0: none is left."""
        if self.over:
            return 0.0
        rate = self._way.link.rate(self._clock.now_s)
        size = min(self._left_bytes, rate * PIECE_S) if rate else self._left_bytes
        self._left_bytes -= size
        self._sent_bytes += size
        return size

    def arrived(self, size_bytes: float) -> None:
        if self.over:
            return
        self._received_bytes += size_bytes
        self._frames += 1
        if self._received_bytes >= self._size_bytes - 0.5:
            self._end("done")
        else:
            self._look()

    def _look(self) -> None:
        if self.over:
            return
        late = self._late.late(self._clock.now_s, self._frames, int(self._received_bytes))
        if late is not None or self._job.cancelled:
            self._end("late")

    def _end(self, result: str) -> None:
        if self.over:
            return
        self.over = True
        self._release()
        self._ended(result, self._sent_bytes)


class _Background:
    """Pieces of pulls on a link, one at a time, in turn, while nothing else is queued there."""

    def __init__(self, clock: Clock, link: Link) -> None:
        self.link = link
        self._clock = clock
        self._pulls: deque[_Pull] = deque()
        self._due = False

    def add(self, pull: _Pull) -> None:
        self._pulls.append(pull)
        if not self._due:
            self._send()

    def _send(self) -> None:
        self._due = False
        while self._pulls:
            if (free_at := self.link.free_at) > self._clock.now_s:
                self._again(free_at)
                return
            pull = self._pulls.popleft()
            if not (size_bytes := pull.next_bytes()):
                continue
            self._pulls.append(pull)
            arrives_at = self.link.send(size_bytes, self._clock.now_s)
            if arrives_at != inf:
                self._clock.at(arrives_at, pull.arrived, size_bytes)

    def _again(self, at: float) -> None:
        if at != inf:  # a link that stays cut carries nothing any more
            self._due = True
            self._clock.at(at, self._send)
