"""Grafana dashboard of a deployment, made from one table of panels: `python -m infra.observability.dashboard` writes it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

PATH = Path(__file__).parent / "grafana" / "dashboards" / "prfaas.json"
_SOURCE = {"type": "prometheus", "uid": "prometheus"}
_COLUMNS = 3
_WIDTH, _HEIGHT = 24 // _COLUMNS, 8
"""Size of a panel on Grafana's grid of 24 columns."""


class Panel(NamedTuple):
    title: str
    unit: str
    """Grafana's name of the unit."""
    queries: dict[str, str]
    """PromQL by legend."""


def quantiles(metric: str) -> dict[str, str]:
    """Returns queries for P50, P90 and P99 of a histogram."""
    return {
        f"P{percent}": f"histogram_quantile({percent / 100:g}, sum by (le) (rate({metric}_bucket[$__rate_interval])))"
        for percent in (50, 90, 99)
    }


def rates(counter: str, *labels: str) -> dict[str, str]:
    """Returns the counter's rate, summed by labels, which are the legend."""
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    return {legend: f"sum by ({', '.join(labels)}) (rate({counter}[$__rate_interval]))"}


ROWS: dict[str, tuple[Panel, ...]] = {
    "What clients see": (
        Panel("Time to first token", "s", quantiles("vllm:time_to_first_token_seconds")),
        Panel("Time between tokens", "s", quantiles("vllm:inter_token_latency_seconds")),
        Panel("Request to last token", "s", quantiles("vllm:e2e_request_latency_seconds")),
        Panel("Requests by outcome", "reqps", rates("prfaas_requests_total", "outcome", "prefill_site")),
        Panel("Requests that failed", "reqps", rates("prfaas_request_failures_total", "code")),
        Panel("Requests in flight", "short", {"open": "sum(prfaas_gateway_open_requests)"}),
    ),
    "Placement": (
        Panel("Placements", "reqps", rates("prfaas_placements_total", "outcome", "prefill_site")),
        Panel("Refusals", "reqps", rates("prfaas_placement_refusals_total", "code")),
        Panel("Time of a decision", "s", quantiles("prfaas_placement_seconds")),
        Panel("Live workers", "short", {"{{site}} {{role}}": "max by (site, role) (prfaas_workers)"}),
        Panel("Breakers that are not closed", "short", {"{{prefill_site}}": "max by (prefill_site) (prfaas_breaker_open)"}),
        Panel("Role changes", "ops", rates("prfaas_role_changes_total", "to_role", "result")),
    ),
    "Links and KV": (
        Panel(
            "KV over a link",
            "Bps",
            {
                **rates("prfaas_kv_sent_bytes_total", "source", "destination"),
                "goodput {{source}} to {{destination}}": "max by (source, destination) (prfaas_link_goodput_bytes_per_second)",
                "budget {{source}} to {{destination}}": "max by (source, destination) (prfaas_link_budget_bytes_per_second)",
            },
        ),
        Panel("Round trip", "s", {"{{source}} to {{destination}}": "max by (source, destination) (prfaas_link_rtt_seconds)"}),
        Panel("Probes without an answer", "ops", rates("prfaas_link_probe_failures_total", "source", "destination")),
        Panel("Transfers by result", "ops", rates("prfaas_kv_transfers_total", "source", "destination", "result")),
        Panel("Residual of a transfer", "s", quantiles("prfaas_kv_transfer_residual_seconds")),
        Panel(
            "KV that lies in a bucket",
            "bytes",
            {
                "stored {{site}}": "max by (site) (prfaas_kv_stored_bytes)",
                "leaked {{site}}": "max by (site) (prfaas_kv_leaked_bytes)",
            },
        ),
    ),
    "Workers": (
        Panel("Prefilled tokens", "short", rates("prfaas_prefilled_tokens_total", "site", "name")),
        Panel("Wait for a prefill worker", "s", quantiles("vllm:request_queue_time_seconds")),
        Panel(
            "Prefix cache hits",
            "percentunit",
            {
                "{{site}}": "sum by (site) (rate(vllm:prefix_cache_hits_total[$__rate_interval]))"
                " / sum by (site) (rate(vllm:prefix_cache_queries_total[$__rate_interval]))"
            },
        ),
        Panel("Decoded tokens", "short", rates("prfaas_decoded_tokens_total", "site", "name")),
        Panel(
            "Batch",
            "short",
            {
                "running {{name}}": "sum by (name) (vllm:num_requests_running)",
                "waiting {{name}}": "sum by (name) (vllm:num_requests_waiting)",
            },
        ),
        Panel("KV cache in use", "percentunit", {"{{site}} {{name}}": "max by (site, name) (vllm:kv_cache_usage_perc)"}),
    ),
    "Processes": (
        Panel("Resident memory", "bytes", {"{{site}} {{name}}": "process_resident_memory_bytes"}),
        Panel("CPU", "percentunit", rates("process_cpu_seconds_total", "site", "name")),
        Panel("Open descriptors", "short", {"{{site}} {{name}}": "process_open_fds"}),
    ),
}


def queries() -> list[str]:
    """Returns every query of the dashboard."""
    return [query for panels in ROWS.values() for panel in panels for query in panel.queries.values()]


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "gridPos": {"x": 0, "y": top, "w": 24, "h": 1}, "panels": []})
        top += 1
        for index, panel in enumerate(row):
            at = {"x": index % _COLUMNS * _WIDTH, "y": top + index // _COLUMNS * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
            panels.append(_time_series(panel, at))
        top += -(-len(row) // _COLUMNS) * _HEIGHT
    for number, entry in enumerate(panels, start=1):
        entry["id"] = number
    return {
        "uid": "prfaas",
        "title": "prfaas",
        "schemaVersion": 39,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "panels": panels,
    }


def _time_series(panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "gridPos": at,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def rendered() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(rendered())
    print(PATH)
