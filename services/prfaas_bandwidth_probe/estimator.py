"""Estimator of one link: decides when to probe it, and what the answers say. Pure: time comes in with the events.

Goodput = bytes of a train of messages / (round trip of the train - round trip of a tiny message). Noise (a busy process, a burst
of other traffic) only makes either longer, so the smallest of the last few counts, as in BBR. A link that got slower shows when
the older measurements have left the window, within a few seconds. Beside a transfer the result is the share that another one
would get. `idle_goodput` knows what an idle link carries beyond it. An egress budget bounds trains and the estimate too.
"""

from collections import deque
from itertools import pairwise
from math import inf

from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas_bandwidth_probe.events import (
    Announce,
    DeepTrainAnswered,
    Event,
    Instruction,
    PongHeard,
    Probe,
    ProbeFailed,
    SendPing,
    SendTrain,
    Tick,
    TrainAnswered,
    TransferReported,
)
from prfaas_bandwidth_probe.idle_goodput import DEEP_SHARE, IdleGoodput

TRAIN_PARTS = 16
LEAST_PARTS = 2
_TRAIN_S = 0.010
"""Length of a train in time: long against the jitter of processes, short for other traffic."""
_FIRST_PART_BYTES = 4 << 10
_PART_LIMITS_BYTES = (2 << 10, 32 << 10)
_LEAST_PART_BYTES = 512
_LEAST_TRAIN_BYTES = TRAIN_PARTS * _LEAST_PART_BYTES
_LONGEST_TRAIN_BYTES = TRAIN_PARTS * _PART_LIMITS_BYTES[1]
_BUDGET_SHARE = 0.02
"""Share of a second's budget that one train may take."""
_MIN_TRAIN_INTERVAL_S = 0.5
MAX_TRAIN_INTERVAL_S = 5.0
"""Longest time between two trains: an idle link whose limit is lifted is known again soon after it. Where a link is slow, trains
are shorter instead of rarer. Only below 0.2 Mbit/s the shortest ones cost more than their share."""
_FALL = 4.0
"""Trains that show less than the others by this factor stand for a link that has fallen: the next one is short."""
_MOST_GROWTH = 10.0
"""Factor beyond the rate that a train is made for which it can show. A short one on a fast link takes no measurable time."""
_COMPARABLE = 4.0
"""Factor between the lengths of trains that can be compared: TCP's window grows with the length."""
_WINDOW = 5
"""Measurements that count."""
_BASE_MEMORY_S = 60.0
"""Memory for the round trip of a tiny message. Beside transfers it waits in their queue, as the train does: such a round trip
alone would leave the train no time at all and make the link look endless."""
_LEAST_S = 1e-5
_TRANSFER_COUNTS_S = 5.0
_TRANSFERS = 64


