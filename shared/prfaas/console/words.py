"""Figures and others' words as a terminal shows them."""

import time


def plain(text: str) -> str:
    """Returns text of others without what a terminal would obey, such as escape sequences."""
    return "".join(char if char.isprintable() else "\N{MIDDLE DOT}" for char in text)


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value >= 99.5:
        return f"{value:.0f} s"
    if value >= 9.95:
        return f"{value:.1f} s"
    if value >= 0.9995:
        return f"{value:.2f} s"
    return f"{value * 1e3:.0f} ms"


def rate(bytes_per_s: float | None) -> str:
    """Formats a rate in decimal bits, as links are rated."""
    if bytes_per_s is None:
        return "–"
    return _scaled(bytes_per_s * 8, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"))


def size(count_bytes: float) -> str:
    return _scaled(count_bytes, ("B", "kB", "MB", "GB"))


def clock(unix_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(unix_s))


def bar(share: float, width: int) -> str:
    filled = round(min(1.0, max(0.0, share)) * width)
    return "█" * filled + "░" * (width - filled)


def span(start: float, end: float, width: int) -> str:
    """Draws a bar from one share of `width` to another, of one cell at least."""
    first = min(width - 1, int(start * width))
    last = max(first + 1, min(width, round(end * width)))
    return " " * first + "█" * (last - first) + " " * (width - last)


def _scaled(value: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 99.5 or unit == units[0] else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {units[-1]}"
