"""One link as its sender sees it: whose turn it is, how much may be under way, what the budget lets go. Pure: time comes in."""

from prfaas.contracts.to_prefill import EgressLease
from prfaas.contracts.to_probe import EgressAsked
from prfaas.link.budget import EgressBudget
from prfaas.link.config import LinkConfig
from prfaas.link.estimate import DeliveryEstimate, Sent
from prfaas.link.turns import Turns
from prfaas.link.window import Window

_FRAMES_PER_WINDOW = 4
_LEAST_FRAME_BYTES = 64 << 10


class LinkCore:
    """Composes turns, estimate, window and budget. Keys are the caller's."""

    def __init__(self, config: LinkConfig, *, leased: bool = False, now_s: float = 0.0) -> None:
        """`leased`: several processes send on the link, and a bandwidth probe shares it out."""
        self._frame_bytes = config.frame_bytes
        self._turns = Turns()
        self._window = Window(config, now_s)
        self._budget = EgressBudget(config.egress_bytes_per_s, leased=leased, now_s=now_s)
        self.estimate = DeliveryEstimate(now_s)

    @property
    def window_bytes(self) -> int:
        return self._window.size_bytes

    def join(self, key: int, tenant: str = "", *, background: bool = False) -> None:
        self._turns.join(key, tenant, background=background)

    def leave(self, key: int) -> None:
        self._turns.leave(key)
        self._window.leave(key)

    def offer(self, key: int, head_bytes: int, outstanding_bytes: int, *, urgent: bool) -> None:
        """Replaces what the transfer would send next (0: nothing), and what it has under way."""
        self._window.hold(key, outstanding_bytes)
        self._turns.offer(key, head_bytes, urgent=urgent)

    def pick(self, now_s: float) -> int | None:
        """Key of the transfer whose head may go now."""
        key = self._turns.next()
        if key is None:
            if self._window.is_open:
                self.estimate.ran_dry(now_s)
            return None
        return key if self._budget.allows(now_s) and self._window.is_open else None

    def budget_at(self, now_s: float) -> float | None:
        """Moment from which the budget allows the next frame; None: it does now."""
        return self._budget.allows_at(now_s)

    def sent(self, key: int, now_s: float) -> Sent:
        """Charges the transfer for its head, which leaves now."""
        size_bytes = self._turns.serve(key)
        self._budget.spend(size_bytes)
        alone = not self._window.outstanding_bytes
        if alone:
            self._window.drained(now_s)
        return self.estimate.sent(size_bytes, now_s, alone=alone)

    def delivered(self, sent: Sent, now_s: float) -> None:
        self.estimate.delivered(sent, now_s)
        rate, rtt_s = self.estimate.rate_bytes_per_s, self.estimate.rtt_s
        if rate is not None and rtt_s is not None:
            self._window.update(rate, rtt_s, now_s)

    def unbounded(self, now_s: float) -> bool:
        """Returns whether no rate holds frames back now."""
        return self._budget.bytes_per_s(now_s) is None

    def ask(self, worker: str, destination: str, waiting_bytes: int, now_s: float) -> EgressAsked:
        """The question for a lease, asked now; `waiting_bytes`: what all transfers together would send by and by."""
        return EgressAsked(
            worker=worker,
            destination=destination,
            transfers=len(self._turns),
            wanted_bytes_per_s=self._budget.ask(now_s, waiting_bytes),
            held_bytes_per_s=self._budget.held_bytes_per_s(now_s),
            delivered_bytes=self.estimate.delivered_bytes,
        )

    def take(self, lease: EgressLease, asked_at: float) -> None:
        """Applies a lease. Until the first frames say it themselves, the link is what a probe has measured."""
        self._budget.take(lease, asked_at)
        self._window.share(lease.share)
        if self.estimate.goodput_bytes_per_s is not None:
            self._window.clamp()
        elif lease.goodput_bytes_per_s is not None and lease.rtt_s is not None:
            self._window.expect(lease.share * lease.goodput_bytes_per_s, lease.rtt_s)

    def frame_bytes(self, max_payload: int) -> int:
        """Largest frame: what the server takes, at least four to a window, and small against the budget."""
        budgeted = self._budget.frame_bytes()
        window_part = max(self._window.size_bytes // _FRAMES_PER_WINDOW, _LEAST_FRAME_BYTES)
        size_bytes = min(max_payload, self._frame_bytes, window_part)
        return size_bytes if budgeted is None else min(size_bytes, budgeted)

    def validate(self) -> None:
        self._turns.validate()
        self._window.validate()
        self.estimate.validate()
