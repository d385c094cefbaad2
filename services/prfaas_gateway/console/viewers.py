"""Places of those who watch the console. Pure."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from prfaas_gateway.openai.errors import ApiError, overloaded

RETRY_AFTER_S = 10.0


class Viewers:
    """Bounds on viewers: of all, and of one client, which takes no more than half of the places."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_one = max(1, (most + 1) // 2)
        self._of_client: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._of_client.total()

    @contextmanager
    def enter(self, client: str) -> Iterator[None]:
        """Holds a place. Raises ApiError 429 where there is none."""
        if len(self) >= self._most or self._of_client[client] >= self._most_of_one:
            raise self._full()
        self._of_client[client] += 1
        try:
            yield
        finally:
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def _full(self) -> ApiError:
        message = f"The console has {len(self)} viewers of at most {self._most}, or too many of yours; close one of them."
        return overloaded(message, RETRY_AFTER_S)

    def validate(self) -> None:
        assert len(self) <= self._most
        assert all(0 < count <= self._most_of_one for count in self._of_client.values())
