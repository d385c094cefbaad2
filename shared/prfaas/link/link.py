"""What may go onto a link now: one window, one egress budget and fair turns for all transfers that share it.

Window = clamp(gain x rate x RTT): a little more than the bandwidth-delay product, so the link never runs dry and no queue grows
in front of it. Rate is the largest delivery rate of the last seconds, RTT the smallest acknowledgement time (as in BBR).
An RTT below ten milliseconds counts as ten: there the processes' own pauses are what the window must cover.
Turns are start-time fair queueing on two levels, tenants and then the transfers of a tenant: who joins starts at the virtual time
of the one that is served now. A transfer whose decode waits on it weighs more, and nobody starves.
"""

import asyncio
import time
from collections import deque
from typing import NamedTuple, Protocol

import msgspec

from prfaas.contracts.to_prefill import EgressLease
from prfaas.link.budget import Pace

_URGENT_WEIGHT = 8.0
_ESTIMATE_MEMORY_S = 10.0
_BOTTLENECK_MEMORY_S = 1.0
_STRETCH_S = 0.1
_STRETCH_RTTS = 4
_FIRST_WINDOW_BYTES = 2 << 20
_STARTUP_GAIN = 2.5
_LEAST_RTT_S = 0.01
_LEAST_WINDOW_BYTES = 128 << 10
_GROWTH = 1.2
_PLATEAU_RTTS = 4
_DRAIN_EVERY_S = 5.0
_DRAIN_GAIN = 0.75


class LinkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    window_gain: float = 1.25
    min_window_bytes: int = 1 << 20
    max_window_bytes: int = 16 << 20
    frame_bytes: int = 1 << 20
    """Largest frame; smaller ones are cut when the window is small."""
    egress_bytes_per_s: float | None = None
    """What this process may send while nobody shares the link out; None: what the link takes. The budget of a link, for all
    processes of a site together, is `egress-mbit` of the site's bandwidth probe."""


class Sent(NamedTuple):
    """Remembered for each frame until it is acknowledged."""

    size_bytes: int
    at: float
    delivered_bytes: int
    delivered_at: float


class _Tenant:
    __slots__ = ("flows", "served", "virtual")

    def __init__(self, virtual: float) -> None:
        self.virtual = virtual
        self.served = 0.0
        """Virtual time of the flow that was served last."""
        self.flows = 0


class _Flow:
    __slots__ = ("head_bytes", "outstanding_bytes", "tenant", "urgent", "virtual")

    def __init__(self, tenant: _Tenant) -> None:
        self.tenant = tenant
        self.virtual = tenant.served
        self.head_bytes = 0
        self.outstanding_bytes = 0
        self.urgent = False


class EgressDemand(NamedTuple):
    """What a lease is asked for with: see EgressAsked."""

    transfers: int
    wanted_bytes_per_s: float
    held_bytes_per_s: float | None
    delivered_bytes: int


