"""Figures as a reader sees them."""


def seconds(value_s: float | None) -> str:
    if value_s is None:
        return "-"
    if abs(value_s) < 1:
        return milliseconds(value_s)
    return f"{value_s:.2f} s" if value_s < 100 else f"{value_s:,.0f} s"


def milliseconds(value_s: float | None) -> str:
    if value_s is None:
        return "-"
    value_ms = value_s * 1e3
    if abs(value_ms) >= 100:
        return f"{value_ms:,.0f} ms"
    return f"{value_ms:.1f} ms" if abs(value_ms) >= 10 else f"{value_ms:.2f} ms"


def moment(started_at: str) -> str:
    """`started_at` of a result, to the second."""
    return f"{started_at[:19].replace('T', ' ')} UTC"


def rate(value: float) -> str:
    return f"{value:.2f}/s" if value < 100 else f"{value:,.0f}/s"


def share(value: float) -> str:
    return f"{value:.1%}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def short_seconds(value_s: float) -> str:
    """Label of an axis: as few digits as it takes."""
    if value_s < 1e-3:
        return f"{value_s * 1e6:g} µs"
    return f"{value_s * 1e3:g} ms" if value_s < 1 else f"{value_s:g} s"


def short_count(value: float) -> str:
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
