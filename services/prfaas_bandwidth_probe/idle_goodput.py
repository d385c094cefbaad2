"""Goodput of an idle link that a short train cannot show. Pure: time comes in.

TCP begins anew after a pause, with a small window that doubles every round trip. A train that ends before the window has grown to
the link shows some windows per round trip, however fast the link is. A deep train is long enough, and the receiver counts its
second half alone. Transfers say the same and cost nothing, so deep trains are few, and only run on idle links. A result holds
while the short trains, which come often, show what they showed.
"""

DEEP_SHARE = 0.2
"""Share of the cost of measuring that deep trains may have."""
_ROUND_TRIPS = 6
"""Length of a deep train at the link's rate: two round trips until the window has grown, and the half that counts."""
_GROWING_ROUND_TRIPS = 8
"""Length while each train shows more than the one before: the rate to size it by was too low."""
_GROWTH = 1.3
_FALLEN = 0.7
"""Share of what short trains showed when the link was measured: less is no noise."""
_DEEPER = 2
"""Length in short trains: a shorter deep train shows nothing more than they do."""
_AGAIN_S = 300.0
_AGAIN_AFTER_FALL_S = 60.0
"""The same while the link shows less than it once did: it may rise again, and short trains need not show it."""
_GROWING_INTERVAL_S = 1.0
_AFTER_FAILURE_S = 60.0
_AFTER_GROWTH_S = 10.0
"""Longest pause when short trains have come to show more since: what held the link down is gone."""
_MOST_BYTES = 32 << 20


class IdleGoodput:
    def __init__(self, link_share: float, most_bytes: float) -> None:
        """`link_share`: part of the link that measuring may cost; `most_bytes`: largest train that the egress budget allows."""
        self._cost_share = DEEP_SHARE * link_share
        self._most_bytes = min(most_bytes, _MOST_BYTES)
        self._next_s = 0.0
        self._next_if_grown_s = 0.0
        self._short_before_pause = 0.0
        """Goodput that short trains showed when the pause until then began."""
        self._spent_bytes = 0
        """Bytes sent while the train grows, which a pause afterwards makes up for."""
        self.forget()

    def forget(self) -> None:
        """Forgets the link: after an outage it may be another one."""
        self._goodput: float | None = None
        self._short: float | None = None
        """Largest goodput that short trains without transfers have shown since."""
        self._measured_s = 0.0
        self._has_fallen = False
        """True since a deep train showed less than the one before, until one shows more again."""
        self._by_transfers = False
        """True when transfers showed it: a short one may overrate, so a deep train has yet to confirm it."""
        self._last: tuple[int, float] | None = None
        """Last deep train while they grow: bytes, and bytes/s. It is no estimate yet, for the next one shows more, or less."""
        self._growing = True

    def goodput_bytes_per_s(self, short_bytes_per_s: float) -> float:
        """`short_bytes_per_s`: what short trains show now, which is never too much."""
        return max(short_bytes_per_s, (self._goodput or 0.0) * self._change(short_bytes_per_s))

    def due_bytes(self, now_s: float, rtt_s: float, short_bytes_per_s: float, short_train_bytes: int) -> int | None:
        """Returns the length of a deep train to send now; None: none is worth sending, or it has to wait."""
        goodput = self.goodput_bytes_per_s(short_bytes_per_s)
        changed = self._change(short_bytes_per_s) < 1 or goodput > _GROWTH * (self._goodput or 0.0)
        if not (self._growing or self._by_transfers or changed or self._is_old(now_s)):
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
        grown = short_bytes_per_s > _GROWTH * self._short_before_pause
        if now_s < (self._next_if_grown_s if grown else self._next_s) or self._most_bytes < least_bytes:
            return None
        return int(min(wanted_bytes, self._most_bytes))

    def measured(self, now_s: float, train_bytes: int, goodput_bytes_per_s: float, short_bytes_per_s: float) -> None:
        """Takes in a deep train's goodput: 0 when it came too fast for its receiver."""
        known = self.goodput_bytes_per_s(short_bytes_per_s)
        before = self._last[1] if self._last else known
        limited = 2 * train_bytes > self._most_bytes
        if limited or not goodput_bytes_per_s:
            goodput_bytes_per_s = max(goodput_bytes_per_s, known)  # it could not have shown all
        self._growing = goodput_bytes_per_s > _GROWTH * before and not limited
        self._spent_bytes += train_bytes
        if self._growing:
            self._last = train_bytes, goodput_bytes_per_s
            self._pause(now_s, _GROWING_INTERVAL_S, short_bytes_per_s)
            return
        earlier = self._goodput or 0.0
        self._goodput, self._short, self._measured_s = goodput_bytes_per_s, short_bytes_per_s, now_s
        self._by_transfers, self._last = False, None
        paid_s = self._spent_bytes / (self._cost_share * max(goodput_bytes_per_s, short_bytes_per_s))
        if goodput_bytes_per_s < _FALLEN * earlier:
            self._has_fallen = True
            paid_s = min(paid_s, _AGAIN_AFTER_FALL_S)  # its length was that of the link as it had been
        elif goodput_bytes_per_s > _GROWTH * earlier:
            self._has_fallen = False
        self._pause(now_s, paid_s, short_bytes_per_s)
        self._spent_bytes = 0

    def failed(self, now_s: float, short_bytes_per_s: float) -> None:
        """Takes in that a deep train did not come through in time."""
        self.forget()
        self._pause(now_s, _AFTER_FAILURE_S, short_bytes_per_s)

    def transferred(self, now_s: float, goodput_bytes_per_s: float) -> None:
        """Takes in the goodput of transfers."""
        self._goodput, self._measured_s = goodput_bytes_per_s, now_s
        self._growing, self._by_transfers, self._last = False, True, None

    def short(self, short_bytes_per_s: float) -> None:
        """Takes in the goodput of short trains without transfers."""
        self._short = max(self._short or 0.0, short_bytes_per_s)

    def _is_old(self, now_s: float) -> bool:
        return now_s - self._measured_s > (_AGAIN_AFTER_FALL_S if self._has_fallen else _AGAIN_S)

    def _pause(self, now_s: float, pause_s: float, short_bytes_per_s: float) -> None:
        self._next_s = now_s + pause_s
        self._next_if_grown_s = now_s + min(pause_s, _AFTER_GROWTH_S)
        self._short_before_pause = short_bytes_per_s

    def _change(self, short_bytes_per_s: float) -> float:
        """Factor by which the link's rate has changed since it was measured."""
        if not self._short:
            return 1.0
        change = short_bytes_per_s / self._short
        return change if change < _FALLEN else 1.0
