"""Metrics that PromQL expressions of dashboard and alerts name, and whether services expose them."""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

ALERTS = Path(__file__).parent / "alerts.yml"
_METRIC = re.compile(r"(?<![\w:\"$])(?:prfaas_|vllm:|process_)[a-z0-9_:]+")
_SERIES_SUFFIX = re.compile(r"_(?:bucket|count|sum|total)$")


class Rule(msgspec.Struct):
    """Alert or recorded series."""

    expr: str
    alert: str | None = None
    record: str | None = None


class _Group(msgspec.Struct):
    rules: list[Rule]


class _Rules(msgspec.Struct):
    groups: list[_Group]


def rules() -> list[Rule]:
    """Returns all alerting and recording rules."""
    return [rule for group in msgspec.yaml.decode(ALERTS.read_bytes(), type=_Rules).groups for rule in group.rules]


def family(name: str) -> str:
    """Returns the metric that a series belongs to, without the endings that differ between text formats."""
    return _SERIES_SUFFIX.sub("", name)


def metrics(expression: str) -> set[str]:
    """Returns the metrics that an expression selects; recorded ones (`prfaas:...`) are not among them."""
    return {family(name) for name in _METRIC.findall(expression)}


def unknown(expressions: Iterable[str], families: set[str]) -> dict[str, set[str]]:
    """Returns the expressions that name metrics which are no exposed family, and these metrics."""
    exposed = {family(name) for name in families}
    missing = {expression: metrics(expression) - exposed for expression in expressions}
    return {expression: names for expression, names in missing.items() if names}
