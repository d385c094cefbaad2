"""What an idle link would carry, where a short train cannot show it. Pure: time comes in.

TCP begins anew after a pause, with a small window that doubles every round trip. A train that ends before the window has grown to
the link shows some windows per round trip, however fast the link is. A deep train is long enough, and of it the receiver counts
the second half alone. Transfers say the same and cost nothing, so deep trains are for links that are idle, few, and never beside
a transfer. What either said holds while the short trains, which come often, stay what they were.
"""

DEEP_SHARE = 0.2
"""Of what measuring may cost."""
_ROUND_TRIPS = 6
"""Of the link's rate, that a deep train holds: about two until the window has grown, and the half that counts."""
_GROWING_ROUND_TRIPS = 8
"""While each shows more than the one before: the rate to size it by was too low."""
_GROWTH = 1.3
_FALLEN = 0.7
"""Of what short trains showed when the link was measured: less is no noise."""
_DEEPER = 2
"""Times as long as a short train: else it shows nothing that the short one does not."""
_AGAIN_S = 300.0
_GROWING_INTERVAL_S = 1.0
_AFTER_FAILURE_S = 60.0
_MOST_BYTES = 32 << 20


class IdleGoodput:
    def __init__(self, link_share: float, most_bytes: float) -> None:
        """`link_share`: of the link, that measuring may cost; `most_bytes`: the largest train that the egress budget allows."""
        self._cost_share = DEEP_SHARE * link_share
        self._most_bytes = min(most_bytes, _MOST_BYTES)
        self._next_s = 0.0
        self._spent_bytes = 0
        """While it grows: paid for with a pause afterwards."""
        self.forget()

    def forget(self) -> None:
        """What comes back after an outage may be another link."""
        self._goodput: float | None = None
        self._short: float | None = None
        """The most that short trains have shown since, beside no transfer."""
        self._measured_s = 0.0
        self._by_transfers = False
        """Which a short one may overrate: a deep train has yet to confirm it."""
        self._last: tuple[int, float] | None = None
        """While deep trains grow, the last one: bytes, and bytes/s. No estimate yet, for the next one shows more, or less."""
        self._growing = True

    def goodput_bytes_per_s(self, short_bytes_per_s: float) -> float:
        """`short_bytes_per_s`: what short trains show now, which is never too much."""
        return max(short_bytes_per_s, (self._goodput or 0.0) * self._change(short_bytes_per_s))

    def due_bytes(self, now_s: float, rtt_s: float, short_bytes_per_s: float, short_train_bytes: int) -> int | None:
        """How long a deep train should be now; None: none is worth sending, or it has to wait."""
        goodput = self.goodput_bytes_per_s(short_bytes_per_s)
        changed = self._change(short_bytes_per_s) < 1 or goodput > _GROWTH * (self._goodput or 0.0)
        if not (self._growing or self._by_transfers or changed or now_s - self._measured_s > _AGAIN_S):
            return None
        last_bytes, last_goodput = self._last or (short_train_bytes, goodput)
        if self._growing:
            wanted_bytes = min(_GROWING_ROUND_TRIPS * rtt_s * max(goodput, last_goodput), _GROWING_ROUND_TRIPS * last_bytes)
        else:
            wanted_bytes = _ROUND_TRIPS * rtt_s * goodput
        least_bytes = _DEEPER * short_train_bytes
        if wanted_bytes < least_bytes:
            self.forget()  # short ones show this link as it is
            return None
        if now_s < self._next_s or self._most_bytes < least_bytes:
            return None
        return int(min(wanted_bytes, self._most_bytes))

    def measured(self, now_s: float, train_bytes: int, goodput_bytes_per_s: float, short_bytes_per_s: float) -> None:
        """By a deep train. `goodput_bytes_per_s`: 0 when it came too fast for its receiver."""
        known = self.goodput_bytes_per_s(short_bytes_per_s)
        before = self._last[1] if self._last else known
        limited = 2 * train_bytes > self._most_bytes
        if limited or not goodput_bytes_per_s:
            goodput_bytes_per_s = max(goodput_bytes_per_s, known)  # it could not have shown all
        self._growing = goodput_bytes_per_s > _GROWTH * before and not limited
        self._spent_bytes += train_bytes
        if self._growing:
            self._last = train_bytes, goodput_bytes_per_s
            self._next_s = now_s + _GROWING_INTERVAL_S
            return
        self._goodput, self._short, self._measured_s = goodput_bytes_per_s, short_bytes_per_s, now_s
        self._by_transfers, self._last = False, None
        self._next_s = now_s + self._spent_bytes / (self._cost_share * max(goodput_bytes_per_s, short_bytes_per_s))
        self._spent_bytes = 0

    def failed(self, now_s: float) -> None:
        """The deep train did not come through in time."""
        self.forget()
        self._next_s = now_s + _AFTER_FAILURE_S

    def transferred(self, now_s: float, goodput_bytes_per_s: float) -> None:
        """By transfers."""
        self._goodput, self._measured_s = goodput_bytes_per_s, now_s
        self._growing, self._by_transfers, self._last = False, True, None

    def short(self, short_bytes_per_s: float) -> None:
        """By short trains beside no transfer."""
        self._short = max(self._short or 0.0, short_bytes_per_s)

    def _change(self, short_bytes_per_s: float) -> float:
        """Of the link's rate, since it was measured."""
        if not self._short:
            return 1.0
        change = short_bytes_per_s / self._short
        return change if change < _FALLEN else 1.0
