"""One link on the event loop: sends the heads of its transfers whenever window, budget and connection allow it."""

import asyncio
import time
from typing import Protocol

from prfaas.contracts.to_prefill import EgressLease
from prfaas.contracts.to_probe import EgressAsked
from prfaas.link.config import LinkConfig
from prfaas.link.estimate import Sent
from prfaas.link.link_core import LinkCore


class LinkUser(Protocol):
    @property
    def can_write(self) -> bool:
        """True while the connection below takes more."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Estimate of the bytes that are framed or held and not sent."""
        ...

    def send_next(self, sent: Sent) -> None:
        """Sends the head that was offered last, then offers the next one. Must not call `Link.pump`."""
        ...


class Link:
    """A LinkCore for all senders of one link. Belongs to the loop's thread."""

    def __init__(self, config: LinkConfig | None = None, *, leased: bool = False) -> None:
        self.core = LinkCore(config or LinkConfig(), leased=leased, now_s=time.monotonic())
        self.started_or_ended = asyncio.Event()
        """Set when the first transfer joins and when the last one leaves, for the task that asks for leases."""
        self._users: dict[int, LinkUser] = {}
        self._next_key = 0
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """True while it has transfers."""
        return bool(self._users)

    def join(self, user: LinkUser, tenant: str = "", *, background: bool = False) -> int:
        self._next_key += 1
        if not self._users:
            self.started_or_ended.set()
        self._users[self._next_key] = user
        self.core.join(self._next_key, tenant, background=background)
        return self._next_key

    def leave(self, key: int) -> None:
        self._users.pop(key, None)
        self.core.leave(key)
        if not self._users:
            self.started_or_ended.set()
        self.pump()

    def ask(self, worker: str, destination: str, now_s: float) -> EgressAsked:
        """The question for a lease, asked now."""
        return self.core.ask(worker, destination, sum(user.waiting_bytes for user in self._users.values()), now_s)

    def take(self, lease: EgressLease, asked_at: float) -> None:
        self.core.take(lease, asked_at)
        self.pump()

    def pump(self) -> None:
        """Sends what may go. To be called whenever something changed."""
        if self._pumping:
            return  # a transport that resumes while it is written to calls back
        self._pumping = True
        try:
            while True:
                now_s = time.monotonic()
                key = self.core.pick(now_s)
                if key is None or not self._users[key].can_write:
                    break
                self._users[key].send_next(self.core.sent(key, now_s))
        finally:
            self._pumping = False
        self._wake_with_budget(now_s)

    def _wake_with_budget(self, now_s: float) -> None:
        at = self.core.budget_at(now_s) if self._users else None
        if self._timer is not None:
            self._timer.cancel()  # it may be of another lease
        self._timer = None if at is None else asyncio.get_running_loop().call_later(at - now_s, self._on_budget)

    def _on_budget(self) -> None:
        self._timer = None
        self.pump()
