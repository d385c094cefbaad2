"""The wall clock of this process: every moment that leaves it as a Unix time is read here."""

import time

_shift_s = 0.0


def unix_s() -> float:
    return time.time() + _shift_s


def shift_for_test(by_s: float) -> None:
    """Sets this process's clock `by_s` seconds ahead of the host's, as a host without NTP would have it."""
    global _shift_s
    _shift_s = by_s
