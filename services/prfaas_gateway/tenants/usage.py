"""Use that one tenant makes of its limits at one gateway. Pure: moments of one clock, in s, come in with the calls."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from prfaas.capacity.observed import RecentMean
from prfaas.secrets.tenants_file import Limits
from prfaas_gateway.tenants.bucket import Bucket

MINUTE_S: Final = 60.0
DAY_S: Final = 86400.0
_LEAST_RETRY_S: Final = 1.0


class Limit(StrEnum):
    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    REQUESTS_AT_ONCE = "requests_at_once"
    LINK_BYTES_PER_DAY = "link_bytes_per_day"


class LimitReached(NamedTuple):
    """Refusal of a request."""

    limit: Limit
    allowed: float
    """This gateway's part of the limit."""
    retry_after_s: float | None
    """Time after which the same request is taken, should the tenant ask for nothing else; None: never."""


@dataclass(eq=False)
class Place:
    """One request of the tenant that has been let in."""

    entered_at_s: float
    answers: int = 1
    """Answers that it asks for at once."""
    reserved_tokens: int = 0


class Quota(NamedTuple):
    """State of one limit, as rate limit headers show it."""

    limit: int
    remaining: int
    reset_s: float
    """Time until all of it may be used again, should the tenant ask for nothing."""


class Usage:
    """A request is let in before its body is read, reserves its tokens once they are counted, and settles when it ends."""

    def __init__(self, limits: Limits, gateways: int, now_s: float) -> None:
        """`gateways` have an equal part of each limit."""
        self._gateways = gateways
        self._buckets: dict[Limit, Bucket] = {}
        self._at_once: int | None = None
        self._places: dict[Place, None] = {}  # the oldest first
        self._duration_s = RecentMean()
        self._tokens = RecentMean()
        self.change(limits, now_s)

    @property
    def running(self) -> int:
        """Requests at once: one that asks for several answers is as many."""
        return sum(place.answers for place in self._places)

    def change(self, limits: Limits, now_s: float) -> None:
        """Takes other limits. What was used stays used, and what runs goes on."""
        share = 1 / self._gateways
        self._at_once = None if limits.requests_at_once is None else max(1, int(limits.requests_at_once * share))
        for limit, amount, period_s in (
            (Limit.REQUESTS_PER_MINUTE, limits.requests_per_minute, MINUTE_S),
            (Limit.TOKENS_PER_MINUTE, limits.tokens_per_minute, MINUTE_S),
            (Limit.LINK_BYTES_PER_DAY, limits.link_bytes_per_day, DAY_S),
        ):
            if amount is None:
                self._buckets.pop(limit, None)
                continue
            # One whole request, token or byte must fit into a gateway's part.
            capacity, per_s = max(1.0, amount * share), amount * share / period_s
            if limit in self._buckets:
                self._buckets[limit].resize(capacity, per_s, now_s)
            else:
                self._buckets[limit] = Bucket(capacity, per_s, now_s)

    def enter(self, now_s: float) -> Place | LimitReached:
        """Lets a request in and counts it, or says which limit keeps it out: then nothing is counted."""
        if self._at_once is not None and self.running >= self._at_once:
            return self._at_once_reached(self._at_once, next(iter(self._places)), now_s)
        waits = [
            LimitReached(limit, bucket.capacity, bucket.seconds_until(self._usual(limit, bucket), now_s))
            for limit, bucket in self._buckets.items()
            if bucket.seconds_until(1, now_s) > 0
        ]
        if waits:
            return max(waits, key=lambda wait: wait.retry_after_s or 0.0)
        if requests := self._buckets.get(Limit.REQUESTS_PER_MINUTE):
            requests.take(1, now_s)
        place = Place(now_s)
        self._places[place] = None
        return place

    def widen(self, place: Place, answers: int, now_s: float) -> LimitReached | None:
        """Takes that a request asks for several answers at once, or says that these are too many: then it stays one."""
        if self._at_once is not None and self.running - place.answers + answers > self._at_once:
            if answers > self._at_once:
                return LimitReached(Limit.REQUESTS_AT_ONCE, self._at_once, None)
            return self._at_once_reached(self._at_once, next(each for each in self._places if each is not place), now_s)
        place.answers = answers
        return None

    def _at_once_reached(self, at_once: int, oldest: Place, now_s: float) -> LimitReached:
        ends_in_s = oldest.entered_at_s + self._duration_s.value - now_s
        return LimitReached(Limit.REQUESTS_AT_ONCE, at_once, max(_LEAST_RETRY_S, ends_in_s))

    def _usual(self, limit: Limit, bucket: Bucket) -> float:
        """Returns what one request usually takes: sooner it would be let in, and refused when its tokens are counted."""
        return min(bucket.capacity, max(1.0, self._tokens.value)) if limit is Limit.TOKENS_PER_MINUTE else 1.0

    def reserve(self, place: Place, tokens: int, now_s: float) -> LimitReached | None:
        """Takes the most tokens that a request may use, or says that there are too few: then none are taken."""
        if (bucket := self._buckets.get(Limit.TOKENS_PER_MINUTE)) is None:
            return None
        wait_s = bucket.seconds_until(tokens, now_s)
        if tokens > bucket.capacity:
            return LimitReached(Limit.TOKENS_PER_MINUTE, bucket.capacity, None)
        if wait_s > 0:
            return LimitReached(Limit.TOKENS_PER_MINUTE, bucket.capacity, wait_s)
        bucket.take(tokens, now_s)
        self._tokens.observe(tokens)
        place.reserved_tokens = tokens
        return None

    def ship(self, link_bytes: int, now_s: float) -> None:
        """Counts bytes that have crossed a link: they may exceed what was left, and then keep later requests out for longer."""
        if bucket := self._buckets.get(Limit.LINK_BYTES_PER_DAY):
            bucket.take(link_bytes, now_s)

    def leave(self, place: Place, used_tokens: int, now_s: float) -> None:
        """Ends a request. Reserved tokens that it did not use may be used by others."""
        del self._places[place]
        self._duration_s.observe(now_s - place.entered_at_s)
        if bucket := self._buckets.get(Limit.TOKENS_PER_MINUTE):
            bucket.take(min(used_tokens - place.reserved_tokens, 0), now_s)

    def quota(self, limit: Limit, now_s: float) -> Quota | None:
        """Returns None for what is not limited, and for the limits that have no headers."""
        if (bucket := self._buckets.get(limit)) is None:
            return None
        level = bucket.level(now_s)
        return Quota(int(bucket.capacity), max(0, int(level)), bucket.seconds_until(bucket.capacity, now_s))

    def validate(self) -> None:
        for bucket in self._buckets.values():
            bucket.validate()
