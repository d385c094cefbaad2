"""Time that a worker takes to compute tokens at their place in a prompt, as it has observed it.

A token attends to all before it, so its time is a line over its position: least squares, in which old observations fade.
"""

_FADING = 0.98
"""Weight of an observation in the next one's eyes: about the last 50 chunks count."""


class ComputeSpeed:
    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, start: int, end: int, seconds: float) -> None:
        """Takes the time of the chunk of tokens [start, end) of a prompt."""
        position, token_s = (start + end) / 2, seconds / (end - start)
        self._weight = self._weight * _FADING + 1
        self._x = self._x * _FADING + position
        self._y = self._y * _FADING + token_s
        self._xx = self._xx * _FADING + position * position
        self._xy = self._xy * _FADING + position * token_s

    def seconds(self, start: int, end: int) -> float:
        """Predicts the time of tokens [start, end), s. Before anything is observed all tokens take a second."""
        if not self._weight:
            return float(end - start)
        mean_position, mean_s = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - mean_position**2
        slope = 0.0
        if spread > 1.0:
            slope = (self._xy / self._weight - mean_position * mean_s) / spread
        # Neither falls with the position nor is below nothing at the prompt's start: a few noisy points may say so.
        slope = min(max(slope, 0.0), mean_s / mean_position) if mean_position else 0.0
        return (end - start) * (mean_s + slope * ((start + end) / 2 - mean_position))
