"""Placements that the gateway makes itself while no scheduler answers: short prompts, prefilled at home."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from prfaas.contracts.terms import Outcome, Role
from prfaas.contracts.to_gateway import Placement
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_gateway.job import Job


@dataclass(frozen=True, kw_only=True)
class HomeLimits:
    """Bounds of what a gateway places by itself."""

    after_s: float
    """Silence of the schedulers from which on it does."""
    tokens: int
    """Longest prompt; 0: it never does."""
    requests: int
    """Most of them in flight at once."""


class HomePlacement:
    """Pure: heartbeats of the own site's workers in, placements out."""

    def __init__(self, site: str, limits: HomeLimits) -> None:
        self._site = site
        self._limits = limits
        self._beats: dict[str, Heartbeat] = {}
        """Latest heartbeat of each worker of the site, by its key."""
        self._heard_at: dict[str, float] = {}
        """Moments of these heartbeats."""
        self._placed_since: Counter[str] = Counter()
        """Own placements on each decode worker since its last heartbeat, which does not show them yet."""
        self._in_flight: set[str] = set()

    @property
    def in_flight(self) -> int:
        """Number of requests that this gateway has placed itself and that are not over."""
        return len(self._in_flight)

    def handle_beat(self, key: str, beat: Heartbeat | None, now_s: float) -> None:
        """Takes a heartbeat, or None for a worker without one any more."""
        self._placed_since.pop(key, None)
        self._beats.pop(key, None)
        self._heard_at.pop(key, None)
        if beat is not None and beat.site == self._site:
            self._beats[key] = beat
            self._heard_at[key] = now_s

    def place(self, job: Job, silent_s: float, refused_by: Collection[str], now_s: float) -> Placement | None:
        """Returns where a request runs, none of `refused_by`; None where it has to wait for a scheduler.

        Only workers count that were heard while the schedulers were silent: when the site's server stands still, no one is."""
        prompt_tokens = len(job.token_ids)
        if silent_s < self._limits.after_s or prompt_tokens > self._limits.tokens:
            return None
        if job.request_id not in self._in_flight and len(self._in_flight) >= self._limits.requests:
            return None
        decoder = self._least_loaded(job.model, refused_by, now_s - silent_s)
        if decoder is None:
            return None
        self._placed_since[decoder.key] += 1
        self._in_flight.add(job.request_id)
        return Placement(
            transfer_id=job.request_id,
            prefill_site=self._site,
            decode_worker=decoder.worker,
            outcome=Outcome.LOCAL_NO_SCHEDULER,
            reason=(
                f"no scheduler has answered for {silent_s:.1f} s, and {prompt_tokens} tokens are no more than the "
                f"{self._limits.tokens} that the gateway places at home by itself"
            ),
            fallback_after_s=max(0.0, job.left_s),
        )

    def end(self, request_id: str) -> None:
        """Takes that a request is over, or was placed by a scheduler after all. An unknown one changes nothing."""
        self._in_flight.discard(request_id)

    def _least_loaded(self, model: str, refused_by: Collection[str], since_at: float) -> Heartbeat | None:
        """Returns a decode worker with room, for which the site's prefill workers make KV."""
        live = [
            beat
            for key, beat in self._beats.items()
            if beat.model == model and not beat.draining and self._heard_at[key] >= since_at
        ]
        made = {beat.fingerprint for beat in live if beat.role is Role.PREFILL}
        free = [
            beat
            for beat in live
            if beat.role is Role.DECODE and beat.fingerprint in made and beat.worker not in refused_by
            if self._load(beat) < beat.slots + beat.waiting_limit
        ]
        return min(free, key=lambda beat: (self._load(beat) - beat.slots, beat.worker), default=None)

    def _load(self, beat: Heartbeat) -> int:
        return beat.running + beat.waiting + self._placed_since[beat.key]
