"""Page with the load curves: one chart per case, one line per arm, and the clairvoyant bound."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import plotly.graph_objects as go

from prfaas.replay.charts import MUTED_COLOR, color_of


class KeptPoint(Protocol):
    @property
    def case(self) -> str: ...
    @property
    def arm(self) -> str: ...
    @property
    def load(self) -> float: ...
    @property
    def kept_share(self) -> float: ...


def write_plot(points: Sequence[KeptPoint], bounds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Writes one page that needs no network. Lines are means over the seeds; bars reach from the lowest to the highest seed."""
    arms = list(dict.fromkeys(point.arm for point in points))
    parts: list[str] = []
    for case in dict.fromkeys(point.case for point in points):
        figure = go.Figure(layout=_layout(case))
        for index, arm in enumerate(arms):
            figure.add_trace(_line([point for point in points if point.case == case and point.arm == arm], arm, color_of(index)))
        bound = sorted((float(load), share) for load, share in bounds.get(case, {}).items())
        if bound:
            loads, shares = zip(*bound, strict=True)
            figure.add_trace(go.Scatter(x=loads, y=shares, name="clairvoyant", line={"color": MUTED_COLOR, "dash": "dash"}))
        parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    path.write_text(f"<!doctype html><meta charset='utf-8'><title>Load curves</title>{''.join(parts)}")


def _layout(case: str) -> dict[str, Any]:
    return {
        "title": {"text": case},
        "xaxis": {"title": {"text": "load"}},
        "yaxis": {"title": {"text": "share within the objectives"}, "range": [0, 1.02]},
        "template": "plotly_white",
    }


def _line(points: Sequence[KeptPoint], arm: str, color: str) -> go.Scatter:
    shares: dict[float, list[float]] = {}
    for point in points:
        shares.setdefault(point.load, []).append(point.kept_share)
    loads = sorted(shares)
    means = [sum(shares[load]) / len(shares[load]) for load in loads]
    up = [max(shares[load]) - mean for load, mean in zip(loads, means, strict=True)]
    down = [mean - min(shares[load]) for load, mean in zip(loads, means, strict=True)]
    error = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
    return go.Scatter(x=loads, y=means, name=arm, line={"color": color}, error_y=error)