class LinkEstimator:
    """One directed link. At most one ping and one train, deep or not, are under way."""

    def __init__(
        self,
        source: str,
        destination: str,
        *,
        ping_interval_s: float,
        link_share: float,
        timeout_s: float,
        budget_bytes_per_s: float | None = None,
    ) -> None:
        """Trains cost at most `link_share` of the link, or of the budget where that is less."""
        self._source = source
        self._destination = destination
        self._ping_interval_s = ping_interval_s
        self._train_share = (1 - DEEP_SHARE) * link_share
        self._timeout_s = timeout_s
        self._budget_bytes_per_s = inf if budget_bytes_per_s is None else budget_bytes_per_s
        self._rtts_s: deque[float] = deque(maxlen=_WINDOW)
        self._bases_s: deque[tuple[float, float]] = deque()
        """Pairs (moment, seconds) of the last minute."""
        self._trains: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        """Pairs (bytes, seconds)."""
        self._transfers: deque[tuple[float, float]] = deque(maxlen=_TRANSFERS)
        """Pairs (moment of the report, bytes/s)."""
        self._idle = IdleGoodput(link_share, _BUDGET_SHARE * self._budget_bytes_per_s)
        self._measured_s = 0.0
        """Moment of the last measurement of goodput."""
        self._samples = 0
        self._pinging = False
        self._training = False
        self._next_ping_s = 0.0
        self._next_train_s = 0.0

    @property
    def rtt_s(self) -> float | None:
        return min(self._rtts_s, default=None)

    @property
    def jitter_s(self) -> float:
        """Mean difference of two consecutive round trips."""
        steps_s = [abs(later - earlier) for earlier, later in pairwise(self._rtts_s)]
        return sum(steps_s) / len(steps_s) if steps_s else 0.0

    @property
    def goodput_bytes_per_s(self) -> float | None:
        if not self._trains:
            return None
        if self._transfers:
            return max(self._short(), *(goodput for _, goodput in self._transfers))
        return self._idle.goodput_bytes_per_s(self._short())

    @property
    def confidence(self) -> float:
        """Share of the counted trains that came through and show at least half of what the fastest shows."""
        found = self._by_trains() if self._trains else []
        return sum(2 * goodput >= max(found) for goodput in found) / _WINDOW

    def _short(self) -> float:
        return max(self._by_trains())

    def _by_trains(self) -> list[float]:
        base_s = min(*(seconds for _, seconds in self._bases_s), *self._rtts_s, inf)
        return [size_bytes / max(train_s - base_s, _least_s(size_bytes)) for size_bytes, train_s in self._trains]

    def handle(self, event: Event) -> list[Instruction]:
        match event:
            case Tick(now_s, busy):
                return self._tick(now_s, busy)
            case PongHeard(now_s, rtt_s):
                self._pinging = False
                self._rtts_s.append(rtt_s)
                return self._announce(now_s)
            case TrainAnswered(now_s, base_s, train_bytes, train_s):
                self._training = False
                self._bases_s.append((now_s, base_s))
                while self._bases_s[0][0] < now_s - _BASE_MEMORY_S:
                    self._bases_s.popleft()
                while self._trains and _COMPARABLE * self._trains[0][0] < train_bytes:
                    self._trains.popleft()
                self._trains.append((train_bytes, train_s))
                self._samples += 1
                self._measured_s = now_s
                self._next_train_s = now_s + self._train_interval_s(train_bytes)
                if not self._transfers:
                    self._idle.short(self._short())
            case DeepTrainAnswered(now_s, train_bytes, goodput):
                self._training = False
                if self._trains:
                    self._idle.measured(now_s, train_bytes, goodput, self._short())
                    self._measured_s = now_s
            case TransferReported(now_s, goodput):
                self._transfers.append((now_s, goodput))
                self._measured_s = now_s
                self._idle.transferred(now_s, max(goodput for _, goodput in self._transfers))
            # A link that does not answer has no estimate; what comes back after an outage may be another link.
            case ProbeFailed(now_s, Probe.TRAIN):
                self._training = False
                self._next_train_s = now_s + self._timeout_s
                self._trains.clear()
                self._bases_s.clear()
                self._transfers.clear()
                self._samples = 0
                self._idle.forget()
            case ProbeFailed(now_s, Probe.DEEP_TRAIN):
                self._training = False
                self._idle.failed(now_s, self._short() if self._trains else 0.0)
            case ProbeFailed():
                self._pinging = False
                self._rtts_s.clear()
        return []

    def validate(self) -> None:
        assert len(self._trains) <= min(self._samples, _WINDOW) and bool(self._trains) is bool(self._samples)
        assert bool(self._bases_s) is bool(self._trains) and len(self._bases_s) <= 1 + _BASE_MEMORY_S / _MIN_TRAIN_INTERVAL_S
        assert all(rtt_s >= 0 for rtt_s in self._rtts_s)

    def _tick(self, now_s: float, busy: bool) -> list[Instruction]:
        while self._transfers and now_s - self._transfers[0][0] > _TRANSFER_COUNTS_S:
            self._transfers.popleft()
        orders: list[Instruction] = []
        if not self._pinging and now_s >= self._next_ping_s:
            self._pinging = True
            self._next_ping_s = now_s + self._ping_interval_s
            orders.append(SendPing())
        if not self._training and self._rtts_s:
            train = self._short_train() if now_s >= self._next_train_s else self._deep_train(now_s, busy)
            self._training = train is not None
            orders += [train] if train is not None else []
        return orders

    def _deep_train(self, now_s: float, busy: bool) -> SendTrain | None:
        rtt_s = self.rtt_s
        if busy or self._transfers or not self._trains or rtt_s is None:
            return None
        short = self._short_train()
        deep_bytes = self._idle.due_bytes(now_s, rtt_s, self._short(), short.parts * short.part_bytes)
        if deep_bytes is None:
            return None
        parts = max(TRAIN_PARTS, -(-deep_bytes // _PART_LIMITS_BYTES[1]))
        return SendTrain(parts, deep_bytes // parts, deep=True)

    def _announce(self, now_s: float) -> list[Instruction]:
        rtt_s, goodput = self.rtt_s, self.goodput_bytes_per_s
        if rtt_s is None or goodput is None:
            return []
        estimate = LinkEstimate(
            source=self._source,
            destination=self._destination,
            rtt_s=rtt_s,
            jitter_s=self.jitter_s,
            goodput_bytes_per_s=min(goodput, self._budget_bytes_per_s),
            samples=self._samples,
            confidence=self.confidence,
            age_s=max(0.0, now_s - self._measured_s),
        )
        return [Announce(estimate)]

    def _short_train(self) -> SendTrain:
        train_bytes = self._train_bytes()
        parts = max(LEAST_PARTS, min(TRAIN_PARTS, int(train_bytes / _LEAST_PART_BYTES)))
        return SendTrain(parts, max(int(train_bytes / parts), _LEAST_PART_BYTES))

    def _train_bytes(self) -> float:
        """Returns the length of a short train: some milliseconds of the link, as much as share and budget pay for."""
        goodput = self.goodput_bytes_per_s
        if goodput is None:
            return min(TRAIN_PARTS * _FIRST_PART_BYTES, max(_BUDGET_SHARE * self._budget_bytes_per_s, _LEAST_TRAIN_BYTES))
        # The others stay in the window for a while, but a link that has fallen must not carry more of their length.
        by_trains = self._by_trains()
        goodput *= min(1.0, _FALL * by_trains[-1] / max(by_trains))
        low, high = _PART_LIMITS_BYTES
        wanted_bytes = min(max(goodput * _TRAIN_S, TRAIN_PARTS * low), TRAIN_PARTS * high)
        paid_bytes = MAX_TRAIN_INTERVAL_S * self._train_share * min(goodput, self._budget_bytes_per_s)
        return min(wanted_bytes, paid_bytes, max(_BUDGET_SHARE * self._budget_bytes_per_s, _LEAST_TRAIN_BYTES))

    def _train_interval_s(self, train_bytes: int) -> float:
        goodput = self.goodput_bytes_per_s
        assert goodput is not None, "a train was measured just now"
        paid_s = train_bytes / (self._train_share * min(goodput, self._budget_bytes_per_s))
        return min(max(_MIN_TRAIN_INTERVAL_S, paid_s), MAX_TRAIN_INTERVAL_S)


def _least_s(train_bytes: int) -> float:
    """Returns the shortest time that counts for a train; the longest ones may show any rate."""
    return _LEAST_S if train_bytes >= _LONGEST_TRAIN_BYTES else max(_LEAST_S, _TRAIN_S / _MOST_GROWTH)
