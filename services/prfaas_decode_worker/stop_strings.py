"""Stop strings in a stream of text, in which they may come in parts."""

from collections.abc import Sequence


class StopMatcher:
    """Cuts a stream of text before the first stop string, and holds back only what could still become one.

    A stop string counts only where it ends in text that was pushed with `counts`."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self.met = ""
        """Stop string that was met: the first in the text, and of several that begin there the one that was named first."""
        self._held = ""
        self._exempt_chars = 0
        """Length of the part of the held text in which no stop string may end."""

    def push(self, text: str, *, counts: bool = True) -> tuple[str, bool]:
        """Returns what is certain now, and whether a stop string was met; after that nothing more comes."""
        if not self._stop:
            return text, False
        self._held += text
        if not counts:
            self._exempt_chars = len(self._held)
        found = [(at, number) for number, stop in enumerate(self._stop) if (at := self._find(stop)) >= 0]
        if found:
            at, number = min(found)
            self.met = self._stop[number]
            certain, self._held = self._held[:at], ""
            return certain, True
        certain_chars = len(self._held) - max((self._overlap(stop) for stop in self._stop), default=0)
        certain, self._held = self._held[:certain_chars], self._held[certain_chars:]
        self._exempt_chars = max(0, self._exempt_chars - certain_chars)
        return certain, False

    def flush(self) -> str:
        """Returns what was held back for a stop string that did not come."""
        rest, self._held = self._held, ""
        return rest

    def _find(self, stop: str) -> int:
        return self._held.find(stop, max(0, self._exempt_chars - len(stop) + 1))

    def _overlap(self, stop: str) -> int:
        """Returns the length of the longest end of the held text that is a proper start of `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0
