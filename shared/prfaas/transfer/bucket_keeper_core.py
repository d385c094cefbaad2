"""Decisions what to purge of a site's KV bucket, from looks at it. Pure.

A live receiver has a consumer on its object's subject, and the server drops the consumer of a dead one. So an orphan is a subject
that holds messages and has no consumer. It gets a grace, for a receiver may be between two consumers. Messages that come after a
purge begin a grace of their own: a sender that has not heard yet is no leak.
"""

from typing import NamedTuple


class BucketState(NamedTuple):
    """One look at the bucket. `frames` counts messages by chunk subject, `metas` maps meta to chunk subject,
    `receivers` has the chunk subjects that a consumer reads."""

    frames: dict[str, int]
    metas: dict[str, str]
    receivers: frozenset[str]
    messages: int
    bytes: int

    def orphans(self) -> dict[str, int]:
        """Number of messages by subject, of subjects that hold some and have no consumer."""
        frames = {subject: count for subject, count in self.frames.items() if subject not in self.receivers}
        return frames | {meta: 1 for meta, chunks in self.metas.items() if chunks not in self.receivers}


class Looked(NamedTuple):
    state: BucketState
    now_s: float


class Purged(NamedTuple):
    """A purge of `subject` has removed `messages` messages."""

    subject: str
    messages: int


class Purge(NamedTuple):
    subject: str


class BucketKeeperCore:
    def __init__(self, grace_s: float) -> None:
        self.reclaimed_messages = 0
        """Messages found without a receiver and purged, since the start: what crashes have left behind."""
        self.stored_bytes = 0
        self._grace_s = grace_s
        self._messages = 0
        self._orphans: dict[str, int] = {}
        """Messages by subject at the last look."""
        self._orphan_since: dict[str, float] = {}
        self._overdue: set[str] = set()
        """Orphans past their grace that no purge has emptied."""

    @property
    def leaked_bytes(self) -> int:
        """Bytes past their grace that are still there: an orphan's share of the bucket, by messages."""
        messages = sum(self._orphans[subject] for subject in self._overdue)
        return self.stored_bytes * messages // max(self._messages, 1)

    def handle(self, event: Looked | Purged) -> list[Purge]:
        match event:
            case Looked(state, now_s):
                self.stored_bytes, self._messages = state.bytes, state.messages
                before, self._orphans = self._orphans, state.orphans()
                self._orphan_since = {
                    # Fewer than at the last look: another decode worker has purged it, and what is there now is late and new.
                    subject: self._orphan_since.get(subject, now_s) if messages >= before.get(subject, 0) else now_s
                    for subject, messages in self._orphans.items()
                }
                self._overdue = {
                    subject for subject, since in self._orphan_since.items() if now_s - since >= self._grace_s
                }  # fmt: skip
                return [Purge(subject) for subject in sorted(self._overdue)]
            case Purged(subject, messages):
                self.reclaimed_messages += messages
                if messages >= self._orphans.get(subject, 0):
                    # All that was seen is gone: what comes now has a grace of its own.
                    self._overdue.discard(subject)
                    self._orphan_since.pop(subject, None)
                return []

    def validate(self) -> None:
        assert self._overdue <= self._orphans.keys()
        assert self._orphan_since.keys() <= self._orphans.keys()
        assert self.leaked_bytes <= self.stored_bytes
