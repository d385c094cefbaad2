"""One answer from the events of several decode workers, each of which went on where the one before was lost."""

from msgspec.structs import replace

from prfaas.contracts.to_gateway import Failed, Finished, Started, Tokens


class JoinedAnswer:
    """Pure. Numbers the events of all placements as if one decode worker had sent them: a gap within one stays a gap."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        """Tokens of the answer that have been taken."""
        self._taken = 0
        """Events that have been passed on."""
        self.started: Started | None = None
        """Beginning of the latest placement that has begun."""
        self._offset = 0
        """Difference between the numbers of the whole answer and those of the present placement."""

    def place_again(self) -> None:
        """Begins with the events of another placement, which number from 0."""
        self._offset = self._taken - (self.started is not None)

    def take(self, event: Started | Tokens | Finished | Failed) -> Started | Tokens | Finished | Failed | None:
        """Returns the event as one of the whole answer, which starts once: None for a second Started."""
        if isinstance(event, Started):
            again, self.started = self.started is not None, event
            if again:
                return None
        if isinstance(event, Tokens):
            self.token_ids += event.token_ids
        self._taken += 1
        return replace(event, sequence=event.sequence + self._offset) if self._offset else event