class LinkCore:
    """Pure: time comes in. Keys are the caller's. `leased`: several processes send on the link, and somebody shares it out."""

    def __init__(self, config: LinkConfig, *, leased: bool = False, now: float = 0.0) -> None:
        self._config = config
        self._pace = Pace(config.egress_bytes_per_s, leased=leased, now=now)
        self._least_window_bytes, self._most_window_bytes = config.min_window_bytes, config.max_window_bytes
        self._flows: dict[int, _Flow] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._served = 0.0
        """Virtual time of the tenant that was served last."""
        self._outstanding = 0
        self.rtt_s: float | None = None
        self.goodput_bytes_per_s: float | None = None
        """Bytes on the wire per second while the link was busy; until it was for long enough, the best rate seen."""
        self.bottleneck_bytes_per_s: float | None = None
        """Goodput, when the link itself was the bottleneck in the last second; None when the senders were."""
        self.window_bytes = min(max(config.min_window_bytes, _FIRST_WINDOW_BYTES), config.max_window_bytes)
        self._delivered = 0
        self._link_limited_at: float | None = None
        self._plateau = 0.0
        """Goodput from which growth is counted."""
        self._plateau_since = self._estimated_at = now
        self._delivered_at = now
        self._busy_since, self._busy_from, self._measured = now, 0, False
        self._drained_at, self._drain_until = now, now
        self._dry_at = now
        """When the window was last open and nobody had anything to send."""
        self._rates: deque[tuple[float, float]] = deque()
        """(time, bytes/s), decreasing: the first is the largest of the last seconds."""
        self._rtts: deque[tuple[float, float]] = deque()
        """(time, s), increasing."""

    def join(self, key: int, tenant: str = "") -> None:
        owner = self._tenants.setdefault(tenant, _Tenant(self._served))
        owner.flows += 1
        self._flows[key] = _Flow(owner)

    def leave(self, key: int) -> None:
        flow = self._flows.pop(key, None)
        if flow is None:
            return
        self._outstanding -= flow.outstanding_bytes
        flow.tenant.flows -= 1
        self._tenants = {name: tenant for name, tenant in self._tenants.items() if tenant.flows}

    def offer(self, key: int, head_bytes: int, outstanding_bytes: int, urgent: bool) -> None:
        """What the flow would send next (0: nothing), and what it has on the way."""
        flow = self._flows[key]
        self._outstanding += outstanding_bytes - flow.outstanding_bytes
        if head_bytes and not flow.head_bytes:
            # Silence earns no credit: whoever paused goes on at the present.
            flow.tenant.virtual = max(flow.tenant.virtual, self._served)
            flow.virtual = max(flow.virtual, flow.tenant.served)
        flow.head_bytes, flow.outstanding_bytes, flow.urgent = head_bytes, outstanding_bytes, urgent

    def pick(self, now: float) -> int | None:
        """Whose head may go now."""
        waiting = [(flow.tenant.virtual, flow.virtual, key) for key, flow in self._flows.items() if flow.head_bytes]
        if not waiting:
            if self._outstanding < self.window_bytes:
                self._dry_at = now
            return None
        if not self._pace.allows(now):
            return None
        key = min(waiting)[2]
        # May pass the window by a part of one frame: rounding it down to whole frames would let small windows run dry.
        return key if self._outstanding < self.window_bytes else None

    def budget_at(self, now: float) -> float | None:
        """When the egress budget allows the next frame; None: it does now."""
        return self._pace.allows_at(now)

    def sent(self, key: int, size_bytes: int, now: float) -> Sent:
        flow = self._flows[key]
        cost = size_bytes / (_URGENT_WEIGHT if flow.urgent else 1.0)
        self._served, flow.tenant.served = flow.tenant.virtual, flow.virtual
        flow.tenant.virtual += cost
        flow.virtual += cost
        self._pace.spend(size_bytes)
        if self._outstanding == 0:
            self._delivered_at = self._drained_at = now
        return Sent(size_bytes, now, self._delivered, self._delivered_at)

    def delivered(self, sent: Sent, now: float) -> None:
        """An acknowledged frame: a sample of RTT and of goodput."""
        self._delivered += sent.size_bytes
        self._delivered_at = now
        _keep(self._rtts, now, now - sent.at, smallest=True)
        span = now - sent.delivered_at
        if span > 0:
            rate = (self._delivered - sent.delivered_bytes) / span
            # Then the rate says what the senders made, not what the link takes.
            source_limited = self._dry_at >= sent.delivered_at
            stale = not self._rates or self._rates[0][0] < now - _ESTIMATE_MEMORY_S
            if stale or not source_limited or rate >= self._rates[0][1]:
                _keep(self._rates, now, rate, smallest=False)
            if not source_limited:
                self._link_limited_at = now
        self._measure_goodput(now)
        self._estimate(now)

    def _measure_goodput(self, now: float) -> None:
        """Over whole stretches in which the link was busy: acknowledgements come in bunches, so the rates of single frames, and
        the largest of them, are too large by a third and more."""
        if self._dry_at >= self._busy_since:
            self._busy_since, self._busy_from = now, self._delivered
        span = now - self._busy_since
        if span >= max(_STRETCH_S, _STRETCH_RTTS * self._rtts[0][1]):
            rate = (self._delivered - self._busy_from) / span
            known = self.goodput_bytes_per_s if self._measured else rate
            self.goodput_bytes_per_s = ((known or rate) + rate) / 2
            self._measured = True
            self._busy_since, self._busy_from = now, self._delivered
        elif not self._measured and self._rates:
            self.goodput_bytes_per_s = self._rates[0][1]

    def demand(self, waiting_bytes: int, now: float) -> EgressDemand:
        """A lease is asked for now."""
        wanted = self._pace.asking(now, waiting_bytes)
        return EgressDemand(len(self._flows), wanted, self._pace.held_bytes_per_s(now), self._delivered)

    def take(self, lease: EgressLease, asked_at: float) -> None:
        """The other processes have their part of the window, so that all of them together fill the link and no more. Until the
        first frames say it themselves, the link is what a probe has measured."""
        self._pace.take(lease, asked_at)
        config = self._config
        self._least_window_bytes = max(int(lease.share * config.min_window_bytes), _LEAST_WINDOW_BYTES)
        self._most_window_bytes = max(int(lease.share * config.max_window_bytes), _LEAST_WINDOW_BYTES)
        if self.goodput_bytes_per_s is not None:
            self.window_bytes = self._bounded(self.window_bytes)
        elif lease.goodput_bytes_per_s is not None and lease.rtt_s is not None:
            rate = lease.share * lease.goodput_bytes_per_s
            self.window_bytes = self._bounded(int(config.window_gain * rate * max(lease.rtt_s, _LEAST_RTT_S)))

    def _bounded(self, window_bytes: int) -> int:
        return min(max(window_bytes, self._least_window_bytes), self._most_window_bytes)

    def _estimate(self, now: float) -> None:
        # Plain attributes: the engine's thread reads them.
        self.rtt_s = self._rtts[0][1]
        if self._rates:
            rate, rtt = self._rates[0][1], max(self._rtts[0][1], _LEAST_RTT_S)
            self.window_bytes = self._bounded(int(self._gain(now) * rate * rtt))
            if now - self._drained_at >= _DRAIN_EVERY_S:
                # Our own queue must not pass for the link's RTT: now and then it is let run empty.
                self._drained_at = now
                self._drain_until = now + self._outstanding / rate + rtt
            if now < self._drain_until:
                self.window_bytes = min(self.window_bytes, int(_DRAIN_GAIN * rate * rtt))
        recent = self._link_limited_at is not None and now - self._link_limited_at < _BOTTLENECK_MEMORY_S
        self.bottleneck_bytes_per_s = self.goodput_bytes_per_s if recent else None

    def _gain(self, now: float) -> float:
        """More until goodput has stopped growing: a link that is new, or was idle for long, may carry far more than it did."""
        goodput, rtt = self._rates[0][1], self._rtts[0][1]
        if goodput > _GROWTH * self._plateau or now - self._estimated_at > _ESTIMATE_MEMORY_S:
            self._plateau, self._plateau_since = goodput, now
        self._estimated_at = now
        return _STARTUP_GAIN if now - self._plateau_since < _PLATEAU_RTTS * rtt else self._config.window_gain

    @property
    def outstanding_bytes(self) -> int:
        return self._outstanding

    def frame_bytes(self, max_payload: int) -> int:
        """Whole frames of at most this size: what the server takes, at least four to a window, and small against the budget."""
        paced = self._pace.frame_bytes()
        size = min(max_payload, self._config.frame_bytes, max(self.window_bytes // 4, 64 << 10))
        return size if paced is None else min(size, paced)

    def validate(self) -> None:
        assert self._outstanding == sum(flow.outstanding_bytes for flow in self._flows.values())
        assert sum(tenant.flows for tenant in self._tenants.values()) == len(self._flows)


class LinkUser(Protocol):
    @property
    def can_write(self) -> bool:
        """Whether the connection below takes more now."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """What it would send by and by, about."""
        ...

    def send_next(self, now: float) -> None: ...


class Link:
    """A LinkCore on the event loop: all writers of one link share one. Belongs to the loop's thread."""

    def __init__(self, config: LinkConfig | None = None, *, leased: bool = False) -> None:
        self.core = LinkCore(config or LinkConfig(), leased=leased, now=time.monotonic())
        self.started_or_ended = asyncio.Event()
        """Set when the first transfer joins and when the last one leaves; for whoever asks for leases."""
        self._users: dict[int, LinkUser] = {}
        self._next_key = 0
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None

    def join(self, user: LinkUser, tenant: str = "") -> int:
        self._next_key += 1
        if not self._users:
            self.started_or_ended.set()
        self._users[self._next_key] = user
        self.core.join(self._next_key, tenant)
        return self._next_key

    def leave(self, key: int) -> None:
        self._users.pop(key, None)
        self.core.leave(key)
        if not self._users:
            self.started_or_ended.set()
        self.pump()

    def demand(self, now: float) -> EgressDemand:
        """A lease is asked for now."""
        return self.core.demand(sum(user.waiting_bytes for user in self._users.values()), now)

    def take(self, lease: EgressLease, asked_at: float) -> None:
        self.core.take(lease, asked_at)
        self.pump()

    def pump(self) -> None:
        """Sends whatever may go. To be called whenever something changed."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while True:
                now = time.monotonic()
                key = self.core.pick(now)
                if key is None or not self._users[key].can_write:
                    break
                self._users[key].send_next(now)
        finally:
            self._pumping = False
        self._wake_with_budget(now)

    def _wake_with_budget(self, now: float) -> None:
        at = self.core.budget_at(now) if self._users else None
        if self._timer is not None:
            self._timer.cancel()  # it may be of another lease
        self._timer = None if at is None else asyncio.get_running_loop().call_later(at - now, self._on_budget)

    def _on_budget(self) -> None:
        self._timer = None
        self.pump()


def _keep(samples: deque[tuple[float, float]], now: float, value: float, *, smallest: bool) -> None:
    """Keeps a sliding minimum (or maximum): later samples push out earlier ones that can never win again."""
    while samples and (samples[-1][1] >= value if smallest else samples[-1][1] <= value):
        samples.pop()
    samples.append((now, value))
    while samples[0][0] < now - _ESTIMATE_MEMORY_S:
        samples.popleft()
